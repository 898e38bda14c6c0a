"""Chooses what runs in the next step. Knows tokens and blocks; never tensors, never HTTP."""

from __future__ import annotations

import itertools
from collections import deque
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from sightline.engine.cache import BlockCache, Key, block_key
from sightline.engine.prompt import Prompt

BLOCK = 32

_ids = itertools.count(1)


@dataclass(slots=True, eq=False)
class Answering:
    """A prompt being answered: all its tokens so far, how many of them are computed, and the blocks that hold them."""

    prompt: Prompt
    id: int = field(default_factory=lambda: next(_ids))
    tokens: list[int] = field(default_factory=list)  # generated so far
    computed: int = 0
    blocks: list[int] = field(default_factory=list)
    keys: list[Key] = field(default_factory=list)  # of all full blocks, computed or not
    published: int = 0
    cached: int = 0  # tokens taken from the cache at first admission

    @property
    def length(self) -> int:
        return len(self.prompt.token_ids) + len(self.tokens)

    @property
    def remaining(self) -> int:
        """Tokens still to compute before the next one can be chosen."""
        return self.length - self.computed

    def ids(self, start: int, end: int) -> NDArray[np.int32]:
        """Token ids start..end of prompt and answer together."""
        cut = len(self.prompt.token_ids)
        head = self.prompt.token_ids[start : min(end, cut)]
        return np.concatenate([head, np.array(self.tokens[max(0, start - cut) : max(0, end - cut)], np.int32)])

    def positions(self, start: int, end: int) -> NDArray[np.int32]:
        """M-RoPE positions [3, end-start]; the answer counts on from the prompt in all three axes."""
        cut = len(self.prompt.token_ids)
        head = self.prompt.positions[:, start : min(end, cut)]
        tail = np.arange(max(start, cut), max(end, cut), dtype=np.int32) - cut + self.prompt.next_position
        return np.concatenate([head, np.broadcast_to(tail, (3, len(tail)))], 1)

    def name_blocks(self) -> None:
        """Extend `keys` to every block that is full of known tokens."""
        while (len(self.keys) + 1) * BLOCK <= self.length:
            first = len(self.keys) * BLOCK
            parent = self.keys[-1] if self.keys else b""
            ids = self.ids(first, first + BLOCK)
            self.keys.append(block_key(parent, ids, first, self.prompt.visuals, self.prompt.salt))


@dataclass(frozen=True, slots=True)
class Work:
    """One sequence's share of a step: compute its next `count` tokens."""

    sequence: Answering
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
        self.waiting: deque[Answering] = deque()
        self.running: list[Answering] = []  # oldest first
        self.preemptions = 0
        self._max_running = max_running
        self._alone_tokens = alone_tokens  # most tokens of a step in which nobody waits for a next word
        self._mixed_tokens = mixed_tokens

    def add(self, sequence: Answering) -> None:
        sequence.name_blocks()
        self.waiting.append(sequence)

    def remove(self, sequence: Answering) -> None:
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

    def advance(self, work: Sequence[Work]) -> None:
        """Record that `work` was computed, and publish the blocks it filled."""
        for item in work:
            sequence = item.sequence
            sequence.computed += item.count
            sequence.name_blocks()
            for index in range(sequence.published, sequence.computed // BLOCK):
                self.cache.publish(sequence.blocks[index], sequence.keys[index])
            sequence.published = max(sequence.published, sequence.computed // BLOCK)

    def _prefilling(self) -> Iterable[Answering]:
        """Sequences with a prompt to read: those begun, then as many waiting ones as there is room for."""
        yield from [s for s in self.running if s.remaining > 1]
        while self.waiting and len(self.running) < self._max_running:
            sequence = self._admit()
            if sequence is None:
                return
            yield sequence

    def _admit(self) -> Answering | None:
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

    def _grow(self, sequence: Answering) -> None:
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

    def _fits(self, sequence: Answering) -> bool:
        return len(sequence.blocks) >= _blocks(sequence.computed + 1)

    def _preempt(self, sequence: Answering) -> None:
        self.preemptions += 1
        self.running.remove(sequence)
        self._release(sequence)
        self.waiting.appendleft(sequence)

    def _release(self, sequence: Answering) -> None:
        self.cache.release(sequence.blocks)
        sequence.blocks = []
        sequence.computed = sequence.published = 0


def _blocks(tokens: int) -> int:
    return -(-tokens // BLOCK)


def _chunk(sequence: Answering, budget: int) -> int:
    """How many of a prompt's remaining tokens fit in `budget`, ending on a block border or with the prompt."""
    if sequence.remaining <= budget:
        return sequence.remaining
    end = (sequence.computed + budget) // BLOCK * BLOCK
    return max(0, end - sequence.computed)
