"""Memory of our own for weights, in huge pages where the system has them. Knows arrays, not what they mean.

Weights read where a file is mapped come as fast as its pages happen to lie: 17 to 30 GB/s on one machine, where memory
that the process filled itself gave 32, in huge pages 35 (docs/log.md).
"""

from __future__ import annotations

import contextlib
import mmap
import threading
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sightline.model.checkpoint import map_of, release_pages

Array = NDArray[Any]

_HUGE = 2 << 20
_CHUNK = 64 << 20
_LINE = 64  # a kernel reads rows faster when they start on a cache line


class Arena:
    """Copies of arrays, which live as long as the arena. Any thread may put."""

    def __init__(self, room: int):
        """`room`: most bytes to copy; what finds none stays where it is."""
        self._room = room
        self._lock = threading.Lock()
        self._chunk: Array = np.zeros(0, np.uint8)
        self._used = 0
        # By address and size, with the original, whose address is taken as long: tied matrices are copied once.
        self._copies: dict[tuple[int, int], tuple[Array, Array]] = {}

    def put(self, array: Array) -> Array:
        """A copy of a contiguous array from a file's map, whose pages are given back; without room, the array.

        So is what lies in no map.
        """
        if map_of(array) is None:
            return array
        place = (array.ctypes.data, array.nbytes)
        with self._lock:
            if place in self._copies:
                return self._copies[place][1]
            if array.nbytes > self._room:
                return array
            try:
                taken = self._take(array.nbytes)
            except OSError:  # the system, or a limit on this process, refuses more memory
                self._room = 0
                return array
        copy = taken.view(array.dtype).reshape(array.shape)
        np.copyto(copy, array)
        release_pages([array])
        with self._lock:
            self._copies[place] = array, copy
        return copy

    def has(self, array: Array) -> bool:
        """Whether there is a copy of it."""
        return (array.ctypes.data, array.nbytes) in self._copies

    def _take(self, size: int) -> Array:
        if self._used + size > len(self._chunk):
            self._chunk, self._used = _pages(max(size, _CHUNK)), 0
        taken = self._chunk[self._used : self._used + size]
        self._used += -(-size // _LINE) * _LINE
        self._room -= size
        return taken


def _pages(size: int) -> Array:
    """At least `size` zeros that begin on a huge page; the system gives memory as it is written."""
    whole = -(-size // _HUGE) * _HUGE
    pages = mmap.mmap(-1, whole + _HUGE, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    with contextlib.suppress(OSError):  # a kernel without huge pages
        pages.madvise(mmap.MADV_HUGEPAGE)
    every = np.frombuffer(pages, np.uint8)
    start = -every.ctypes.data % _HUGE
    return every[start : start + whole]
