"""The pages that weights lie in: those of mapped files, and huge ones of our own that take their place. Knows arrays,
not what they mean.

Weights read where a file is mapped come as fast as its pages happen to lie: 17 to 30 GB/s on one machine, where memory
that the process filled itself gave 32, in huge pages 35 (docs/log.md).
"""

from __future__ import annotations

import ctypes
import mmap
import threading
from collections import defaultdict
from collections.abc import Iterable, Iterator
from functools import cache
from typing import Any
from weakref import WeakKeyDictionary

import numpy as np
from numpy.typing import NDArray

Array = NDArray[Any]
Span = tuple[int, int]  # first address, and the one behind the last

_HUGE = 2 << 20
_PIECE = 64 << 20  # moved at a time; so much more memory is in use meanwhile
_PRIVATE = mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS
_MAYMOVE_FIXED = 3  # of mremap
_REFUSED = ctypes.c_void_p(-1).value

_lock = threading.Lock()
_moved: WeakKeyDictionary[mmap.mmap, list[Span]] = WeakKeyDictionary()  # ascending; what a file no longer backs


def map_of(array: Array) -> mmap.mmap | None:
    """The file map that an array is a view of, or None."""
    mapping: Any = array
    while isinstance(mapping, np.ndarray):
        mapping = mapping.base
    return mapping if isinstance(mapping, mmap.mmap) else None


def release_pages(maps: Iterable[Array]) -> None:
    """Drop the resident pages of private file maps, or of views of them, that were never written to.

    They are read again from the file when anyone asks. What was moved into pages of our own stays.
    """
    for array in maps:
        mapping = map_of(array)
        if mapping is None:
            continue
        start, end = _span(array)
        with _lock:
            for first, behind in (*_moved.get(mapping, ()), (end, end)):
                _drop(mapping, start, min(first, end))
                start = max(start, behind)


def ask_for_pages(arrays: Iterable[Array]) -> None:
    """Have the system begin to read what these arrays, of file maps, need from the disk; does not wait for small ones.

    Asked for one by one as they are touched, a page takes a disk's whole way there and back.
    """
    for array in arrays:
        mapping = map_of(array)
        if mapping is not None and array.nbytes:
            start, end = (address - _base(mapping) for address in _span(array))
            first = start // mmap.PAGESIZE * mmap.PAGESIZE
            mapping.madvise(mmap.MADV_WILLNEED, first, end - first)


class HugePages:
    """Arrays in file maps whose pages are to become huge ones, each at the address it has. Any thread may add."""

    def __init__(self, room: int):
        """`room`: most bytes to move; what finds none stays where it is."""
        self._room = room
        self._wanted: list[Array] = []

    def add(self, array: Array) -> int:
        """The address of a contiguous array, which stays, whatever becomes of its pages."""
        if map_of(array) is not None:
            self._wanted.append(array)
        return int(array.ctypes.data)

    def move(self) -> None:
        """Put huge pages with the same content in the place of the files'. Others may read all the while.

        Seconds for a 2B model where the system has to look for memory. Ends where there is no room, or no memory.
        """
        wanted, self._wanted = self._wanted, []
        for mapping, span in _spans(wanted):
            for start, end in _pieces(*span):
                if end - start > self._room or not _move(mapping, start, end):
                    return
                self._room -= end - start


def _span(array: Array) -> Span:
    start = int(array.ctypes.data)
    return start, start + array.nbytes


def _spans(arrays: Iterable[Array]) -> Iterator[tuple[mmap.mmap, Span]]:
    """From the first to the last address of arrays that lie close together in one map."""
    by_map: dict[mmap.mmap, list[Span]] = defaultdict(list)
    for array in arrays:
        mapping = map_of(array)
        if mapping is not None:
            by_map[mapping].append(_span(array))
    for mapping, spans in by_map.items():
        begin, end = min(spans)
        for first, behind in sorted(spans):
            if first - end > _HUGE:
                yield mapping, (begin, end)
                begin = first
            end = max(end, behind)
        yield mapping, (begin, end)


def _pieces(start: int, end: int) -> Iterator[Span]:
    """The huge pages that lie wholly between two addresses, some at a time."""
    start, end = -(-start // _HUGE) * _HUGE, end // _HUGE * _HUGE
    for at in range(start, end, _PIECE):
        yield at, min(at + _PIECE, end)


def _base(mapping: mmap.mmap) -> int:
    return int(np.frombuffer(mapping, np.uint8).ctypes.data)


def _drop(mapping: mmap.mmap, start: int, end: int) -> None:
    base = _base(mapping)
    first = -(-(start - base) // mmap.PAGESIZE) * mmap.PAGESIZE
    if first < end - base:  # else it lies within one page
        mapping.madvise(mmap.MADV_DONTNEED, first, end - base - first)


def _move(mapping: mmap.mmap, start: int, end: int) -> bool:
    """Whether memory of our own with the same content now lies there.

    To those who read it meanwhile the exchange is one moment: the system has them wait while it is under way.
    """
    system, size = _system(), end - start
    taken = system.mmap(None, size + _HUGE, mmap.PROT_READ | mmap.PROT_WRITE, _PRIVATE, -1, 0)
    if taken == _REFUSED:  # by the system, or by a limit on this process
        return False
    own = -(-taken // _HUGE) * _HUGE
    system.munmap(taken, own - taken)
    system.munmap(own + size, taken + _HUGE - own)
    system.madvise(own, size, mmap.MADV_HUGEPAGE)  # a system without any takes small ones
    ctypes.memmove(own, start, size)
    with _lock:
        moved: bool = system.mremap(own, size, size, _MAYMOVE_FIXED, start) == start
        if moved:
            _moved.setdefault(mapping, []).append((start, end))
    if not moved:
        system.munmap(own, size)
    return moved


@cache
def _system() -> ctypes.CDLL:
    """The calls that Python has no names for, or that would undo at the end what was moved meanwhile."""
    library = ctypes.CDLL(None)
    address, size, number = ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int
    library.mmap.argtypes, library.mmap.restype = (address, size, number, number, number, ctypes.c_long), address
    library.munmap.argtypes = (address, size)
    library.madvise.argtypes = (address, size, number)
    library.mremap.argtypes, library.mremap.restype = (address, size, size, number, address), address
    return library
