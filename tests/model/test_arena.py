"""Weights are copied out of a file's map, once, and the map's pages are given back; without room they stay there."""

from pathlib import Path

import numpy as np
import pytest

from sightline.model.arena import Arena


@pytest.fixture
def mapped(tmp_path):
    """An array in a file's map, as checkpoints and packs are read."""
    path = tmp_path / "weights"
    np.arange(3 << 18, dtype=np.int32).tofile(path)
    return np.memmap(path, np.int32, mode="c").reshape(-1, 1024)


def resident_bytes(array):
    """How much of a map is in this process's memory."""
    at, size = 0, 0
    for line in Path("/proc/self/smaps").read_text(encoding="utf-8").splitlines():
        words = line.split()
        if "-" in words[0] and ":" not in words[0]:
            at = int(words[0].split("-")[0], 16)
        elif words[0] == "Rss:" and at == array.ctypes.data:
            size = int(words[1]) * 1024
    return size


def test_a_copy_has_the_values_and_begins_on_a_cache_line(mapped):
    arena = Arena(room=64 << 20)
    copies = [arena.put(mapped[:100]), arena.put(mapped[100:])]
    assert np.array_equal(np.concatenate(copies), mapped)
    assert [copy.ctypes.data % 64 for copy in copies] == [0, 0]
    assert not any(np.shares_memory(copy, mapped) for copy in copies)


def test_pages_of_the_map_are_given_back(mapped):
    assert mapped.sum(dtype=np.int64) > 0
    before = resident_bytes(mapped)
    Arena(room=64 << 20).put(mapped)
    assert (before, resident_bytes(mapped)) == (mapped.nbytes, 0)


def test_what_is_put_twice_is_copied_once(mapped):
    arena = Arena(room=mapped.nbytes)
    assert arena.put(mapped) is arena.put(mapped)
    assert arena.has(mapped)


def test_what_finds_no_room_stays_where_it_is(mapped):
    arena = Arena(room=mapped.nbytes - 1)
    assert arena.put(mapped) is mapped
    assert not arena.has(mapped)
    assert arena.put(mapped[:5]) is not mapped  # smaller ones may still


def test_without_memory_from_the_system_it_stays_there_too(mapped, monkeypatch):
    def refused(_size):
        raise OSError(12, "Cannot allocate memory")

    monkeypatch.setattr("sightline.model.arena._pages", refused)
    assert Arena(room=mapped.nbytes).put(mapped) is mapped


def test_what_lies_in_no_map_is_not_copied():
    own = np.ones(1000, np.float32)
    assert Arena(room=1 << 20).put(own) is own
