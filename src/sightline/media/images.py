"""Decides at what size the model sees a picture, and says what a decoded one is. Knows no file formats, no pixels."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from sightline.errors import InvalidImage, InvalidRequest
from sightline.types import Image

if TYPE_CHECKING:  # the decoding worker imports this module and does without numpy
    import numpy as np
    from numpy.typing import NDArray

MAX_ASPECT = 200  # what the model's own image processor accepts


@dataclass(frozen=True, slots=True)
class Picture:
    """A decoded picture, upright and at the size the model sees.

    `pixels` is RGB uint8 [height, width, 3]; `original` is the (height, width) of the upright picture as it was sent.
    """

    pixels: NDArray[np.uint8]
    original: tuple[int, int]


@dataclass(frozen=True, slots=True, kw_only=True)
class ResizeRule:
    """How big a picture may reach the model: pixel counts (height x width) and the cell its sides snap to.

    A checkpoint gives the first four. `max_side` (pixels) is the operator's limit, `exact` the (height, width) that a
    request asked for; `requested` fills them in.
    """

    min_pixels: int
    max_pixels: int
    patch: int = 16
    merge: int = 2
    max_side: int | None = None
    exact: tuple[int, int] | None = None


def requested(rule: ResizeRule, image: Image, max_side: int | None = None) -> ResizeRule:
    """The rule for one picture: the model's, lowered by what the request and the operator say, never raised.

    `max_pixels` above the model's and `min_pixels` above the ceiling come down to it. Raises InvalidRequest for values
    below 1, for min_pixels > max_pixels, and for a resized_height without a resized_width.
    """
    sides = {"resized_height": image.resized_height, "resized_width": image.resized_width}
    for name, value in {"min_pixels": image.min_pixels, "max_pixels": image.max_pixels, **sides}.items():
        if value is not None and value < 1:
            raise InvalidRequest(
                f"{name} is {value}, must be at least 1; leave it out to use the model's", param=image.param
            )
    for name, value in sides.items():
        if value is not None and value > rule.max_pixels:
            raise InvalidRequest(
                f"{name} is {value}, the limit is {rule.max_pixels}; leave it out to keep the picture's shape",
                param=image.param,
            )
    if image.min_pixels and image.max_pixels and image.min_pixels > image.max_pixels:
        raise InvalidRequest(
            f"min_pixels is {image.min_pixels}, above max_pixels, which is {image.max_pixels}; lower min_pixels",
            param=image.param,
        )
    ceiling = min(rule.max_pixels, image.max_pixels or rule.max_pixels)
    floor = min(ceiling, image.min_pixels or rule.min_pixels)
    return replace(rule, min_pixels=floor, max_pixels=ceiling, max_side=max_side, exact=_exact(image))


def _exact(image: Image) -> tuple[int, int] | None:
    height, width = image.resized_height, image.resized_width
    if height is None and width is None:
        return None
    if height is None or width is None:
        here, missing = ("width", "height") if height is None else ("height", "width")
        what = f"resized_{here} is {height or width}, resized_{missing} is missing; give both or neither"
        raise InvalidRequest(what, param=image.param)
    if max(height, width) > MAX_ASPECT * min(height, width):
        raise InvalidRequest(
            f"resized_height {height} and resized_width {width} are too far apart; "
            f"the longer may be {MAX_ASPECT} times the shorter",
            param=image.param,
        )
    return height, width


def fit(height: int, width: int, rule: ResizeRule) -> tuple[int, int]:
    """The (height, width) in pixels at which the model sees a picture of this size; both snap to patch x merge.

    Equal to `smart_resize` of transformers' Qwen2-VL image processor, whose snapping may pass `max_pixels` by less than
    one row plus one column of cells when a picture is very thin or min_pixels is close to max_pixels. Two additions:
    - `max_side`: a longer picture is fitted as if it had been scaled down to it first. Only the size is computed that
      way: the pixels are still resampled once. `min_pixels` wins over `max_side` for very thin pictures.
    - `exact` takes the place of the picture's own size, and min_pixels does not apply to it.

    Raises InvalidImage when one side is over 200 times the other.
    """
    if max(height, width) > MAX_ASPECT * min(height, width):
        raise InvalidImage(
            f"Invalid image data: the picture is {width} pixels wide and {height} high; "
            f"the longer side may be {MAX_ASPECT} times the shorter, crop it"
        )
    cell = rule.patch * rule.merge
    height, width = shorten(*(rule.exact or (height, width)), rule.max_side, cell)
    # round() goes half to even, as the reference does: 48 px become 64, 80 px become 64.
    fitted_height, fitted_width = round(height / cell) * cell, round(width / cell) * cell
    if rule.exact:
        fitted_height, fitted_width = max(cell, fitted_height), max(cell, fitted_width)
    if fitted_height * fitted_width > rule.max_pixels:
        scale = math.sqrt(height * width / rule.max_pixels)
        fitted_height = max(cell, math.floor(height / scale / cell) * cell)
        fitted_width = max(cell, math.floor(width / scale / cell) * cell)
    elif fitted_height * fitted_width < rule.min_pixels and not rule.exact:
        scale = math.sqrt(rule.min_pixels / (height * width))
        fitted_height = math.ceil(height * scale / cell) * cell
        fitted_width = math.ceil(width * scale / cell) * cell
    return fitted_height, fitted_width


def shorten(height: int, width: int, max_side: int | None, cell: int) -> tuple[int, int]:
    """This size scaled down until its long side is at most `max_side`, itself snapped down to a cell."""
    longest = max(height, width)
    if max_side is None or longest <= max_side:
        return height, width
    side = max(cell, max_side // cell * cell)
    return max(1, round(height * side / longest)), max(1, round(width * side / longest))
