"""A sequence: a prompt being answered, all its tokens so far and the blocks that hold them. Knows no scheduling."""

from __future__ import annotations

import itertools
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from sightline.engine.cache import Contents, Key, block_key, contents_of
from sightline.engine.prompt import Prompt
from sightline.types import Lane

BLOCK = 32  # tokens in a KV block

_ids = itertools.count(1)


@dataclass(slots=True, eq=False)
class Sequence:
    """A prompt being answered: all its tokens so far, how many of them are computed, and the blocks that hold them."""

    prompt: Prompt
    lane: Lane = "interactive"
    id: int = field(default_factory=lambda: next(_ids))
    tokens: list[int] = field(default_factory=list)  # generated so far
    computed: int = 0
    blocks: list[int] = field(default_factory=list)
    keys: list[Key] = field(default_factory=list)  # of all full blocks, computed or not
    published: int = 0
    cached: int = 0  # tokens taken from the cache at first admission

    @property
    def bulk(self) -> bool:
        """Nobody sits and waits for it."""
        return self.lane == "bulk"

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
        if start >= cut:
            return np.array(self.tokens[start - cut : end - cut], np.int32)
        head = self.prompt.token_ids[start : min(end, cut)]
        return np.concatenate([head, np.array(self.tokens[max(0, start - cut) : max(0, end - cut)], np.int32)])

    def positions(self, start: int, end: int) -> NDArray[np.int32]:
        """M-RoPE positions [3, end-start]; the answer counts on from the prompt in all three axes."""
        cut = len(self.prompt.token_ids)
        tail = np.empty((3, max(end, cut) - max(start, cut)), np.int32)
        first = max(start - cut, 0) + self.prompt.next_position
        tail[:] = np.arange(first, first + tail.shape[1])
        return tail if start >= cut else np.concatenate([self.prompt.positions[:, start : min(end, cut)], tail], 1)

    def contents(self, block: int, most: int = BLOCK) -> Contents:
        """What the block at this place holds, or will: its known tokens, `most` of them."""
        first = block * BLOCK
        return contents_of(self.ids(first, min(first + most, self.length)), first, self.prompt.visuals)

    def parent(self, block: int) -> Key:
        """What the block at this place stands behind."""
        return self.keys[block - 1] if block else self.prompt.salt

    def name_blocks(self) -> None:
        """Extend `keys` to every block that is full of known tokens."""
        for block in range(len(self.keys), self.length // BLOCK):
            self.keys.append(block_key(self.parent(block), self.contents(block)))
