"""An answer that must call tools is calls that can be read, with arguments that satisfy their schemas."""

import json

import numpy as np
import pytest
from tokenizers import Tokenizer

from sightline.engine.constrain import MAX_PATTERNS, GrammarCompiler
from sightline.errors import InvalidSchema
from sightline.types import Calls
from small_checkpoints import FIXTURES

SIZE, END = 1024, 981
DEFINITION = (FIXTURES / "tokenizer" / "tokenizer.json").read_text(encoding="utf-8")
ADD = ("add", json.dumps({"type": "object", "properties": {"a": {"type": "boolean"}}, "required": ["a"]}))
NOW = ("at.now", json.dumps({"type": "object", "additionalProperties": False}))
CALL_ADD = '<tool_call>\n{"name": "add", "arguments": {"a": true}}\n</tool_call>'
CALL_NOW = '<tool_call>\n{"name": "at.now", "arguments": {}}\n</tool_call>'


@pytest.fixture(scope="module")
def compiler() -> GrammarCompiler:
    return GrammarCompiler(DEFINITION, SIZE, (END,))


@pytest.fixture(scope="module")
def tokenizer() -> Tokenizer:
    return Tokenizer.from_str(DEFINITION)


@pytest.fixture
def may_say(compiler, tokenizer):
    """Whether the text, and then the end of the answer, is allowed."""

    def fits(calls: Calls, text: str) -> bool:
        constraint = compiler.compile(calls)
        for token in [*tokenizer.encode(text).ids, END]:
            if not constraint.mask()[token]:
                return False
            constraint.accept(token)
        return True

    return fits


@pytest.mark.parametrize("needed", [True, False])
@pytest.mark.parametrize("text", [CALL_ADD, CALL_NOW])
def test_each_function_may_be_called(may_say, needed, text):
    assert may_say(Calls((ADD, NOW), needed=needed, several=False), text)


def test_several_calls_follow_each_other_only_where_they_may(may_say):
    both = f"{CALL_ADD}\n{CALL_NOW}"
    assert may_say(Calls((ADD, NOW), needed=True, several=True), both)
    assert not may_say(Calls((ADD, NOW), needed=True, several=False), both)
    assert not may_say(Calls((ADD, NOW), needed=False, several=False), both)


def test_text_may_stand_before_a_call_or_instead_only_where_none_is_needed(may_say):
    for text in ("I look.", f"I look.\n{CALL_NOW}"):
        assert may_say(Calls((NOW,), needed=False, several=False), text)
        assert not may_say(Calls((NOW,), needed=True, several=False), text)


@pytest.mark.parametrize(
    "text",
    [
        "",
        CALL_NOW,
        CALL_ADD.replace("true", "5"),
        CALL_ADD.replace('{"a": true}', "{}"),
        CALL_ADD.removesuffix("\n</tool_call>"),
    ],
)
def test_what_is_no_call_of_the_function_is_not_allowed(may_say, text):
    assert not may_say(Calls((ADD,), needed=True, several=True), text)


def test_one_call_that_is_complete_finishes_the_answer(compiler, tokenizer):
    constraint = compiler.compile(Calls((ADD,), needed=True, several=False))
    for token in tokenizer.encode(CALL_ADD).ids:
        assert not constraint.finished
        constraint.accept(token)
    assert constraint.finished


def test_arguments_have_no_key_that_the_function_does_not_list(may_say):
    more = CALL_ADD.replace("true", 'true, "b": 1')
    assert not may_say(Calls((ADD,), needed=True, several=True), more)
    open_schema = json.dumps(json.loads(ADD[1]) | {"additionalProperties": True})
    assert may_say(Calls((("add", open_schema),), needed=True, several=True), more)


def test_random_tokens_make_calls_that_can_be_read(compiler, tokenizer):
    rng, schema = (
        np.random.default_rng(0),
        json.dumps({"type": "object", "properties": {"a": {"enum": [1, "x", None]}}, "additionalProperties": False}),
    )
    for _ in range(20):
        constraint, ids = compiler.compile(Calls((("f", schema), NOW), needed=True, several=False)), []
        while not constraint.finished and len(ids) < 400:
            ids.append(int(rng.choice(np.flatnonzero(constraint.mask()))))
            constraint.accept(ids[-1])
        assert constraint.finished
        text = tokenizer.decode(ids, skip_special_tokens=False)
        body = text.removeprefix("<tool_call>\n").removesuffix("\n</tool_call>")
        assert json.loads(body)["name"] in ("f", "at.now")


def test_schemas_that_are_each_small_enough_are_refused_when_all_of_them_are_too_much(compiler):
    one = {"type": "object", "patternProperties": {f"^{n}$": {} for n in range(MAX_PATTERNS)}}
    compiler.compile(Calls((("f", json.dumps(one)),), needed=True, several=False))
    with pytest.raises(InvalidSchema, match=r"all functions together: .* patternProperties"):
        compiler.compile(Calls((("f", json.dumps(one)), ("g", json.dumps(one))), needed=True, several=False))


@pytest.mark.parametrize("schema", ['"text"', '{"type": "quux"}', '{"x-guidance": {}}', "{"])
def test_a_schema_that_cannot_be_used_is_refused(compiler, schema):
    with pytest.raises(InvalidSchema):
        compiler.compile(Calls((("f", schema),), needed=True, several=False))


def test_a_schema_that_is_no_object_is_refused_with_the_name_of_its_function(compiler):
    with pytest.raises(InvalidSchema, match=r"parameters of function 'at\.now'"):
        compiler.compile(Calls((ADD, ("at.now", '"text"')), needed=True, several=False))
