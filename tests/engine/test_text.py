"""Text leaves the engine in whole characters, in order, and never as part of a stop string."""

from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
from tokenizers import Tokenizer

import sightline
from sightline.engine.text import TextStream

TEXTS = [
    "plain words, then more words",
    "图片中有三只猫。它们在看书,很安静。",
    "family 👨‍👩‍👧‍👦 and flag 🇨🇭 and é, ü, ñ",
    "mixed 中文 and 🎉🎉 ends",
]


def stream_bytes(pieces: list[bytes], stop: tuple[str, ...] = ()) -> tuple[list[str], str, TextStream]:
    """Push the pieces as tokens 0, 1, ...: what each made safe to send, the rest, and the stream."""
    stream = TextStream(pieces.__getitem__, stop)
    return [stream.push(i) for i in range(len(pieces))], stream.flush(), stream


def cut(text: str, stop: tuple[str, ...]) -> str:
    return text[: min((text.find(s) for s in stop if s in text), default=len(text))]


def split(data: bytes, rng: np.random.Generator) -> list[bytes]:
    at = np.sort(rng.integers(0, len(data) + 1, size=rng.integers(0, len(data) + 1)))
    bounds = [0, *at.tolist(), len(data)]
    return [data[a:b] for a, b in pairwise(bounds)]


@pytest.mark.row("T12")
@pytest.mark.parametrize("text", TEXTS)
def test_each_byte_alone_still_gives_whole_characters(text: str):
    pushed, rest, _ = stream_bytes([bytes([b]) for b in text.encode()])
    assert "".join(pushed) == text
    assert rest == ""
    assert "�" not in "".join(pushed)


def test_a_character_arrives_with_its_last_byte():
    pushed, rest, _ = stream_bytes([b"\xf0\x9f", b"\x8e", b"\x89!"])
    assert (pushed, rest) == (["", "", "🎉!"], "")


def test_bytes_that_can_no_longer_become_a_character_are_replaced_at_once_and_half_a_character_at_the_end():
    pushed, rest, _ = stream_bytes([b"a\xff", b"b\xe4\xb8", b"c\xe4"])
    assert (pushed, rest) == (["a�", "b", "�c"], "�")


def test_the_demo_tokenizer_gives_back_chinese_and_emoji_token_by_token():
    folder = Path(sightline.__file__).parent / "demo_model"
    tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
    to_byte = {chr(c): c for c in [*range(33, 127), *range(161, 173), *range(174, 256)]}
    to_byte |= {chr(256 + i): c for i, c in enumerate(c for c in range(256) if chr(c) not in to_byte)}
    for text in TEXTS:
        ids = tokenizer.encode(text).ids
        stream = TextStream(lambda i: bytes(to_byte[c] for c in tokenizer.id_to_token(i)))
        assert "".join(map(stream.push, ids)) + stream.flush() == text


@pytest.mark.row("T12")
def test_a_stop_string_across_tokens_ends_the_text_before_it():
    pushed, rest, stream = stream_bytes([b"one ST", b"O", b"P two", b"three"], ("STOP",))
    assert (pushed, rest) == (["one ", "", "", ""], "")
    assert stream.stopped


def test_a_stop_string_inside_one_token_ends_the_text_before_it():
    pushed, rest, stream = stream_bytes([b"a", b"b\nUser: c"], ("\nUser",))
    assert (pushed, rest, stream.stopped) == (["a", "b"], "", True)


def test_what_looked_like_a_stop_but_was_none_is_sent_when_that_is_clear():
    pushed, rest, stream = stream_bytes([b"a ##", b"# b", b" ##"], ("####",))
    assert (pushed, rest, stream.stopped) == (["a ", "### b", " "], "##", False)


def test_the_stop_that_starts_first_wins_even_when_another_inside_it_is_complete_sooner():
    assert stream_bytes([b"xab", b"c", b"d"], ("abcd", "bc"))[0] == ["x", "", ""]
    pushed, rest, stream = stream_bytes([b"xab", b"c", b"e"], ("abcd", "bc"))
    assert (pushed, rest, stream.stopped) == (["x", "", "a"], "", True)


def test_a_stop_that_waited_for_a_longer_one_counts_when_the_text_ends():
    pushed, rest, stream = stream_bytes([b"xabc"], ("abcd", "bc"))
    assert (pushed, rest, stream.stopped) == (["x"], "a", True)


def test_a_chinese_stop_string_split_inside_its_bytes_is_found():
    data = "答案是猫。结束 再见".encode()
    pushed, rest, stream = stream_bytes([data[i : i + 2] for i in range(0, len(data), 2)], ("。结束",))
    assert ("".join(pushed) + rest, stream.stopped) == ("答案是猫", True)


def test_however_the_bytes_fall_the_pieces_are_the_text_up_to_its_first_stop():
    rng = np.random.default_rng(1)
    for _ in range(3000):
        text = "".join(rng.choice(list("ab中🎉"), size=rng.integers(0, 16)))
        stop = tuple("".join(rng.choice(list("ab中🎉"), size=rng.integers(1, 5))) for _ in range(rng.integers(0, 4)))
        pushed, rest, stream = stream_bytes(split(text.encode(), rng), stop)
        assert "".join(pushed) + rest == cut(text, stop), (text, stop)
        assert stream.stopped == any(s in text for s in stop)


def test_random_bytes_decode_as_they_would_in_one_piece():
    rng = np.random.default_rng(2)
    alphabet = np.frombuffer("a中🎉é".encode() + b"\xff\xc0\xed\xa0", np.uint8)
    for _ in range(2000):
        data = rng.choice(alphabet, size=rng.integers(0, 12)).tobytes()
        pushed, rest, _ = stream_bytes(split(data, rng))
        assert "".join(pushed) + rest == data.decode("utf-8", "replace")


def test_nothing_sent_could_still_have_become_a_stop():
    rng = np.random.default_rng(3)
    for _ in range(1000):
        text = "".join(rng.choice(list("abc"), size=12))
        stop = ("".join(rng.choice(list("abc"), size=4)), "".join(rng.choice(list("abc"), size=3)))
        stream, sent = TextStream(lambda i, text=text: text[i].encode(), stop), ""
        for i in range(len(text)):
            sent += stream.push(i)
            held = text[len(sent) : i + 1]
            assert stream.stopped or not any(
                s.startswith(text[start : i + 1]) for s in stop for start in range(len(sent))
            )
            assert stream.stopped or held == "" or any(s.startswith(held) for s in stop) or any(s in held for s in stop)
