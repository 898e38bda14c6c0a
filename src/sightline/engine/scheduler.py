"""Chooses what runs in the next step. Knows tokens and blocks; never tensors, never HTTP."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from sightline.engine.cache import BlockCache
from sightline.engine.sequence import BLOCK, Sequence


@dataclass(frozen=True, slots=True)
class Work:
    """One sequence's share of a step: compute its next `count` tokens."""

    sequence: Sequence
    count: int

    @property
    def is_last(self) -> bool:
        """Whether the next token can be chosen after this."""
        return self.count == self.sequence.remaining


class Scheduler:
    """First come, first served, up to `max_running` at once; answers go on while prompts are read in chunks.

    A chunk ends on a block border or with its prompt. When blocks run out the youngest sequence gives its blocks up
    and starts over later from what the cache still holds.
    """

    def __init__(self, cache: BlockCache, max_running: int, alone_tokens: int, mixed_tokens: int):
        self.cache = cache
        self.waiting: deque[Sequence] = deque()
        self.running: list[Sequence] = []  # oldest first
        self.preemptions = 0
        self._max_running = max_running
        self._alone_tokens = alone_tokens  # most tokens of a step in which nobody waits for a next word
        self._mixed_tokens = mixed_tokens

    def add(self, sequence: Sequence) -> None:
        sequence.name_blocks()
        self.waiting.append(sequence)

    def remove(self, sequence: Sequence) -> None:
        """Forget a finished or cancelled sequence; its full computed blocks stay in the cache."""
        if sequence in self.running:
            self.running.remove(sequence)
        else:
            self.waiting.remove(sequence)
        self._release(sequence)

    def next_step(self) -> list[Work]:
        """What to compute next; empty when there is nothing to do."""
        for sequence in [s for s in self.running if s.remaining == 1]:
            if sequence in self.running:  # not preempted for an older one
                self._grow(sequence)
        decoding = [s for s in self.running if s.remaining == 1 and self._fits(s)]
        budget = (self._mixed_tokens if decoding else self._alone_tokens) - len(decoding)
        work = [Work(s, 1) for s in decoding]
        for sequence in self._prefilling():
            if budget <= 0:
                break
            count = _chunk(sequence, budget)
            if count:
                work.append(Work(sequence, count))
                budget -= count
        return work

    def advance(self, work: Iterable[Work]) -> None:
        """Record that `work` was computed, and publish the blocks it filled."""
        for item in work:
            sequence = item.sequence
            sequence.computed += item.count
            sequence.name_blocks()
            for index in range(sequence.published, sequence.computed // BLOCK):
                self.cache.publish(sequence.blocks[index], sequence.keys[index])
            sequence.published = max(sequence.published, sequence.computed // BLOCK)

    def _prefilling(self) -> Iterator[Sequence]:
        """Sequences with a prompt to read: those begun, then as many waiting ones as there is room for."""
        yield from [s for s in self.running if s.remaining > 1]
        while self.waiting and len(self.running) < self._max_running:
            sequence = self._admit()
            if sequence is None:
                return
            yield sequence

    def _admit(self) -> Sequence | None:
        """Move the first waiting sequence that can start to the running ones, with blocks for all its tokens.

        One whose next block is being computed by somebody else waits for it instead of computing it again.
        """
        begun = {key for s in self.running for key in s.keys[s.published :]}
        for sequence in self.waiting:
            usable = sequence.keys[
                : (sequence.length - 1) // BLOCK
            ]  # the last token is always computed: its logits are wanted
            hits = self.cache.count_cached(usable)
            if hits < len(usable) and usable[hits] in begun:
                continue
            shared = self.cache.share(usable[:hits])
            fresh = self.cache.take(_blocks(sequence.length) - hits)
            if fresh is None:
                self.cache.release(shared)
                return None  # in order: a small request must not starve a large one
            self.waiting.remove(sequence)
            self.running.append(sequence)
            sequence.blocks = shared + fresh
            sequence.computed = sequence.published = hits
            sequence.computed *= BLOCK
            if not sequence.tokens:
                sequence.cached = sequence.computed
            return sequence
        return None

    def _grow(self, sequence: Sequence) -> None:
        """Give a decoding sequence the block its next token needs, preempting the youngest when there is none."""
        while not self._fits(sequence):
            fresh = self.cache.take(1)
            if fresh:
                sequence.blocks += fresh
                return
            youngest = self.running[-1]
            self._preempt(youngest)
            if youngest is sequence:
                return

    def _fits(self, sequence: Sequence) -> bool:
        return len(sequence.blocks) >= _blocks(sequence.computed + 1)

    def _preempt(self, sequence: Sequence) -> None:
        self.preemptions += 1
        self.running.remove(sequence)
        self._release(sequence)
        self.waiting.appendleft(sequence)

    def _release(self, sequence: Sequence) -> None:
        self.cache.release(sequence.blocks)
        sequence.blocks = []
        sequence.computed = sequence.published = 0


def _blocks(tokens: int) -> int:
    return -(-tokens // BLOCK)


def _chunk(sequence: Sequence, budget: int) -> int:
    """How many of a prompt's remaining tokens fit in `budget`, ending on a block border or with the prompt."""
    if sequence.remaining <= budget:
        return sequence.remaining
    end = (sequence.computed + budget) // BLOCK * BLOCK
    return max(0, end - sequence.computed)
