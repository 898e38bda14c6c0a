"""Where every patch and token stands: position tables and rotary angles, in numpy. Knows grids, not weights' files.

Formulas: the Qwen3-VL model as published in transformers (`get_rope_index`, `fast_pos_embed_interpolate`,
interleaved M-RoPE).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

F32 = NDArray[np.float32]
I32 = NDArray[np.int32]


@dataclass(frozen=True, slots=True)
class Grid:
    """A picture's or video's extent in patches: `t` temporal patches (frames) of `h` x `w`, before 2x2 merging."""

    t: int
    h: int
    w: int

    @property
    def patches(self) -> int:
        return self.t * self.h * self.w


def merge_order(h: int, w: int, merge: int = 2) -> tuple[I32, I32]:
    """Row and column of every patch of one frame in block order: each `merge` x `merge` block is contiguous."""
    shape = (h // merge, w // merge, merge, merge)
    block_row, block_col, row, col = np.indices(shape, np.int32)
    return (block_row * merge + row).reshape(-1), (block_col * merge + col).reshape(-1)


def position_embedding(table: F32, h: int, w: int, merge: int = 2) -> F32:
    """Bilinear lookup, corners aligned, of a [side*side, hidden] table: [h*w, hidden] of one frame, in block order."""
    side, hidden = round(len(table) ** 0.5), table.shape[1]
    cells = table.reshape(side, side, hidden)
    y0, y1, fy = _source(h, side)
    x0, x1, fx = _source(w, side)
    along = fx[:, None]
    mixed = np.empty((h // merge, w // merge, merge, merge, hidden), np.float32)
    for row in range(h):  # row by row: what is worked on stays in a core's cache
        upper, lower, down = cells[y0[row]], cells[y1[row]], fy[row]
        values = upper[x0] * ((1 - down) * (1 - along))
        values += upper[x1] * ((1 - down) * along)
        values += lower[x0] * (down * (1 - along))
        values += lower[x1] * (down * along)
        mixed[row // merge, :, row % merge] = values.reshape(-1, merge, hidden)
    return mixed.reshape(h * w, hidden)


def _source(count: int, side: int) -> tuple[I32, I32, F32]:
    """For each of `count` cells: the two neighbouring table indexes and the share of the second."""
    at = np.linspace(0, side - 1, count, dtype=np.float32)
    low = at.astype(np.int32)
    return low, np.minimum(low + 1, side - 1), at - low.astype(np.float32)


def vision_rotary(h: int, w: int, head_dim: int, merge: int = 2, theta: float = 10000.0) -> tuple[F32, F32]:
    """cos and sin [h*w, head_dim] of one frame: half the frequencies turn with the row, half with the column."""
    half = head_dim // 2
    frequencies = theta ** (-np.arange(0, half, 2, dtype=np.float32) / half)
    rows, cols = merge_order(h, w, merge)
    angles = np.concatenate([rows[:, None] * frequencies, cols[:, None] * frequencies], -1, dtype=np.float32)
    return _cos_sin(angles)


class TextRotary:
    """Interleaved M-RoPE: frequency i turns with the token's T, H or W position in turn."""

    def __init__(self, head_dim: int, theta: float, section: Sequence[int]):
        count = head_dim // 2
        index = np.arange(count)
        self._frequencies = (theta ** (-2.0 * index / head_dim)).astype(np.float32)
        self._axis = np.zeros(count, np.int64)
        for axis in (1, 2):  # section[0] is never used: T has what the other two leave
            self._axis[(index % 3 == axis) & (index < 3 * section[axis])] = axis

    def __call__(self, positions: I32) -> tuple[F32, F32]:
        """cos and sin [T, head_dim] for positions [3, T] (time, height, width)."""
        angles = positions[self._axis].T.astype(np.float32) * self._frequencies
        return _cos_sin(angles)


def _cos_sin(angles: F32) -> tuple[F32, F32]:
    both = np.concatenate([angles, angles], -1)
    return np.cos(both), np.sin(both)


def token_positions(length: int, spans: Sequence[tuple[int, Grid]], merge: int = 2) -> tuple[I32, int]:
    """M-RoPE positions [3, length] of a prompt and the position of the token after it.

    `spans` lists (first token, grid of one frame) of every visual run in order. Text counts on by one in all three
    axes; a picture stands still in time, spreads in height and width, and the text after it goes on behind its
    longer side.
    """
    positions = np.empty((3, length), np.int32)
    at, now = 0, 0
    for start, grid in spans:
        positions[:, at:start] = np.arange(now, now + start - at, dtype=np.int32)
        now += start - at
        rows, cols = grid.h // merge, grid.w // merge
        end = start + rows * cols
        positions[0, start:end] = now
        positions[1, start:end] = now + np.repeat(np.arange(rows, dtype=np.int32), cols)
        positions[2, start:end] = now + np.tile(np.arange(cols, dtype=np.int32), rows)
        now += max(rows, cols)
        at = end
    positions[:, at:] = np.arange(now, now + length - at, dtype=np.int32)
    return positions, now + length - at
