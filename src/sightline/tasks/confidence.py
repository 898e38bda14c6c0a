"""How sure the model was: from the probabilities of the tokens it wrote. Knows JSON's grammar; no task, no engine.

A confidence is the geometric mean of token probabilities, exp(mean(ln p)), p by the model's own logits: before
temperature, penalties and grammar.
"""

from __future__ import annotations

import json
import math
import re
from bisect import bisect_left, bisect_right
from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import accumulate

from sightline.types import TokenLogprob

# The words of a text that is known to be JSON: strings, then numbers and names, then marks.
WORDS = re.compile(rb'"(?:[^"\\]|\\.)*"|[-+.\w]+|[{}\[\],]')


def of_tokens(tokens: Iterable[TokenLogprob]) -> float:
    """The confidence in a text, 0 to 1; 0 when it has no token."""
    logprobs = [token.logprob for token in tokens]
    return min(1.0, math.exp(sum(logprobs) / len(logprobs))) if logprobs else 0.0


def of_json(tokens: Sequence[TokenLogprob]) -> tuple[float, Mapping[str, float]]:
    """The confidence in all values of a JSON text and in each, by its path ("items[0].price").

    Only tokens that share a byte with a value count: brackets, keys and spaces are the grammar's choice, not the
    model's. An answer without values (`[]`) counts whole.
    """
    ends = list(accumulate(len(token.utf8) for token in tokens))
    raw = b"".join(token.utf8 for token in tokens)
    fields, counted = {}, set[int]()
    for path, start, end in values(raw):
        # The tokens that end after `start`, up to the one that reaches `end`.
        touching = range(bisect_right(ends, start), bisect_left(ends, end) + 1)
        fields[path] = of_tokens(tokens[index] for index in touching)
        counted.update(touching)
    return of_tokens(tokens[index] for index in sorted(counted)) if counted else of_tokens(tokens), fields


def values(raw: bytes) -> Iterator[tuple[str, int, int]]:
    """Path, first byte and end of each string (without its quotes), number and name in valid JSON. Never recurses."""
    path: list[str | int] = []  # the key or index at each level
    key_follows = False
    for match in WORDS.finditer(raw):
        word = match[0]
        if word in b"{[":
            path.append("" if word == b"{" else 0)
            key_follows = word == b"{"
        elif word in b"}]":
            path.pop()
            key_follows = False
        elif word == b",":
            last = path[-1]
            key_follows = isinstance(last, str)
            path[-1] = last if isinstance(last, str) else last + 1
        elif key_follows:
            path[-1], key_follows = json.loads(word), False
        else:
            quotes = 1 if word[:1] == b'"' and len(word) > 2 else 0
            yield _shown(path), match.start() + quotes, match.end() - quotes


def _shown(path: Sequence[str | int]) -> str:
    return "".join(f"[{step}]" if isinstance(step, int) else f".{step}" for step in path).removeprefix(".")
