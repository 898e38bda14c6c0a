"""Keeps an answer to JSON or tool calls, token by token. The only door to llguidance; knows no model, no sampling."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterator, Sequence
from decimal import Decimal

import numpy as np
from llguidance import LLMatcher, LLParserLimits, LLTokenizer
from llguidance.numpy import allocate_token_bitmask, fill_next_token_bitmask
from numpy.typing import NDArray

from sightline.engine.closing import closed
from sightline.errors import CheckpointError, InternalError, InvalidSchema
from sightline.types import Calls, Grammar

ANY_OBJECT = '{"type":"object"}'

# The library's own limits leave these open. With all of them, and fuel below, the worst schemas we could think of
# (merges of large objects through $ref, disjoint patterns, divisors) compile in 1-2.5 s; without, some take minutes.
MAX_SCHEMA_BYTES = 64 << 10
MAX_DEPTH = 64  # brackets within brackets; the library gives up at 128
MAX_KEYS = 1000  # in one object; optional properties cost their square: 1,000 0.2 s, 10,000 9 s and 0.25 s per token
MAX_PATTERNS = 8  # patternProperties in all; each is compared with each: 40 cost 50 ms per object, 900 over 200 s
MAX_DIVISOR = 10_000  # an automaton state each: 9,973 costs 50 ms, 604,800 6 s, 123,456,789 never ended

# Between two JSON tokens: nothing, one space, or one line break with its indentation. Without a bound a small model
# can loop on whitespace until max_tokens; with none at all, "[\n" - how Qwen opens a list of boxes - is forbidden,
# "[]" becomes its best rival, and lists silently come back empty. At most one match per place (llguidance >= 1.8).
WHITESPACE = r"\x20|\r?\n[\x20\t]{0,32}"

# Every option the library reads is set here, so nothing depends on its defaults.
JSON_OPTIONS = {
    "whitespace_pattern": WHITESPACE,
    "whitespace_flexible": False,
    "item_separator": ",",
    "key_separator": ":",
    "coerce_one_of": False,  # as anyOf it would let through what oneOf forbids
    "lenient": False,  # a keyword that is not enforced is an error, not a surprise
}

# When the library's reason contains the phrase, this is what the caller can do.
IN_OUR_WORDS = (  # for what the library says of itself and not of the schema
    (r"Resource '(.*)' is not present", r'it refers to \1; nothing is ever fetched, put the definition under "$defs"'),
    (r"NoExtension", "no JSON value satisfies it"),
)
WAYS_OUT = (
    ("Unimplemented keys", "remove them and check the answer yourself"),
    ("oneOf", "use anyOf, or options told apart by a required const property"),
    ("look-", "write the pattern without look-around"),
    ("Unknown format", "remove it or use pattern"),
    ("too big", "use a smaller schema"),
    ("too large", "use a smaller schema"),
    ("Too many", "use a simpler schema"),
    ("fuel", "use a simpler schema"),
)


class GrammarCompiler:
    """Makes constraints for one tokenizer. Costs 1-2 s and up to 140 MiB once with 151,669 tokens; any thread."""

    def __init__(self, definition: str, size: int, eos_ids: Sequence[int]):
        """`definition` is the text of a tokenizer.json, `size` the length of the masks, `eos_ids` the ends of answer.

        Raises CheckpointError when the definition cannot be read or has more than `size` tokens.
        """
        if not definition.startswith("{"):  # the library would take any other text for the name of a file
            raise CheckpointError("tokenizer.json is not a JSON object")
        try:
            self._tokenizer = LLTokenizer(definition, n_vocab=size, eos_token=list(eos_ids))
        except ValueError as error:
            raise CheckpointError(f"tokenizer.json cannot be used for JSON answers: {_short(str(error))}") from None
        self._size = size
        # Per step at most about 15 ms in the lexer and 3 ms in the parser; beyond that the request fails by name.
        self._limits = LLParserLimits(
            initial_lexer_fuel=1_000_000,
            step_lexer_fuel=200_000,
            step_max_items=50_000,
            max_items_in_row=2000,
            max_lexer_states=50_000,  # 1-2 kB each
            max_grammar_size=20_000,  # an object of 1,000 optional properties has 8,000
            verbose_errors=False,
        )

    def compile(self, grammar: Grammar | Calls) -> Constraint:
        """A fresh constraint at the beginning of an answer; 1 ms for a usual schema, about 2 s for a hostile one.

        Properties come in the order of the schema. Any thread may call this, and others run meanwhile.
        Raises InvalidSchema for a schema that is not valid, not supported, too large or that nothing can satisfy.
        """
        if isinstance(grammar, Calls):
            text = _calls_text(grammar)
        else:
            text = _json_text(ANY_OBJECT if grammar.schema is None else grammar.schema)
        matcher = LLMatcher(self._tokenizer, text, log_level=0, limits=self._limits)
        if matcher.is_error():
            raise _invalid(matcher.get_error())
        constraint = Constraint(matcher, self._size)
        constraint.mask()  # some dead ends, such as definitions that only refer to each other, show at the first step
        return constraint


class Constraint:
    """Where one answer stands in its grammar. Belongs to one thread at a time."""

    def __init__(self, matcher: LLMatcher, size: int):
        self._matcher = matcher
        self._size = size
        self._bits = allocate_token_bitmask(1, size)

    @property
    def finished(self) -> bool:
        """The answer is complete and only an end-of-answer token may follow."""
        return bool(self._matcher.is_stopped()) and not self._matcher.is_error()

    def mask(self) -> NDArray[np.bool_]:
        """Which tokens may come next [size]; an end of answer exactly when the JSON is complete.

        Measured with 151,669 tokens: 10-250 microseconds, now and then 500.
        Raises InvalidSchema when the schema turns out too complex to follow from here.
        """
        fill_next_token_bitmask(self._matcher, self._bits)
        if self._matcher.is_error():
            raise _invalid(self._matcher.get_error())
        return np.unpackbits(self._bits[0].view(np.uint8), count=self._size, bitorder="little").view(np.bool_)

    def forced(self) -> list[int]:
        """The tokens that come next whatever the model wants, as the tokenizer would cut their text; often none.

        Another cut of the same text is allowed by `mask` too. Measured: 10-100 microseconds.
        """
        return list(self._matcher.compute_ff_tokens())

    def count_allowed(self, tokens: Sequence[int]) -> int:
        """How many of `tokens`, ids below `size`, could follow one after the other. Measured: 3 microseconds each."""
        return int(self._matcher.validate_tokens(list(tokens)))

    def accept(self, token_id: int) -> None:
        """Step past a token that `mask` allows. Raises InternalError for any other."""
        if not self._matcher.consume_token(token_id):
            raise InternalError(f"token {token_id} does not fit the grammar here: {_short(self._matcher.get_error())}")


def _json_text(schema: str) -> str:
    """The library's grammar for JSON that satisfies `schema`, its plain objects closed."""
    _check(schema)
    try:
        return str(LLMatcher.grammar_from_json_schema(closed(schema), overrides=JSON_OPTIONS))
    except ValueError as error:
        raise _invalid(str(error)) from None


def _calls_text(calls: Calls) -> str:
    """The library's grammar for tool calls as the chat template shows them; a mark is one token, not its letters."""
    several = ' ("\\n" call)*' if calls.several else ""
    rules = [
        f"start: calls{'' if calls.needed else ' | TEXT | TEXT calls'}",
        f"calls: call{several}",
        'call: <tool_call> "\\n" body "\\n" </tool_call>',
        "TEXT: /(.|\\n)*/",
        "body: " + " | ".join(f"body_{i}" for i in range(len(calls.functions))),
    ]
    arguments = []
    for i, (name, schema) in enumerate(calls.functions):
        opening = json.dumps(f'{{"name": {json.dumps(name)}, "arguments": ')
        rules.append(f'body_{i}: {opening} @arguments_{i} "}}"')
        try:
            text = _json_text(schema)
        except InvalidSchema as error:
            raise InvalidSchema(f"the parameters of function '{name}': {error.message}") from None
        arguments.append(json.loads(text)["grammars"][0] | {"name": f"arguments_{i}"})
    try:
        _check(json.dumps({"all": [json.loads(schema) for _, schema in calls.functions]}, ensure_ascii=False))
    except InvalidSchema as error:
        raise InvalidSchema(f"the parameters of all functions together: {error.message}") from None
    return json.dumps({"grammars": [{"name": "calls", "lark_grammar": "\n".join(rules)}, *arguments]})


def _check(schema: str) -> None:
    """Raise InvalidSchema for what must be refused before the library sees it."""
    try:
        size = len(schema.encode())
        root = json.loads(schema, parse_float=Decimal, parse_int=Decimal) if size <= MAX_SCHEMA_BYTES else None
    except RecursionError:
        raise InvalidSchema(f"the schema is nested over {MAX_DEPTH} levels deep; flatten it or use $ref") from None
    except UnicodeEncodeError:
        raise InvalidSchema("the schema has half of a surrogate pair; send valid Unicode") from None
    except ValueError as error:
        what = str(error) if isinstance(error, json.JSONDecodeError) else "a number cannot be read"
        raise InvalidSchema(f"the schema is not valid JSON: {what}") from None
    if size > MAX_SCHEMA_BYTES:
        raise InvalidSchema(f"the schema has {size} bytes, the limit is {MAX_SCHEMA_BYTES}; use a smaller one")
    if not isinstance(root, dict):
        raise InvalidSchema(f"the schema is {_short(schema)!r}; it must be a JSON object such as {ANY_OBJECT}")
    if "x-guidance" in root:
        raise InvalidSchema('the schema has "x-guidance", which this server sets itself; remove it')
    _check_costs(root)


def _check_costs(root: dict[str, object]) -> None:
    """Raise InvalidSchema for a schema that would take seconds to compile."""
    patterns, divisor = 0, 1
    for depth, value in _values(root):
        if depth > MAX_DEPTH:
            raise InvalidSchema(f"the schema is nested over {MAX_DEPTH} levels deep; flatten it or use $ref")
        if isinstance(value, dict):
            if len(value) > MAX_KEYS:
                raise InvalidSchema(f"the schema has {len(value)} keys in one object, the limit is {MAX_KEYS}")
            properties = value.get("patternProperties")
            patterns += len(properties) if isinstance(properties, dict) else 0
            divisor = math.lcm(divisor, _states(value.get("multipleOf")))
        if patterns > MAX_PATTERNS:
            raise InvalidSchema(f"the schema has more than {MAX_PATTERNS} patternProperties; use properties")
        if divisor > MAX_DIVISOR:  # divisors that meet in one number combine; assume that all of them do
            raise InvalidSchema(
                f"the digits of the multipleOf values have the least common multiple {divisor}, the limit is "
                f"{MAX_DIVISOR}; use fewer or rounder ones"
            )


def _values(root: object) -> Iterator[tuple[int, object]]:
    """Every array and object of a JSON value with its depth, the root at 1. Never recurses."""
    stack = [(1, root)]
    while stack:
        depth, value = stack.pop()
        if isinstance(value, dict | list):
            yield depth, value
            stack += [(depth + 1, inner) for inner in (value.values() if isinstance(value, dict) else value)]


def _states(value: object) -> int:
    """What a multipleOf costs: its digits as a whole number (0.25 is 25), but 1 for powers of ten and for no number."""
    if not isinstance(value, Decimal) or not value.is_finite() or not value:
        return 1
    written = "".join(map(str, value.as_tuple().digits))
    digits = written.rstrip("0")
    zeros = int(value.as_tuple().exponent) + len(written) - len(digits)
    return 1 if digits == "1" else int((digits + "0" * min(zeros, 20))[:20])  # 20 digits are far past the limit


def _invalid(reason: str) -> InvalidSchema:
    """The error for a reason the library gives, with a way out where we know one."""
    if reason.startswith("panic"):  # it catches its own; those we met were tables that overflowed
        reason = "too large"
    for theirs, ours in IN_OUR_WORDS:
        if found := re.search(theirs, reason):
            reason = found.expand(ours)
    way_out = next((way for phrase, way in WAYS_OUT if phrase in reason), None)
    return InvalidSchema(f"the schema cannot be used: {_short(reason)}" + (f"; {way_out}" if way_out else ""))


def _short(text: str) -> str:
    """One line of at most 200 characters, without the library's backtrace."""
    line = " ".join(text.partition("<backtrace>")[0].replace("<non-verbose/>", "").split())
    return line if len(line) <= 200 else line[:200] + "..."
