"""Floats to integers of 8 or 4 bits with scales. Knows one matrix at a time, no names and no files."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray

F32 = NDArray[np.float32]
Feedback = list[F32]  # one matrix per SPAN inputs, as `feedback` makes them

SPAN = 512  # inputs that take over each other's rounding errors; the work grows with it, and with its cube
_TINY = np.float32(2.0**-14)  # smallest normal float16
_BLOCK = 32  # columns whose errors reach those behind them as one product: 26 ns a value; 34 with 8, 32 with 64
_DAMPING = 0.1  # of the mean power of the inputs, added to each: what the prompts did not show can still come


def int8(values: F32) -> tuple[NDArray[np.int8], NDArray[np.float16]]:
    """Symmetric rounding per row: integers [out, in] in -127..127 and scales [out, 1]."""
    scale = np.maximum(np.abs(values).max(-1, keepdims=True) / np.float32(127), _TINY).astype(np.float16)
    levels = np.rint(values / scale.astype(np.float32))
    return np.clip(levels, -127, 127, out=levels).astype(np.int8), scale


def int4(values: F32, group: int, feedback: Feedback | None = None) -> tuple[NDArray[np.uint8], NDArray[np.float16]]:
    """Symmetric rounding in groups: packed pairs [out, groups, group/2] of levels -8..7 and scales [out, groups, 1].

    The value of largest size in a group is put on level -8, the one level that has no opposite. Each level is the
    nearest one; with `feedback`, the nearest to the value and what earlier inputs' rounding left to it.
    """
    grouped = values.reshape(len(values), -1, group)
    top = np.take_along_axis(grouped, np.abs(grouped).argmax(-1, keepdims=True), -1)
    scale = top / np.float32(-8)
    scale = np.where(np.abs(scale) < _TINY, _TINY, scale).astype(np.float16)
    if feedback is None:
        levels = np.rint(grouped / scale.astype(np.float32))
        np.clip(levels, -8, 7, out=levels)
    else:
        levels = _with_feedback(values, scale[..., 0].astype(np.float32), feedback).reshape(grouped.shape)
    halves = levels.astype(np.int8).view(np.uint8) & np.uint8(15)
    packed: NDArray[np.uint8] = halves[..., 0::2] | (halves[..., 1::2] << np.uint8(4))
    return packed, scale


def feedback(rows: F32) -> Feedback:
    """For each SPAN of the inputs `rows` [n, in] of a matrix: how the inputs behind one take over its rounding error.

    Entry [i, j] is the share of input i's error, its own share [i, i] taken as one, that is subtracted from input j.
    This is the upper Cholesky factor of the inverse of rows' * rows, as in GPTQ (Frantar et al., 2022).
    """
    return [_shares(rows[:, at : at + SPAN]) for at in range(0, rows.shape[1], SPAN)]


def _shares(rows: F32) -> F32:
    power = rows.T @ rows
    mean = float(np.trace(power)) / len(power)
    if not 0 < mean < np.inf:  # nothing seen, or nothing that can be counted with: plain rounding
        return np.eye(len(power), dtype=np.float32)
    power[np.diag_indices_from(power)] += np.float32(_DAMPING * mean)
    upper: NDArray[Any] = np.linalg.cholesky(np.linalg.inv(power.astype(np.float64))).T
    return (upper / np.diag(upper)[:, None]).astype(np.float32)


def _with_feedback(values: F32, scale: F32, feedback: Feedback) -> F32:
    """Levels [out, in] of `values` under `scale` [out, groups], a column after the other.

    Columns lie in memory as rows here. The errors of a block of columns reach those behind the block as one product.
    """
    left = np.ascontiguousarray(values.T)
    scales = np.ascontiguousarray(scale.T)
    group = len(left) // len(scales)
    for span, shares in _spans(left, feedback):
        for start in range(0, len(shares), _BLOCK):
            end = min(start + _BLOCK, len(shares))
            errors = np.empty((end - start, left.shape[1]), np.float32)
            for column in range(start, end):
                value, unit = left[span + column], scales[(span + column) // group]
                level = np.rint(value / unit)
                np.clip(level, -8, 7, out=level)
                error = np.subtract(value, level * unit, out=errors[column - start])
                left[span + column] = level
                rest = slice(span + column + 1, span + end)
                left[rest] -= shares[column, column + 1 : end, None] * error
            left[span + end : span + len(shares)] -= shares[start:end, end:].T @ errors
    return left.T


def _spans(left: F32, feedback: Feedback) -> Iterator[tuple[int, F32]]:
    """Where each span of columns begins, and its shares."""
    at = 0
    for shares in feedback:
        yield at, shares
        at += len(shares)
    assert at == len(left)
