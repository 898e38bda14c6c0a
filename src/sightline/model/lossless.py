"""Keeps bf16 matrices in 12 bits a weight, without loss, in a file that later starts map. Knows no graphs.

A weight's low byte, the mantissa and the last bit of the exponent, stays as it is. Its high byte, the sign and the rest
of the exponent, hardly varies within a matrix: a code of four bits says which of the 16 most frequent ones it is, its
book. The few weights with another are listed as exceptions. Our own kernels read this (native/matrix.hpp).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from sightline.errors import CheckpointError
from sightline.model.checkpoint import Checkpoint, Tensor, read_safetensors
from sightline.model.packs import Entry, Progress, new_pack
from sightline.model.pages import release_pages
from sightline.model.quantize import is_matrix
from sightline.model.weights import Weights, experts_are_transposed, head_name

Array = NDArray[Any]
U8 = NDArray[np.uint8]
U16 = NDArray[np.uint16]

RECIPE = 1  # raise when packed bytes change: old packs are then made anew
BLOCK, BLOCK_BYTES = 128, 192  # weights, and what they take: 64 low bytes of each half, 64 bytes of codes
_TILE = 16  # our own kernels read so many rows at a time
_WIDEST = 1 << 16  # an exception's column has 16 bits
_BOOK = 16
_BOOK_BYTES = 64  # the book, and zeros: what follows starts on a cache line
_EXCEPTION_BYTES = 4
_MOST_EXCEPTIONS = 0.01  # of a matrix; each costs as much as two or three weights
_PIECE = 1 << 18  # weights coded at a time: fits a core's cache

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Plan:
    """How a tensor of one matrix [rows, width] or of some [E, rows, width] is coded.

    `books` [E, 16] holds each matrix's most frequent high bytes; `exceptions` is how many the worst of them has.
    """

    tensor: Tensor
    books: U8
    exceptions: int

    @property
    def worth_it(self) -> bool:
        rows, width = self.tensor.shape[-2:]
        return self.exceptions <= _MOST_EXCEPTIONS * rows * width

    def entries(self) -> Iterator[Entry]:
        """What is written: the coded weights, and the rest: books and exceptions. Of a tensor that stays as stored, an
        empty rest, so that the next start need not count again."""
        *lead, rows, width = self.tensor.shape
        if self.worth_it:
            yield self.tensor.name, "U8", (*lead, rows, width // BLOCK, BLOCK_BYTES)
            size = _exceptions_at(rows) + _EXCEPTION_BYTES * self.exceptions
            yield self.tensor.name + ".rest", "U8", (*lead, size + -size % 64)
        else:
            yield self.tensor.name + ".rest", "U8", (0,)


def open_lossless(checkpoint: Checkpoint, cache: Path, threads: int = 1, progress: Progress | None = None) -> Weights:
    """The weights as stored, the language model's matrices from a pack in `cache`, made when missing.

    Raises PackNotKept when the cache cannot hold it.
    """
    wanted = list(matrices(checkpoint))
    if not wanted:
        return Weights(checkpoint)
    path = cache / "packed" / f"{checkpoint.digest()}-exact-r{RECIPE}.safetensors"
    if not _is_complete(path, wanted):
        pack(wanted, path, threads, progress)
    mapped, found = read_safetensors(path)
    coded = {name: found[name] for t in wanted if t.name in found for name in (t.name, t.name + ".rest")}
    return Weights(checkpoint, coded, (mapped,))


def matrices(checkpoint: Checkpoint) -> Iterator[Tensor]:
    """Every matrix that our own kernels can read in 12 bits a weight, in file order, under its official name."""
    head = head_name(checkpoint)
    for name, tensor in checkpoint.tensors.items():
        if tensor.dtype != "BF16" or name.startswith("model.visual.") or not is_matrix(name, tensor):
            continue
        if name.endswith(("embed_tokens.weight", "lm_head.weight")) and name != head:
            continue  # no kernel reads it
        rows, width = tensor.shape[-2:]
        if rows % _TILE or width % BLOCK or width > _WIDEST:
            continue
        if len(tensor.shape) == 3 and experts_are_transposed(checkpoint, name):
            continue
        yield replace(tensor, name=name)


def pack(wanted: Sequence[Tensor], path: Path, threads: int = 1, progress: Progress | None = None) -> None:
    """Write `wanted` to `path`, which appears only when it is whole. Raises PackNotKept.

    Pages of the files read from are given back on the way: a pack needs little memory of its own.
    """
    total = 2 * sum(tensor.nbytes for tensor in wanted)  # each is read twice: to find its book, and to code it
    done = 0

    def all_of(work: Callable[[T], Any], items: Sequence[T]) -> Iterator[Any]:
        nonlocal done
        for tensor, result in zip(wanted, pool.map(work, items), strict=True):
            done += tensor.nbytes
            if progress:
                progress("packing weights", done / total)
            yield result

    pool = ThreadPoolExecutor(threads)
    try:
        plans = list(all_of(_plan, wanted))
        with new_pack(path, [entry for plan in plans for entry in plan.entries()]) as (_, views):
            for _ in all_of(lambda plan: _code(plan, views), plans):
                pass
    finally:
        pool.shutdown(cancel_futures=True)  # whoever stops the load must not wait for all the rest


def _plan(tensor: Tensor) -> Plan:
    books, exceptions = [], 0
    for matrix in tensor.data.reshape(-1, *tensor.shape[-2:]):
        counts = _high_bytes(matrix)
        book = np.argsort(-counts, kind="stable")[:_BOOK]
        books.append(book)
        exceptions = max(exceptions, int(counts.sum() - counts[book].sum()))
    release_pages([tensor.data])
    return Plan(tensor, np.stack(books).astype(np.uint8), exceptions)


def _high_bytes(matrix: U16) -> NDArray[np.int64]:
    """How often each of the 256 occurs. Counted two at a time, which takes half as long."""
    counts, flat = np.zeros(1 << 16, np.int64), matrix.reshape(-1)
    for start in range(0, len(flat), _PIECE):
        pairs = (flat[start : start + _PIECE] >> 8).astype(np.uint8).view(np.uint16)
        counts += np.bincount(pairs, minlength=len(counts))
    square = counts.reshape(256, 256)
    return np.asarray(square.sum(0) + square.sum(1))


def _code(plan: Plan, views: Mapping[str, Array]) -> None:
    if not plan.worth_it:
        return
    rows, width = plan.tensor.shape[-2:]
    stack = plan.tensor.data.reshape(-1, rows, width)
    blocks = views[plan.tensor.name].reshape(len(stack), rows, -1)
    rests = views[plan.tensor.name + ".rest"].reshape(len(stack), -1)
    for matrix, book, out, rest in zip(stack, plan.books, blocks, rests, strict=True):
        code_matrix(matrix, book, out, rest)
    release_pages([plan.tensor.data, blocks, rests])


def code_matrix(matrix: U16, book: U8, out: U8, rest: U8) -> None:
    """Write a matrix's blocks to `out` [rows, width / 128 * 192], its book and its exceptions to `rest`, zeros."""
    rows, width = matrix.shape
    table, counts, listed = _code_table(book), np.zeros(rows + 1, np.int32), []
    step = max(1, _PIECE // width)
    for start in range(0, rows, step):
        piece = matrix[start : start + step]
        suspects = _code_blocks(piece, table, out[start : start + step].reshape(-1, BLOCK_BYTES))
        if suspects.size:
            at, within = np.nonzero(~np.isin(piece.reshape(-1, BLOCK)[suspects] >> 8, book))
            row, block = np.divmod(suspects[at], width // BLOCK)
            column = block * BLOCK + within
            counts[1 + start :][: len(piece)] = np.bincount(row, minlength=len(piece))
            listed.append(np.stack([column, piece[row, column]], 1).astype(np.uint16))
    rest[:_BOOK] = book
    rest[_BOOK_BYTES:][: counts.nbytes] = np.cumsum(counts, dtype=np.int32).view(np.uint8)
    if listed:
        exceptions = np.concatenate(listed).reshape(-1).view(np.uint8)
        rest[_exceptions_at(rows) :][: len(exceptions)] = exceptions


def _code_table(book: U8) -> U16:
    """For two high bytes, the second times 256: a byte of two codes, and 256 more when either has none."""
    code, unknown = np.zeros(256, np.uint16), np.full(256, 256, np.uint16)
    code[book], unknown[book] = np.arange(_BOOK), 0
    return np.asarray(code | code[:, None] << 4 | unknown | unknown[:, None]).reshape(-1)


def _code_blocks(piece: U16, table: U16, blocks: U8) -> NDArray[np.int64]:
    """Write a piece of whole rows to `blocks` [n, 192]; returns which of them have exceptions."""
    words = blocks.view(np.uint64)  # eight bytes each
    words[:, :16].reshape(-1, 2, 4, 2)[...] = _woven(piece.astype(np.uint8))
    first, second = (
        np.ascontiguousarray(_woven((piece >> 8).astype(np.uint8))).view(np.uint8).reshape(-1, 2, 64).swapaxes(0, 1)
    )
    codes = table.take(first | second.astype(np.uint16) << 8, mode="clip")  # no check of indices: a third faster
    blocks[:, 128:] = codes
    return np.flatnonzero((codes >= 256).any(1))


def _woven(values: U8) -> NDArray[np.uint64]:
    """Bytes in the order of a block, eight to a word: in each half of 64, eight of its first 32, eight of its last."""
    return values.reshape(-1).view(np.uint64).reshape(-1, 2, 2, 4).swapaxes(2, 3)


def _exceptions_at(rows: int) -> int:
    """Where in the rest the exceptions begin: behind the book, and how many come before each row."""
    starts = 4 * (rows + 1)
    return _BOOK_BYTES + starts + -starts % 64


def _is_complete(path: Path, wanted: Sequence[Tensor]) -> bool:
    """Whether `path` is a pack of exactly these tensors; a damaged or foreign file is simply made anew."""
    try:
        _, found = read_safetensors(path)
    except CheckpointError:
        return False
    return all(_is_sound(tensor, found.get(tensor.name), found.get(tensor.name + ".rest")) for tensor in wanted)


def _is_sound(tensor: Tensor, coded: Tensor | None, rest: Tensor | None) -> bool:
    """Whether a coded tensor fits, and its exceptions lie within it: kernels go where they say without asking."""
    if coded is None or rest is None:
        return coded is None and rest is not None and rest.dtype == "U8" and rest.shape == (0,)
    *lead, rows, width = tensor.shape
    if (coded.dtype, coded.shape) != ("U8", (*lead, rows, width // BLOCK, BLOCK_BYTES)):
        return False
    at = _exceptions_at(rows)
    if rest.dtype != "U8" or rest.shape[:-1] != tuple(lead) or rest.shape[-1] < at or rest.shape[-1] % 64:
        return False
    for each in rest.data.reshape(-1, rest.shape[-1]):
        starts = each[_BOOK_BYTES:][: 4 * (rows + 1)].view(np.int32)
        columns = each[at:].view(np.uint16)[::2]
        if starts[0] or (np.diff(starts) < 0).any() or starts[-1] > len(columns):
            return False
        if (columns[: starts[-1]] >= width).any():  # a uint16: never for the widest
            return False
    return True
