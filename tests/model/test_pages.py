"""Weights in a file's map move into pages of our own without changing place or value; a file's pages can be dropped."""

import threading
from pathlib import Path

import numpy as np
import pytest

from sightline.model import pages
from sightline.model.pages import HugePages, release_pages

HUGE = 2 << 20


@pytest.fixture
def mapped(tmp_path):
    """An array in a file's map, as checkpoints and packs are read: 12 MiB, at least four whole huge pages."""
    path = tmp_path / "weights"
    np.arange(3 << 20, dtype=np.int32).tofile(path)
    return np.memmap(path, np.int32, mode="c").reshape(-1, 1024)


@pytest.fixture
def few_at_a_time(monkeypatch):
    monkeypatch.setattr(pages, "_PIECE", HUGE)


def overwritten(array):
    """How many bytes of a map follow what is now written into its file: those that the file still backs."""
    np.memmap(array.filename, np.int32, mode="r+")[:] = -1
    return int((array == -1).sum()) * array.itemsize


def resident_bytes(array):
    """How much of a map that nothing has moved is in this process's memory."""
    at, size = 0, 0
    for line in Path("/proc/self/smaps").read_text(encoding="utf-8").splitlines():
        words = line.split()
        if "-" in words[0] and ":" not in words[0]:
            at = int(words[0].split("-")[0], 16)
        elif words[0] == "Rss:" and at == array.ctypes.data:
            size = int(words[1]) * 1024
    return size


def test_weights_move_without_changing_place_or_value(mapped, few_at_a_time):
    moving, expected = HugePages(room=1 << 30), mapped.copy()
    places = [moving.add(mapped[:100]), moving.add(mapped[100:])]
    moving.move()
    assert places == [mapped.ctypes.data, mapped[100:].ctypes.data]
    assert np.array_equal(mapped, expected)
    assert overwritten(mapped) < 2 * HUGE  # the two ends, which fill no huge page


def test_what_was_moved_stays_when_pages_are_dropped(mapped, few_at_a_time):
    moving, expected = HugePages(room=2 * HUGE), mapped.copy()
    moving.add(mapped)
    moving.move()
    release_pages([mapped])
    release_pages([mapped[1:]])
    assert np.array_equal(mapped, expected)


def test_others_read_right_values_while_weights_move(mapped, few_at_a_time):
    moving, total, sums, done = HugePages(room=1 << 30), int(mapped.sum()), set(), threading.Event()
    moving.add(mapped)

    def read():
        while not done.is_set():
            sums.add(int(mapped.sum()))

    readers = [threading.Thread(target=read) for _ in range(2)]
    for reader in readers:
        reader.start()
    moving.move()
    done.set()
    for reader in readers:
        reader.join()
    assert sums == {total}


def test_what_finds_no_room_stays_where_it_is(mapped, few_at_a_time):
    moving = HugePages(room=2 * HUGE + 1)
    moving.add(mapped)
    moving.move()
    assert mapped.nbytes - overwritten(mapped) == 2 * HUGE


@pytest.mark.parametrize("call", ["mmap", "mremap"])
def test_without_memory_from_the_system_it_stays_there_too(mapped, monkeypatch, call):
    moving = HugePages(room=1 << 30)
    moving.add(mapped)
    monkeypatch.setattr(pages._system(), call, lambda *_: pages._REFUSED)
    moving.move()
    assert overwritten(mapped) == mapped.nbytes


def test_arrays_far_apart_leave_what_lies_between(mapped):
    moving = HugePages(room=1 << 30)
    moving.add(mapped[:1])
    moving.add(mapped[-1:])
    moving.move()
    assert overwritten(mapped) == mapped.nbytes


def test_what_lies_in_no_map_is_left_alone():
    own = np.ones(3 << 20, np.float32)
    moving = HugePages(room=1 << 30)
    assert moving.add(own) == own.ctypes.data
    moving.move()
    assert (own == 1).all()


def test_dropped_pages_come_back_from_the_file(mapped):
    total = int(mapped.sum())
    before = resident_bytes(mapped)
    release_pages([mapped])
    assert (before, resident_bytes(mapped)) == (mapped.nbytes, 0)
    assert int(mapped.sum()) == total
