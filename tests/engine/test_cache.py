"""Block accounts and byte budgets, with plain numbers."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pytest

from sightline.engine.cache import Accounts, BlockCache, ByteLRU, Contents, block_key, contents_of
from sightline.engine.prompt import Picture, Visual
from sightline.types import PictureInfo


def publish(cache: BlockCache, block: int, key: bytes) -> None:
    """Somewhere behind the beginning, whatever it holds."""
    cache.publish(block, key, b"", Contents(np.frombuffer(key, np.uint8).astype(np.int32)))


def test_block_zero_is_scratch_and_the_lowest_blocks_go_first():
    assert BlockCache(5).take(4) == [1, 2, 3, 4]


def test_taking_more_than_there_is_takes_nothing():
    cache = BlockCache(4)
    assert cache.take(4) is None
    assert cache.accounts() == Accounts(free=3, kept=0, in_use=0)


def test_a_published_block_is_found_again_after_its_last_user_left():
    cache = BlockCache(4)
    (block,) = cache.take(1)
    publish(cache, block, b"k")
    cache.release([block])
    assert cache.accounts() == Accounts(free=2, kept=1, in_use=0)
    assert cache.share([b"k"]) == [block]
    assert cache.accounts() == Accounts(free=2, kept=0, in_use=1)


def test_a_shared_block_stays_in_use_until_everybody_released_it():
    cache = BlockCache(4)
    (block,) = cache.take(1)
    publish(cache, block, b"k")
    cache.share([b"k"])
    cache.release([block])
    assert cache.accounts().in_use == 1
    cache.release([block])
    assert cache.accounts().in_use == 0


def test_space_is_made_from_the_block_unused_for_longest_and_from_a_sequences_end_first():
    cache = BlockCache(5)
    first, second = cache.take(2), cache.take(2)
    for index, block in enumerate([*first, *second]):
        publish(cache, block, b"%d" % index)
    cache.release(first)
    cache.release(second)
    cache.take(1)
    assert cache.count_cached([b"0", b"1"]) == 1  # the end of the older sequence went
    assert cache.count_cached([b"2", b"3"]) == 2


def held(cache: BlockCache, *keys: bytes) -> list[int]:
    """Blocks in use that have the contents of these keys."""
    blocks = cache.take(len(keys))
    for block, key in zip(blocks, keys, strict=True):
        publish(cache, block, key)
    return blocks


def test_what_only_bulk_work_has_used_goes_before_anything_else_the_oldest_first():
    cache = BlockCache(6)
    cache.release(held(cache, b"chat"))
    cache.release(held(cache, b"page 1"), bulk=True)
    cache.release(held(cache, b"page 2"), bulk=True)
    for kept in ([b"chat", b"page 1", b"page 2"], [b"chat", b"page 2"], [b"chat"], []):
        assert [key for key in (b"chat", b"page 1", b"page 2") if cache.count_cached([key])] == kept
        cache.take(1 if len(kept) < 3 else 3)
        cache.accounts()


@pytest.mark.parametrize("last", [True, False])
def test_what_somebody_used_who_waited_is_not_bulk_whoever_used_it_last(last: bool):
    cache = BlockCache(3)
    (block,) = held(cache, b"shared")
    cache.share([b"shared"])
    cache.release([block], bulk=last)
    cache.release([block], bulk=not last)
    cache.release(held(cache, b"page"), bulk=True)
    cache.take(1)
    assert (cache.count_cached([b"shared"]), cache.count_cached([b"page"])) == (1, 0)


def test_a_block_that_was_taken_anew_is_nobodys_before_it_is_used():
    cache = BlockCache(3)
    cache.release(held(cache, b"chat 1", b"chat 2"))
    cache.release(held(cache, b"page 1"), bulk=True)  # in the place of chat 2
    cache.take(1)
    assert (cache.count_cached([b"chat 1"]), cache.count_cached([b"page 1"])) == (1, 0)


def test_only_leading_keys_count_as_cached():
    cache = BlockCache(4)
    blocks = cache.take(2)
    for block, key in zip(blocks, (b"a", b"c"), strict=True):
        publish(cache, block, key)
    assert cache.count_cached([b"a", b"b", b"c"]) == 1


def test_random_use_never_loses_a_block():
    rng = np.random.default_rng(7)
    cache, held = BlockCache(40), []
    for turn in range(3000):
        if held and rng.random() < 0.5:
            cache.release(held.pop(rng.integers(len(held))), bulk=bool(turn % 3))
        elif taken := cache.take(int(rng.integers(1, 9))):
            for block in taken:
                if rng.random() < 0.6:
                    publish(cache, block, b"%d" % rng.integers(60))
            held.append(taken)
        hits = [key for key in (b"%d" % i for i in range(60)) if cache.count_cached([key])]
        if hits and turn % 5 == 0:
            held.append(cache.share(hits[:2]))
        cache.accounts()
    for blocks in held:
        cache.release(blocks)
    assert cache.accounts().in_use == 0


def visual(start: int, end: int, digest: bytes) -> Visual:
    return Visual(start, end, Picture(np.zeros((1, 32, 32, 3), np.uint8), digest, PictureInfo((1, 1), (1, 1), 1)))


@pytest.mark.row("I24")
def test_blocks_of_equal_tokens_differ_by_picture_by_offset_by_parent_and_by_tenant():
    ids = np.full(32, 9, np.int32)
    keys = [
        block_key(b"t", contents_of(ids, 0, (visual(0, 64, b"cat"),))),
        block_key(b"t", contents_of(ids, 0, (visual(0, 64, b"dog"),))),
        block_key(b"t", contents_of(ids, 32, (visual(0, 64, b"cat"),))),
        block_key(b"p", contents_of(ids, 0, (visual(0, 64, b"cat"),))),
        block_key(b"u", contents_of(ids, 0, (visual(0, 64, b"cat"),))),
        block_key(b"t", contents_of(ids, 0, ())),
        block_key(b"t", contents_of(ids[:31], 0, (visual(0, 64, b"cat"),))),
    ]
    assert len(set(keys)) == len(keys)
    assert keys[0] == block_key(b"t", contents_of(ids, 0, (visual(0, 64, b"cat"), visual(70, 90, b"dog"))))


def test_the_block_that_begins_most_alike_is_found_while_it_is_there():
    cache = BlockCache(4)
    one, two = cache.take(2)
    cache.publish(one, b"1", b"t", Contents(np.array([1, 2, 3, 4], np.int32)))
    cache.publish(two, b"2", b"t", Contents(np.array([1, 2, 9, 9], np.int32)))
    wanted = Contents(np.array([1, 2, 3, 5], np.int32))
    assert cache.closest(b"t", wanted) == (3, one)
    assert cache.closest(b"u", wanted) == (0, 0)
    cache.release([two, one])
    cache.take(2)  # writes over the first
    assert cache.closest(b"t", wanted) == (2, two)
    cache.take(1)
    assert cache.closest(b"t", wanted) == (0, 0)
    cache.accounts()


@dataclass
class Bytes:
    nbytes: int


def test_the_least_recently_used_value_goes_when_the_budget_is_full():
    lru = ByteLRU[Bytes](100)
    for key in (b"a", b"b"):
        lru.put(key, Bytes(50))
    lru.get(b"a")
    lru.put(b"c", Bytes(40))
    assert [lru.get(k) is not None for k in (b"a", b"b", b"c")] == [True, False, True]
    lru.check()


def test_a_value_that_may_only_fill_room_drops_no_other():
    lru = ByteLRU[Bytes](100)
    lru.put(b"a", Bytes(60))
    lru.put(b"b", Bytes(41), only_into_room=True)
    lru.put(b"c", Bytes(40), only_into_room=True)
    assert [lru.get(k) is not None for k in (b"a", b"b", b"c")] == [True, False, True]
    lru.check()


@pytest.mark.parametrize("size", [101, 10**12])
def test_a_value_larger_than_the_budget_is_not_kept(size: int):
    lru = ByteLRU[Bytes](100)
    lru.put(b"a", Bytes(size))
    assert lru.get(b"a") is None
    assert lru.nbytes == 0
