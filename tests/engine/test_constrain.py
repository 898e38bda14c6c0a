"""An answer under a grammar is always JSON that satisfies it, and a schema we cannot keep is refused by name."""

import json
import re
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import pytest
from tokenizers import Tokenizer

from sightline.engine.constrain import MAX_SCHEMA_BYTES, Constraint, GrammarCompiler
from sightline.errors import CheckpointError, InternalError, InvalidSchema
from sightline.types import Grammar
from small_checkpoints import FIXTURES

SIZE, END, END_OF_TEXT, START = 1024, 981, 979, 980
DEFINITION = (FIXTURES / "tokenizer" / "tokenizer.json").read_text(encoding="utf-8")


@pytest.fixture(scope="module")
def compiler() -> GrammarCompiler:
    return GrammarCompiler(DEFINITION, SIZE, (END, END_OF_TEXT))


@pytest.fixture(scope="module")
def tokenizer() -> Tokenizer:
    return Tokenizer.from_str(DEFINITION)


def compiled(compiler: GrammarCompiler, schema: object) -> Constraint:
    return compiler.compile(Grammar(json.dumps(schema, ensure_ascii=False)))


def fits(constraint: Constraint, tokenizer: Tokenizer, text: str) -> bool:
    """Whether the text, token by token, is allowed from here; steps the constraint as far as it is."""
    for token in tokenizer.encode(text).ids:
        if not constraint.mask()[token]:
            return False
        constraint.accept(token)
    return True


def walk(constraint: Constraint, tokenizer: Tokenizer, rng: np.random.Generator, limit: int = 400) -> str | None:
    """The text of random allowed tokens until the answer is finished; None when that takes too long.

    Prefers, three times in four, an end or a token that closes something, or random strings would never end.
    """
    closing = {tokenizer.token_to_id(t) for t in ('"', "}", "]", '"]', '"}') if tokenizer.token_to_id(t) is not None}
    ids: list[int] = []
    while not constraint.finished and len(ids) < limit:
        mask = constraint.mask()
        if mask[END] and rng.random() < 0.75:
            return tokenizer.decode(ids)
        allowed = [t for t in np.flatnonzero(mask).tolist() if t not in (END, END_OF_TEXT)]
        assert allowed
        close = [t for t in allowed if t in closing]
        ids.append(int(rng.choice(close if close and rng.random() < 0.75 else allowed)))
        constraint.accept(ids[-1])
    return tokenizer.decode(ids) if constraint.finished else None


def obj(required: bool = True, **properties: Any) -> dict[str, Any]:
    names = list(properties) if required else []
    return {"type": "object", "properties": properties, "required": names, "additionalProperties": False}


WALKS: list[tuple[dict[str, Any], Callable[[Any], bool]]] = [
    ({"type": "object"}, lambda v: isinstance(v, dict)),
    ({"enum": ["cat", "dog", 3, None, "中文"]}, lambda v: v in ("cat", "dog", 3, None, "中文")),
    (
        obj(colour={"enum": ["red", "blue"]}, n={"type": "integer", "minimum": 0, "maximum": 120}),
        lambda v: v.keys() == {"colour", "n"} and v["colour"] in ("red", "blue") and 0 <= v["n"] <= 120,
    ),
    (
        {"type": "array", "items": {"type": "number", "minimum": -5, "maximum": 5}, "minItems": 2, "maxItems": 4},
        lambda v: 2 <= len(v) <= 4 and all(-5 <= x <= 5 for x in v),
    ),
    (
        obj(名称={"type": "string", "maxLength": 6}, 数量={"type": "integer", "minimum": 1, "maximum": 9}),
        lambda v: list(v) == ["名称", "数量"] and len(v["名称"]) <= 6 and 1 <= v["数量"] <= 9,
    ),
    (
        obj(boxes={"type": "array", "maxItems": 2, "items": obj(label={"const": "cat"}, ok={"type": "boolean"})}),
        lambda v: len(v["boxes"]) <= 2 and all(b["label"] == "cat" and isinstance(b["ok"], bool) for b in v["boxes"]),
    ),
    (
        {"$defs": {"day": {"type": "string", "format": "date"}}, **obj(a={"$ref": "#/$defs/day"}, b={"type": "null"})},
        lambda v: re.fullmatch(r"\d{4}-\d\d-\d\d", v["a"]) is not None and v["b"] is None,
    ),
    (
        {"anyOf": [obj(kind={"const": "x"}), obj(id={"type": "string", "pattern": "^[A-C]{2}[0-9]$"})]},
        lambda v: v == {"kind": "x"} or re.fullmatch("[A-C]{2}[0-9]", v["id"]) is not None,
    ),
    (
        {"type": "integer", "multipleOf": 25, "minimum": 0, "maximum": 1000},
        lambda v: isinstance(v, int) and v % 25 == 0 and v <= 1000,
    ),
    (obj(False, a={"type": "integer"}, b={"type": "integer"}), lambda v: set(v) <= {"a", "b"}),
]


@pytest.mark.parametrize(("schema", "holds"), WALKS, ids=lambda value: None)
def test_random_allowed_tokens_end_in_json_that_satisfies_the_schema(
    compiler: GrammarCompiler, tokenizer: Tokenizer, schema: dict[str, Any], holds: Callable[[Any], bool]
):
    rng, ended = np.random.default_rng(4), 0
    for _ in range(15):
        text = walk(compiled(compiler, schema), tokenizer, rng)
        if text is not None:
            ended += 1
            assert holds(json.loads(text)), text
    assert ended >= 10


def test_without_a_schema_any_object_fits_and_nothing_else(compiler: GrammarCompiler, tokenizer: Tokenizer):
    assert fits(compiler.compile(Grammar()), tokenizer, '{"a": [1, {"猫": null}], "b": "🎉"}')
    for other in ("[", '"a"', "1", " {", "```json"):
        assert not fits(compiler.compile(Grammar()), tokenizer, other)


def test_the_end_of_an_answer_is_allowed_exactly_when_the_json_is_complete(
    compiler: GrammarCompiler, tokenizer: Tokenizer
):
    constraint = compiled(compiler, obj(a={"type": "integer"}))
    for token in tokenizer.encode('{"a": 12}').ids:
        assert not constraint.finished
        assert not constraint.mask()[[END, END_OF_TEXT]].any()
        constraint.accept(token)
    assert constraint.finished
    assert np.flatnonzero(constraint.mask()).tolist() == [END_OF_TEXT, END]
    constraint.accept(END)


def test_a_number_may_end_or_go_on(compiler: GrammarCompiler, tokenizer: Tokenizer):
    constraint = compiled(compiler, {"type": "integer"})
    assert fits(constraint, tokenizer, "12")
    assert not constraint.finished
    assert constraint.mask()[END]
    assert constraint.mask()[tokenizer.token_to_id("3")]


def test_special_tokens_and_ids_without_a_token_are_never_allowed(compiler: GrammarCompiler, tokenizer: Tokenizer):
    constraint = compiler.compile(Grammar())
    assert fits(constraint, tokenizer, '{"a": "text')
    mask = constraint.mask()
    assert mask.shape == (SIZE,)
    assert mask.dtype == np.bool_
    assert not mask[[START, 988, 991]].any()
    assert not mask[1005:].any()


def test_a_mask_stays_as_it_was_when_the_answer_goes_on(compiler: GrammarCompiler, tokenizer: Tokenizer):
    constraint = compiler.compile(Grammar())
    first = constraint.mask()
    before = first.copy()
    assert fits(constraint, tokenizer, '{"a')
    constraint.mask()
    assert (first == before).all()


@pytest.mark.parametrize(
    "text", ['{"a":[1,2]}', '{"a": [1, 2]}', '{\n  "a": [\n    1,\n    2\n  ]\n}', '{\n\t"a": [\n\t\t1\n\t]\n}']
)
def test_compact_spaced_and_indented_json_all_fit(compiler: GrammarCompiler, tokenizer: Tokenizer, text: str):
    constraint = compiled(compiler, obj(a={"type": "array", "items": {"type": "integer"}}))
    assert fits(constraint, tokenizer, text)
    assert constraint.finished


def test_whitespace_cannot_go_on_and_on(compiler: GrammarCompiler, tokenizer: Tokenizer):
    for start in ("{", '{"a"', '{"a":', '{"a": [', '{"a": [1', '{"a": [1,', '{"a": [1]'):
        for space in ("  ", "\n\n", "\t", " \n", "\n" + " " * 33):
            constraint = compiled(compiler, obj(a={"type": "array", "items": {"type": "integer"}}))
            assert fits(constraint, tokenizer, start)
            assert not fits(constraint, tokenizer, space), (start, space)


def test_nothing_follows_the_last_bracket(compiler: GrammarCompiler, tokenizer: Tokenizer):
    constraint = compiler.compile(Grammar())
    assert fits(constraint, tokenizer, "{}")
    assert not fits(constraint, tokenizer, "\n")


def test_accepting_a_forbidden_token_is_our_error(compiler: GrammarCompiler, tokenizer: Tokenizer):
    with pytest.raises(InternalError, match="does not fit the grammar"):
        compiler.compile(Grammar()).accept(tokenizer.token_to_id("a"))


def test_constraints_of_one_compiler_do_not_know_each_other(compiler: GrammarCompiler, tokenizer: Tokenizer):
    one, other = compiler.compile(Grammar()), compiler.compile(Grammar())
    assert fits(one, tokenizer, '{"a": 1}')
    assert not other.finished
    assert fits(other, tokenizer, '{"b": [')


def test_keys_that_a_schema_does_not_list_are_not_written_unless_it_allows_them(
    compiler: GrammarCompiler, tokenizer: Tokenizer
):
    plain = {"type": "object", "properties": {"a": {"type": "integer"}}}
    assert fits(compiled(compiler, plain), tokenizer, '{"a": 1}')
    assert not fits(compiled(compiler, plain), tokenizer, '{"a": 1,')
    assert not fits(compiled(compiler, plain), tokenizer, '{"b')
    assert fits(compiled(compiler, plain | {"additionalProperties": True}), tokenizer, '{"a": 1, "b": 2}')
    both = {"allOf": [plain, {"type": "object", "properties": {"b": {"type": "integer"}}}]}
    assert fits(compiled(compiler, both), tokenizer, '{"a": 1, "b": 2}')


def test_many_threads_may_compile_at_once(compiler: GrammarCompiler, tokenizer: Tokenizer):
    def answer(i: int) -> bool:
        constraint = compiled(compiler, obj(**{f"k{i}": {"const": i}}))
        return fits(constraint, tokenizer, f'{{"k{i}": {i}}}') and constraint.finished

    with ThreadPoolExecutor(4) as pool:
        assert all(pool.map(answer, range(40)))


def nested(levels: int) -> str:
    return '{"items":' * levels + "{}" + "}" * levels


REFUSED = {
    "broken JSON": ('{"type":', "not valid JSON: Expecting value"),
    "an empty text": ("", "not valid JSON"),
    "an array": ("[1]", r"is '\[1\]'; it must be a JSON object"),
    "a boolean": ("true", "is 'true'; it must be a JSON object"),
    "not a number": ('{"const":NaN}', "expected value"),
    "half a surrogate pair": ('{"const":"\ud800"}', "half of a surrogate pair"),
    "an unknown type": ('{"type":"strang"}', "Invalid type: strang"),
    "too many bytes": ('{"const":"%s"}' % ("中" * 30_000), f"90012 bytes, the limit is {MAX_SCHEMA_BYTES}"),
    "too deep": (nested(64), "nested over 64 levels deep"),
    "bottomless": ("[" * 30_000, "nested over 64 levels deep"),
    "too many keys": (json.dumps({"properties": {f"p{i}": {} for i in range(2000)}}), "2000 keys in one object"),
    "many patternProperties": (
        json.dumps({"type": "object", "patternProperties": {f"^p{i}$": {} for i in range(9)}}),
        "more than 8 patternProperties",
    ),
    "a costly divisor": ('{"type":"integer","multipleOf":123456789}', "multiple 123456789, the limit is 10000"),
    "divisors that combine": (
        json.dumps({"allOf": [{"type": "integer", "multipleOf": n} for n in (97, 89, 83)]}),
        "least common multiple 716539",
    ),
    "an enormous divisor": ('{"multipleOf":%s}' % ("7" * 5000), "the limit is 10000"),
    "a large object over and over": (
        json.dumps(
            {
                "$defs": {"a": {"type": "object", "properties": {f"p{i}": {} for i in range(500)}}},
                "anyOf": [{"$ref": "#/$defs/a", "properties": {f"z{i}": {}}} for i in range(50)],
            }
        ),
        "too big.*use a smaller schema",
    ),
    "a remote $ref": ('{"$ref":"https://example.com/x.json"}', r"example.com.*nothing is ever fetched.*\$defs"),
    "a file $ref": ('{"$ref":"file:///etc/passwd"}', "nothing is ever fetched"),
    "a $ref to nowhere": ('{"$ref":"#/$defs/a"}', "does not exist"),
    "a $ref loop": (
        '{"$ref":"#/$defs/a","$defs":{"a":{"$ref":"#/$defs/b"},"b":{"$ref":"#/$defs/a"}}}',
        "no JSON value satisfies it",
    ),
    "an unsupported keyword": ('{"not":{"type":"string"}}', r'Unimplemented keys: \["not"\]; remove them'),
    "an unknown format": ('{"type":"string","format":"bogus"}', "Unknown format: bogus; remove it"),
    "a broken pattern": ('{"type":"string","pattern":"(a"}', "unclosed group"),
    "look-around": ('{"type":"string","pattern":"(?<=a)b"}', "without look-around"),
    "oneOf with overlap": ('{"oneOf":[{"type":"string","maxLength":5},{"type":"string"}]}', "use anyOf"),
    "library options": ('{"x-guidance":{"lenient":true},"type":"object"}', "x-guidance.*remove it"),
    "no string so short": ('{"type":"string","minLength":5,"maxLength":3}', r"minLength \(5\) is greater"),
    "incompatible types": ('{"allOf":[{"type":"string"},{"type":"number"}]}', "incompatible types"),
    "an empty enum": ('{"enum":[]}', "Unsatisfiable"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_a_schema_we_cannot_keep_is_refused_by_name(compiler: GrammarCompiler, name: str):
    schema, reason = REFUSED[name]
    with pytest.raises(InvalidSchema, match=reason) as refused:
        compiler.compile(Grammar(schema))
    assert len(refused.value.message) < 400
    assert "\n" not in refused.value.message
    refused.value.message.encode()


def test_a_schema_that_becomes_too_complex_to_follow_fails_its_own_answer_only(
    compiler: GrammarCompiler, tokenizer: Tokenizer
):
    hostile = compiled(compiler, {"type": "string", "pattern": "^(([ab]*a){1,40}[ab]{30}|([ab]*b){1,40}[ab]{31})*$"})
    rng = np.random.default_rng(0)
    a, b = (tokenizer.token_to_id(c) for c in "ab")
    hostile.accept(tokenizer.token_to_id('"'))
    with pytest.raises(InvalidSchema, match="the schema cannot be used"):
        for token in rng.choice([a, b], 5000).tolist():
            hostile.mask()
            hostile.accept(token)
    assert hostile.forced() == []
    assert hostile.count_allowed([a]) == 0
    assert fits(compiler.compile(Grammar()), tokenizer, '{"a": 1}')


def test_what_is_forced_is_the_rest_of_the_only_key(compiler: GrammarCompiler, tokenizer: Tokenizer):
    constraint = compiled(compiler, obj(store={"type": "string"}))
    assert constraint.forced() == []  # whitespace may come first
    assert fits(constraint, tokenizer, '{"')
    assert tokenizer.decode(constraint.forced()) == "store"
    assert fits(constraint, tokenizer, 'store": "x"}')
    assert constraint.forced() == []


def test_tokens_are_counted_up_to_the_first_that_is_not_allowed_and_nothing_is_taken(
    compiler: GrammarCompiler, tokenizer: Tokenizer
):
    constraint = compiled(compiler, obj(store={"type": "string"}))
    good, bad = tokenizer.encode('{"store": "x"}').ids, tokenizer.encode('{"store": 5}').ids
    assert constraint.count_allowed(good) == len(good)
    assert 0 < constraint.count_allowed(bad) < len(bad)
    assert constraint.count_allowed([END]) == 0
    assert fits(constraint, tokenizer, '{"store": "x"}')


def test_common_divisors_are_not_refused(compiler: GrammarCompiler, tokenizer: Tokenizer):
    divisors = (0.01, 0.25, 0.5, 5, 10, 60, 100, 1000, 1_000_000)
    schema = obj(**{f"p{i}": {"type": "number", "multipleOf": d} for i, d in enumerate(divisors)})
    assert fits(compiled(compiler, schema), tokenizer, '{"p0": 3.14, "p1": 0.75, "p2": 1.5')


def test_a_tokenizer_that_is_none_is_named():
    with pytest.raises(CheckpointError, match="not a JSON object"):
        GrammarCompiler("tokenizer.json", SIZE, (END,))
    with pytest.raises(CheckpointError, match=r"tokenizer\.json cannot be used"):
        GrammarCompiler("{}", SIZE, (END,))
    with pytest.raises(CheckpointError, match=r"tokenizer\.json cannot be used"):
        GrammarCompiler(DEFINITION, 500, (END,))
