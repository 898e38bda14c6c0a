"""Decides which frames of a clip the model sees, when they are, and at what size. Knows no file formats, no pixels.

Formulas: transformers 5.23, the Qwen3-VL video processor (`sample_frames`, `smart_resize`) and processor
(`_calculate_timestamps`). The decoding worker imports this module and does without numpy.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from sightline.errors import InvalidVideo
from sightline.media.images import MAX_ASPECT, shorten


@dataclass(frozen=True, slots=True, kw_only=True)
class ClipRule:
    """How much of a clip may reach the model, and in what portions.

    `min_pixels` and `max_pixels` count all frames together (frames x height x width), `frame_min` and `frame_max` one
    frame (None: no wish). Sides snap to patch x merge; `temporal` frames make one patch in time. `max_side` (pixels)
    is the operator's limit. Frames are taken at `fps` per second, at least `min_frames` and at most `max_frames`.
    """

    min_pixels: int
    max_pixels: int
    fps: float = 2.0
    min_frames: int = 4
    max_frames: int = 768
    patch: int = 16
    merge: int = 2
    temporal: int = 2
    frame_min: int | None = None
    frame_max: int | None = None
    max_side: int | None = None


def count_frames(total: int, rate: float, rule: ClipRule, num_frames: int | None = None) -> int:
    """How many of `total` frames, which come at `rate` per second, the model sees; at least 1, for total >= 1.

    `sample_frames`: int(total / rate * fps) within the rule's limits, unless `num_frames` asks for a number; that may
    be less than min_frames, not more than max_frames.
    """
    if num_frames is None:
        num_frames = max(int(min(total / rate * rule.fps, rule.max_frames)), rule.min_frames)
    return min(num_frames, rule.max_frames, total)


def spread(total: int, count: int) -> list[int]:
    """`count` of the indexes 0 to total - 1, evenly apart, first and last among them: round(linspace(…))."""
    if count == 1:
        return [0]
    step = (total - 1) / (count - 1)
    return [*(round(index * step) for index in range(count - 1)), total - 1]


def timestamps(times: Sequence[float], temporal: int = 2) -> tuple[float, ...]:
    """The second that the model is told for each temporal patch: the middle between its first and last frame.

    A last patch that lacks frames repeats the last one.
    """
    groups = [times[start : start + temporal] for start in range(0, len(times), temporal)]
    return tuple((group[0] + group[-1]) / 2 for group in groups)


def fit_clip(frames: int, height: int, width: int, rule: ClipRule) -> tuple[int, int]:
    """The (height, width) in pixels at which the model sees each frame of such a clip.

    `smart_resize`, with two additions: `max_side`, as for pictures, and a clip of one frame counts as two, which is
    what it is filled up to. Raises InvalidVideo when one side is over 200 times the other.
    """
    if max(height, width) > MAX_ASPECT * min(height, width):
        raise InvalidVideo(
            f"Invalid video data: the frames are {width} pixels wide and {height} high; "
            f"the longer side may be {MAX_ASPECT} times the shorter, crop them"
        )
    frames = max(frames, rule.temporal)
    cell = rule.patch * rule.merge
    height, width = shorten(height, width, rule.max_side, cell)
    if min(height, width) < cell:
        scale = max(cell / height, cell / width)
        height, width = int(height * scale), int(width * scale)
    most, least = _limits(frames, rule)
    # round() goes half to even, as the reference does: five frames count as four here, and three as four.
    snapped = round(frames / rule.temporal) * rule.temporal
    fitted_height, fitted_width = round(height / cell) * cell, round(width / cell) * cell
    if snapped * fitted_height * fitted_width > most:
        scale = math.sqrt(frames * height * width / most)
        fitted_height = max(cell, math.floor(height / scale / cell) * cell)
        fitted_width = max(cell, math.floor(width / scale / cell) * cell)
    elif snapped * fitted_height * fitted_width < least:
        scale = math.sqrt(least / (frames * height * width))
        fitted_height = math.ceil(height * scale / cell) * cell
        fitted_width = math.ceil(width * scale / cell) * cell
    return fitted_height, fitted_width


def _limits(frames: int, rule: ClipRule) -> tuple[int, int]:
    """Most and least pixels of all frames together, after what was wished for one."""
    most = rule.max_pixels if rule.frame_max is None else min(rule.max_pixels, frames * rule.frame_max)
    least = rule.min_pixels if rule.frame_min is None else frames * rule.frame_min
    return most, min(least, most)
