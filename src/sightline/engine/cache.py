"""Who owns which KV block, and which finished blocks can be used again. Knows keys and numbers; never tensors.

A block is free, in use (by one or several sequences), or kept: nobody uses it, its contents are still good and
may be found by key until the space is needed. What only bulk work has used goes first then: a long document must not
drive out what people are asking about. Block 0 is scratch and never handed out.

A block that begins as another one should is of use, too: a copy of it spares computing what both have in common. So
the last block of a sequence is kept although it is not full.
"""

from __future__ import annotations

import hashlib
from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Final, Generic, Protocol, TypeVar

import numpy as np
from numpy.typing import NDArray

from sightline.engine.prompt import Visual

Key = bytes

MOST_COMPARED: Final = 64  # blocks behind the same one, the latest first


@dataclass(frozen=True, slots=True)
class Accounts:
    """How many blocks are in each state; the three add up to all there are."""

    free: int
    kept: int
    in_use: int


@dataclass(frozen=True, slots=True, eq=False)
class Contents:
    """What a block holds: token ids and, of each picture there, its digest and its first token's place in the block."""

    ids: NDArray[np.int32]
    pictures: tuple[tuple[Key, int], ...] = ()

    def in_common(self, other: Contents) -> int:
        """How many leading tokens both have."""
        count = min(len(self.ids), len(other.ids))
        ends = [count, *(first for _, first in {*self.pictures} ^ {*other.pictures})]
        different = np.flatnonzero(self.ids[:count] != other.ids[:count])
        if different.size:
            ends.append(int(different[0]))
        return max(0, min(ends))


class BlockCache:
    """Blocks 1..`blocks`-1 with reference counts, found again by content key.

    Evicted least recently used first, those of bulk work before all others.
    """

    def __init__(self, blocks: int):
        self._blocks = blocks
        self._free = list(range(blocks - 1, 0, -1))  # a stack: the lowest numbers first, so untouched memory stays so
        self._users: dict[int, int] = {}
        self._by_key: dict[Key, int] = {}
        self._names: dict[int, tuple[Key, Key]] = {}  # a block's key, and that of the block before it
        self._behind: dict[Key, dict[int, Contents]] = {}  # what the blocks behind a key hold, the latest last
        self._kept: OrderedDict[int, None] = OrderedDict()  # oldest first
        self._kept_of_bulk: OrderedDict[int, None] = OrderedDict()
        self._wanted: set[int] = set()  # blocks that somebody interactive has used since they were taken

    @property
    def available(self) -> int:
        """Blocks that can be taken now, evicting kept ones."""
        return len(self._free) + self.kept

    @property
    def kept(self) -> int:
        return len(self._kept) + len(self._kept_of_bulk)

    def count_cached(self, keys: Sequence[Key]) -> int:
        """How many leading `keys` are here."""
        return next((i for i, key in enumerate(keys) if key not in self._by_key), len(keys))

    def share(self, keys: Sequence[Key]) -> list[int]:
        """Use the blocks of all `keys`, which must be here."""
        blocks = [self._by_key[key] for key in keys]
        for block in blocks:
            self._kept.pop(block, None)
            self._kept_of_bulk.pop(block, None)
            self._users[block] = self._users.get(block, 0) + 1
        return blocks

    def take(self, count: int) -> list[int] | None:
        """`count` blocks for new contents, or None when not that many can be had."""
        if count > self.available:
            return None
        while len(self._free) < count:
            block, _ = (self._kept_of_bulk or self._kept).popitem(last=False)
            self._forget(block)
            self._wanted.discard(block)
            self._free.append(block)
        taken = [self._free.pop() for _ in range(count)]
        self._users.update(dict.fromkeys(taken, 1))
        return taken

    def publish(self, block: int, key: Key, parent: Key, contents: Contents) -> None:
        """Say that `block`, in use, now holds the finished `contents` of `key`, behind the block named `parent`."""
        if key not in self._by_key and block not in self._names:
            self._by_key[key] = block
            self._names[block] = key, parent
            self._behind.setdefault(parent, {})[block] = contents

    def closest(self, parent: Key, contents: Contents) -> tuple[int, int]:
        """How many tokens of `contents` a block behind `parent` begins with, 0 for none, and the one with most."""
        latest = islice(reversed(self._behind.get(parent, {}).items()), MOST_COMPARED)
        return max(((held.in_common(contents), block) for block, held in latest), default=(0, 0))

    def release(self, blocks: Sequence[int], *, bulk: bool = False) -> None:
        """End one use of each block. Published ones are kept, the sequence's last blocks to be evicted first.

        `bulk`: nobody waits for whoever used them.
        """
        if not bulk:
            self._wanted.update(blocks)
        for block in reversed(blocks):
            self._users[block] -= 1
            if self._users[block]:
                continue
            del self._users[block]
            if block in self._names:
                (self._kept if block in self._wanted else self._kept_of_bulk)[block] = None
            else:
                self._wanted.discard(block)
                self._free.append(block)

    def _forget(self, block: int) -> None:
        """Its contents are about to be written over."""
        key, parent = self._names.pop(block)
        del self._by_key[key]
        del self._behind[parent][block]
        if not self._behind[parent]:
            del self._behind[parent]

    def accounts(self) -> Accounts:
        """The state of all blocks. Asserts that none is lost or counted twice."""
        found = Accounts(len(self._free), self.kept, len(self._users))
        everyone = {*self._free, *self._kept, *self._kept_of_bulk, *self._users}
        assert len(everyone) == self._blocks - 1 == found.free + found.kept + found.in_use, found
        assert set(self._by_key.values()) == set(self._names), "a key without a block"
        assert sum(map(len, self._behind.values())) == len(self._names), "contents without a block"
        return found


def contents_of(ids: NDArray[np.int32], first: int, visuals: Sequence[Visual]) -> Contents:
    """Of a block with the tokens `ids` of a prompt or answer, starting at token `first`."""
    end = first + len(ids)
    return Contents(ids, tuple((v.digest, v.start - first) for v in visuals if v.start < end and first < v.end))


def block_key(parent: Key, contents: Contents) -> Key:
    """The name of a block behind the one named `parent`, or of a first block behind the tenant's salt.

    Visual tokens all have the same id; what they show is in the key through the picture's digest and the offset.
    """
    state = hashlib.blake2b(parent, digest_size=16)
    state.update(contents.ids.tobytes())
    for digest, first in contents.pictures:
        state.update(digest + first.to_bytes(8, "little", signed=True))
    return state.digest()


class Sized(Protocol):
    @property
    def nbytes(self) -> int: ...


V = TypeVar("V", bound=Sized)


class ByteLRU(Generic[V]):
    """Values by key, the least recently used dropped when all together would pass `budget` bytes."""

    def __init__(self, budget: int):
        self.budget = budget
        self.nbytes = 0
        self._values: OrderedDict[Key, V] = OrderedDict()

    def get(self, key: Key) -> V | None:
        if key in self._values:
            self._values.move_to_end(key)
        return self._values.get(key)

    def put(self, key: Key, value: V, *, only_into_room: bool = False) -> None:
        """Keep a value. `only_into_room`: unless another had to be dropped for it."""
        room = self.budget - self.nbytes if only_into_room else self.budget
        if value.nbytes > room or key in self._values:
            return
        self._values[key] = value
        self.nbytes += value.nbytes
        while self.nbytes > self.budget:
            _, dropped = self._values.popitem(last=False)
            self.nbytes -= dropped.nbytes

    def __len__(self) -> int:
        return len(self._values)

    def check(self) -> None:
        """Assert that the bytes counted are the bytes held, within budget."""
        assert self.nbytes == sum(v.nbytes for v in self._values.values()) <= self.budget, self.nbytes
