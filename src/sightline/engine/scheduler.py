"""Chooses what runs in the next step. Knows tokens and blocks; never tensors, never HTTP."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass

from sightline.engine.cache import BlockCache, Key, block_key
from sightline.engine.sequence import BLOCK, Sequence

LEAST_CHUNK = 16  # tokens of a prompt that are read at a time at least

Drafts = Mapping[Sequence, tuple[int, ...]]


@dataclass(frozen=True, slots=True)
class Work:
    """One sequence's share of a step: its next `count` known tokens, and behind them the guessed ones of `draft`."""

    sequence: Sequence
    count: int
    draft: tuple[int, ...] = ()

    @property
    def is_last(self) -> bool:
        """Whether the next token can be chosen after this."""
        return self.count == self.sequence.remaining

    @property
    def rows(self) -> int:
        """Tokens that are computed in all."""
        return self.count + len(self.draft)


class Scheduler:
    """First come, first served, up to `max_running` at once; answers go on while prompts are read in chunks.

    A chunk ends on a block border, a small one on half of it, or with its prompt. Bulk sequences live on what
    interactive ones leave: their prompts are read at most `bulk_tokens` in a step, because that is what a newcomer
    waits for, and they give up place and blocks to anybody interactive. When blocks run out otherwise, the youngest
    sequence gives its own up. Who gave way starts over later, from what the cache still holds.

    `copy` copies what one block holds to another one, at once.
    """

    def __init__(
        self,
        cache: BlockCache,
        max_running: int,
        alone_tokens: int,
        mixed_tokens: int,
        copy: Callable[[int, int], None],
    ):
        self.cache = cache
        self.waiting: deque[Sequence] = deque()
        self.waiting_bulk: deque[Sequence] = deque()
        self.running: list[Sequence] = []  # oldest first
        self.preemptions = 0
        self.bulk_tokens = BLOCK  # may be changed by whoever knows how long that takes, to LEAST_CHUNK at least
        self._max_running = max_running
        self._alone_tokens = alone_tokens  # most tokens of a step in which nobody waits for a next word
        self._mixed_tokens = mixed_tokens
        self._copy = copy

    def add(self, sequence: Sequence) -> None:
        sequence.name_blocks()
        self._queue(sequence).append(sequence)

    def remove(self, sequence: Sequence) -> None:
        """Forget a finished or cancelled sequence; its full computed blocks stay in the cache."""
        if sequence in self.running:
            self.running.remove(sequence)
        else:
            self._queue(sequence).remove(sequence)
        self._release(sequence, bulk=sequence.bulk)

    def next_step(self, drafts: Drafts | None = None) -> list[Work]:
        """What to compute next; empty when there is nothing to do.

        `drafts`: guesses at the next tokens of answers, to be tried as far as there are blocks for them.
        """
        for sequence in [s for s in self.running if s.remaining == 1]:
            if sequence in self.running:  # not preempted for an older one
                self._grow(sequence)
        self._admit_interactive()
        decoding = [s for s in self.running if s.remaining == 1 and self._fits(s)]
        work = [Work(s, 1, self._affordable(s, drafts.get(s, ())) if drafts else ()) for s in decoding]
        heard = any(not s.bulk for s in decoding)
        budget = (self._mixed_tokens if heard else self._alone_tokens) - sum(item.rows for item in work)
        interactive = _chunks([s for s in self.running if s.remaining > 1 and not s.bulk], budget)
        work += interactive
        used = sum(item.count for item in interactive)
        return work + _chunks(self._bulk_to_read(), min(budget, self.bulk_tokens) - used)

    def advance(self, sequence: Sequence, count: int) -> None:
        """Record that the next `count` known tokens of a sequence are computed, and publish the blocks they filled."""
        sequence.computed += count
        sequence.name_blocks()
        for index in range(sequence.published, sequence.computed // BLOCK):
            contents = sequence.contents(index)
            self.cache.publish(sequence.blocks[index], sequence.keys[index], sequence.parent(index), contents)
        sequence.published = max(sequence.published, sequence.computed // BLOCK)

    def _queue(self, sequence: Sequence) -> deque[Sequence]:
        return self.waiting_bulk if sequence.bulk else self.waiting

    def _admit_interactive(self) -> None:
        """Start the interactive sequences there is room for once every bulk one is out of the way.

        In order: one that finds no blocks keeps the others waiting, or small requests would starve a large one.
        """
        while sum(not s.bulk for s in self.running) < self._max_running:
            sequence = self._next_of(self.waiting)
            if sequence is None:
                return
            if len(self.running) == self._max_running:
                self._preempt(self._first_to_go())
            while not self._start(sequence):
                if not any(s.bulk for s in self.running):
                    return
                self._preempt(self._first_to_go())

    def _bulk_to_read(self) -> Iterator[Sequence]:
        """Bulk sequences with a prompt to read: those begun, then as many waiting ones as there is room for."""
        yield from [s for s in self.running if s.remaining > 1 and s.bulk]
        while not self.waiting and len(self.running) < self._max_running:
            sequence = self._next_of(self.waiting_bulk)
            if sequence is None or not self._start(sequence):
                return
            yield sequence

    def _next_of(self, queue: deque[Sequence]) -> Sequence | None:
        """The first in the queue whose next block is not just being computed by somebody else it can wait for."""
        if not queue:
            return None
        others = [s for s in self.running if queue is self.waiting_bulk or not s.bulk]
        begun = {key for s in others for key in s.keys[s.published :]}
        for sequence in queue:
            usable = _usable(sequence)
            hits = self.cache.count_cached(usable)
            if hits == len(usable) or usable[hits] not in begun:
                return sequence
        return None

    def _start(self, sequence: Sequence) -> bool:
        """Move a waiting sequence to the running ones, with blocks for all its tokens; False when there are too few."""
        usable = _usable(sequence)
        hits = self.cache.count_cached(usable)
        shared = self.cache.share(usable[:hits])
        fresh = self.cache.take(_blocks(sequence.length) - hits)
        if fresh is None:
            self.cache.release(shared, bulk=sequence.bulk)
            return False
        self._queue(sequence).remove(sequence)
        self.running.append(sequence)
        sequence.blocks = shared + fresh
        sequence.published = hits
        sequence.computed = hits * BLOCK + self._begin_block(sequence, hits)
        if not sequence.tokens:
            sequence.cached = sequence.computed
        return True

    def _begin_block(self, sequence: Sequence, index: int) -> int:
        """Copy into a block what another one has in common with it; how many tokens need not be computed.

        Never the last known one, whose logits are wanted.
        """
        wanted = sequence.contents(index, most=min(BLOCK, sequence.length - 1 - index * BLOCK))
        count, source = self.cache.closest(sequence.parent(index), wanted)
        if count:
            self._copy(source, sequence.blocks[index])
        return count

    def _grow(self, sequence: Sequence) -> None:
        """Give a decoding sequence the block its next token needs, preempting others when there is none."""
        while not self._fits(sequence):
            fresh = self.cache.take(1)
            if fresh:
                sequence.blocks += fresh
                return
            last = self._first_to_go()
            self._preempt(last)
            if last is sequence:
                return

    def _affordable(self, sequence: Sequence, draft: tuple[int, ...]) -> tuple[int, ...]:
        """As much of a draft as there are blocks for; nobody is preempted for a guess."""
        missing = _blocks(sequence.computed + 1 + len(draft)) - len(sequence.blocks)
        if missing > 0:
            sequence.blocks += self.cache.take(missing) or []
        return draft[: len(sequence.blocks) * BLOCK - sequence.computed - 1]

    def _fits(self, sequence: Sequence) -> bool:
        return len(sequence.blocks) >= _blocks(sequence.computed + 1)

    def _first_to_go(self) -> Sequence:
        """Who gives way: the youngest bulk sequence, or when there is none the youngest."""
        return next((s for s in reversed(self.running) if s.bulk), self.running[-1])

    def _preempt(self, sequence: Sequence) -> None:
        self.preemptions += 1
        self.running.remove(sequence)
        self._release(sequence, bulk=False)  # it goes on from what the cache still holds by then
        self._queue(sequence).appendleft(sequence)

    def _release(self, sequence: Sequence, *, bulk: bool) -> None:
        """End its use of its blocks. The last one, begun and not full, is kept for whoever goes on from there."""
        index, begun = divmod(sequence.computed, BLOCK)
        if begun and not bulk:
            parent, contents = sequence.parent(index), sequence.contents(index, most=begun)
            self.cache.publish(sequence.blocks[index], block_key(parent, contents), parent, contents)
        self.cache.release(sequence.blocks, bulk=bulk)
        sequence.blocks = []
        sequence.computed = sequence.published = 0


def _blocks(tokens: int) -> int:
    return -(-tokens // BLOCK)


def _usable(sequence: Sequence) -> list[Key]:
    """The keys of blocks it may take from the cache. The last token is always computed: its logits are wanted."""
    return sequence.keys[: (sequence.length - 1) // BLOCK]


def _chunks(sequences: Iterable[Sequence], budget: int) -> list[Work]:
    """The next pieces of prompts, as far as `budget` tokens go."""
    work: list[Work] = []
    if budget <= 0:
        return work
    for sequence in sequences:
        if count := _chunk(sequence, budget):
            work.append(Work(sequence, count))
            budget -= count
        if budget <= 0:
            break
    return work


def _chunk(sequence: Sequence, budget: int) -> int:
    """How many of a prompt's remaining tokens fit in `budget`, ending on a border or with the prompt."""
    if sequence.remaining <= budget:
        return sequence.remaining
    border = BLOCK if budget >= BLOCK else LEAST_CHUNK
    end = (sequence.computed + budget) // border * border
    return max(0, end - sequence.computed)
