"""Guesses an answer's next tokens, so that one step can check several. Knows token ids and times; never logits.

Prompt lookup: what followed the last words where they stood before, in the prompt or in the answer (Saxena, "Prompt
Lookup Decoding", 2023), and what the grammar forces. A wrong guess costs a row of a step, never a different answer.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass
from itertools import accumulate
from operator import mul
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from sightline.engine.constrain import Constraint
from sightline.model.language import padded_size

MOST = 15  # guesses at once; with the token they follow, a step of 16 rows
LONGEST = 6  # tokens that may at most agree before what followed them is a guess; one must
FORCED = LONGEST + 1  # where a guess is from: the grammar, or so long an agreement

# Before anything is known: how often a guess was right in replayed texts, by how many tokens agreed before it.
FIRST_CHANCES = {1: 0.1, 2: 0.35, 3: 0.5, 4: 0.65, 5: 0.7, 6: 0.85, FORCED: 0.9}
HOPELESS = 0.02  # no row of a step is worth less
LEARNING = 0.15  # weight of the latest guess in the chance of the next
FORGETTING = 0.999  # by this all other sizes seem faster after each step, until one is tried again

_BEFORE = np.arange(1, LONGEST)

T = TypeVar("T", bound=Hashable)


@dataclass(frozen=True, slots=True)
class Guess:
    """The next `tokens`; what speaks for each, tokens that agree before it or FORCED; the chance of all up to it."""

    tokens: tuple[int, ...] = ()
    sources: tuple[int, ...] = ()
    chances: tuple[float, ...] = ()


class Guesser:
    """Guesses for one answer and learns how good they are, tried or not."""

    def __init__(self, prompt_ids: NDArray[np.integer[Any]], constraint: Constraint | None):
        self._constraint = constraint
        self._known = LONGEST + len(prompt_ids)  # what stands before a text is no token and agrees with none
        self._ids = np.full(self._known + 256, -1, np.int32)
        self._ids[LONGEST : self._known] = prompt_ids
        self._chance = dict(FIRST_CHANCES)
        self._last = Guess()

    def guess(self, room: int) -> Guess:
        """At most `room` tokens, all of which the grammar allows; 20-40 microseconds with 4,000 tokens behind."""
        most = min(room, MOST)
        forced = self._constraint.forced()[:most] if self._constraint and most > 0 else []
        copied, agreed = self._copied(forced, most - len(forced))
        tokens = [*forced, *copied]
        if self._constraint and copied:
            tokens = tokens[: self._constraint.count_allowed(tokens)]
        longer = range(agreed, agreed + len(copied))  # each guess that is right is one more token that agrees
        sources = [*[FORCED] * len(forced), *[min(length, LONGEST) for length in longer]][: len(tokens)]
        chances = [chance for chance in accumulate(map(self._chance.__getitem__, sources), mul) if chance > HOPELESS]
        count = len(chances)
        self._last = Guess(tuple(tokens[:count]), tuple(sources[:count]), tuple(chances))
        return self._last

    def learn(self, tokens: Sequence[int]) -> None:
        """The answer went on with `tokens`."""
        for guessed, source, token in zip(self._last.tokens, self._last.sources, tokens, strict=False):
            right = guessed == token
            self._chance[source] += LEARNING * (right - self._chance[source])
            if not right:
                break
        self._last = Guess()
        self._note(tokens)
        self._known += len(tokens)

    def _copied(self, ahead: Sequence[int], most: int) -> tuple[list[int], int]:
        """What followed the longest, and among those the latest, earlier stretch equal to the end with `ahead` on it.

        Also how long that stretch is. Text that has begun to repeat itself goes on doing so.
        """
        if most <= 0:
            return [], 0
        self._note(ahead)
        ids = self._ids[: self._known + len(ahead)]
        found = np.flatnonzero(ids[:-1] == ids[-1])
        if not found.size:
            return [], 0
        agree = ids[found[:, None] - _BEFORE] == ids[-1 - _BEFORE]
        lengths = 1 + np.logical_and.accumulate(agree, 1).sum(1)
        latest = found.size - 1 - int(lengths[::-1].argmax())
        start = int(found[latest]) + 1
        followed = ids[start : start + most].tolist()
        return (followed * -(-most // len(followed)))[:most], int(lengths[latest])

    def _note(self, tokens: Sequence[int]) -> None:
        """Put `tokens` behind the known ones."""
        end = self._known + len(tokens)
        if end > len(self._ids):
            self._ids = np.concatenate([self._ids, np.empty(max(end, len(self._ids)), np.int32)])
        self._ids[self._known : end] = tokens


class StepTimes:
    """Seconds of a step by the number of tokens it writes, learned from the steps that were taken."""

    def __init__(self) -> None:
        self._seconds: dict[int, float] = {}
        self._met: set[int] = set()

    def note(self, rows: int, seconds: float) -> None:
        size = padded_size(rows)
        if size not in self._met:  # the kernels of this size were being made
            self._met.add(size)
            return
        for other in self._seconds:
            if other != size:
                self._seconds[other] *= FORGETTING
        before = self._seconds.setdefault(size, seconds)
        self._seconds[size] += 0.25 * (seconds - before)

    def expected(self, rows: int) -> float:
        """What a step of so many tokens should take; times go on to a size nobody has tried as they did before it."""
        size, seconds = padded_size(rows), self._seconds
        if not seconds:
            return 1.0
        smaller = sorted(s for s in seconds if s <= size) or [min(seconds)]
        last = smaller[-1]
        if last == size or len(smaller) == 1:
            return seconds[last]
        slope = (seconds[last] - seconds[smaller[-2]]) / (last - smaller[-2])
        return seconds[last] + max(0.0, slope) * (size - last)


def drafts(guesses: Mapping[T, Guess], times: StepTimes) -> dict[T, tuple[int, ...]]:
    """How much of each guess to try in the next step: what should make most tokens per second.

    `guesses` has all that are being written, with or without a guess. Step sizes are tried by powers of two.
    """
    ranked = sorted(
        ((-chance, at, key) for key, guess in guesses.items() for at, chance in enumerate(guess.chances)),
        key=lambda entry: entry[:2],
    )
    if not ranked:
        return {}
    writing = len(guesses)
    best, taken = writing / times.expected(writing), 0
    count, tokens, rows = 0, float(writing), padded_size(writing)
    while count < len(ranked):
        upto = min(rows - writing, len(ranked))
        tokens -= sum(chance for chance, _, _ in ranked[count:upto])
        count, rows = upto, rows * 2
        rate = tokens / times.expected(writing + count)
        if rate > best:
            best, taken = rate, count
    lengths = Counter(key for _, _, key in ranked[:taken])
    return {key: guesses[key].tokens[:length] for key, length in lengths.items()}
