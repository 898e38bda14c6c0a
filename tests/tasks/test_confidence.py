"""A confidence is a geometric mean of token probabilities, and a field's is that of its own tokens."""

import json
import math

import pytest

from sightline.tasks.confidence import of_json, of_tokens, values
from sightline.types import TokenLogprob


def tokens(*pairs):
    return [TokenLogprob(text, text.encode(), math.log(p)) for text, p in pairs]


def test_a_text_is_as_sure_as_the_geometric_mean_of_its_tokens():
    assert of_tokens(tokens(("39", 0.9), (".", 0.4))) == pytest.approx(math.sqrt(0.9 * 0.4))


def test_a_sure_text_is_never_over_one_and_an_empty_one_is_zero():
    assert of_tokens([TokenLogprob("a", b"a", 1e-7)]) == 1.0
    assert of_tokens([]) == 0.0


def test_only_the_tokens_of_values_count():
    written = tokens(('{"', 1e-9), ("total", 1e-9), ('":', 1e-9), (" ", 1e-9), ("39", 0.5), (".5", 0.5), ("}", 1e-9))
    assert of_json(written) == (pytest.approx(0.5), {"total": pytest.approx(0.5)})


def test_a_token_that_ends_a_value_and_opens_the_next_counts_for_both():
    written = tokens(('["', 1e-9), ("a", 0.9), ('","b', 0.4), ('"]', 1e-9))
    sure, fields = of_json(written)
    assert fields == {"[0]": pytest.approx(0.9), "[1]": pytest.approx(0.4)}
    assert sure == pytest.approx(math.sqrt(0.9 * 0.4))
    assert of_json(tokens(("[1", 0.5), (",2]", 0.2)))[1] == {"[0]": pytest.approx(0.5), "[1]": pytest.approx(0.2)}
    assert of_json(tokens(("[1,2]", 0.5)))[1] == {"[0]": pytest.approx(0.5), "[1]": pytest.approx(0.5)}


def test_json_without_values_counts_whole():
    assert of_json(tokens(("[", 0.5), ("]", 0.5))) == (pytest.approx(0.5), {})


def test_half_characters_are_found_by_their_bytes():
    first, second = "é".encode()[:1], "é".encode()[1:]
    written = [TokenLogprob("", b'["' + first, math.log(0.5)), TokenLogprob("", second + b'"]', math.log(0.2))]
    assert of_json(written)[1] == {"[0]": pytest.approx(math.sqrt(0.1))}


DOCUMENT = {
    "a": "x",
    "e": {},
    "b": [1, -2.5e3, {"c": True, "d": None}, [], [[]], ""],
    'k"{,': 'v\\"]}',
    "n": {"m": {"o": False}},
    "汉": "字",
}


@pytest.mark.parametrize("layout", [{}, {"indent": 1}, {"separators": (",", ":"), "ensure_ascii": False}])
def test_every_value_is_found_under_its_path(layout):
    raw = json.dumps(DOCUMENT, **layout).encode()
    found = {path: raw[start:end] for path, start, end in values(raw)}
    assert list(found) == ["a", "b[0]", "b[1]", "b[2].c", "b[2].d", "b[5]", 'k"{,', "n.m.o", "汉"]
    assert (found["a"], found["b[1]"], found["b[2].d"], found["b[5]"]) == (b"x", b"-2500.0", b"null", b'""')
    assert json.loads(b'"' + found["汉"] + b'"') == "字"


def test_a_bare_value_has_an_empty_path_and_depth_is_no_trouble():
    assert list(values(b" 12 ")) == [("", 1, 3)]
    assert list(values(b'"hi"')) == [("", 1, 3)]
    assert len(list(values(b"[" * 20_000 + b"1" + b"]" * 20_000))) == 1
