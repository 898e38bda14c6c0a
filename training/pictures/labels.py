"""Names what a patch or a visual token shows, so that the vision tower can be taught directly. Holds no drawing code.

A patch is 16x16 px and has up to three glyphs; a visual token is 2x2 patches. Class 0 always means "nothing here".
These labels are used in training only: the heads that predict them are dropped on export.
"""

from enum import IntEnum

import numpy as np
from numpy.typing import NDArray

from .words import COLOURS, SHAPES

PATCH_PX = 16
TOKEN_PX = 32
CLASSES = 128
GLYPHS_PER_PATCH = 3
FIFTY = 50  # answers give the sides of a box in these steps


class Find(IntEnum):
    """Columns of a token's label row: what a question may look for at this token.

    Two lines of text can lie in one token. What is said of text is therefore said of the token's upper or lower half.
    """

    ROLE = 0
    PARTNER_FIRST = 1  # a price or a bar's value carries letters of its name: two first ones and, below, the last
    PARTNER_SECOND = 2
    OBJECT = 3
    REGION = 4
    BOX = 5  # x0, y0, x1, y1 in fifties of 0-1000: four columns
    PARTNER_LAST = 9  # years differ in nothing else
    PREVIOUS = 10  # the object to the left of this one
    LOWER_ROLE = 11
    LOWER_FIRST = 12
    LOWER_SECOND = 13
    LOWER_LAST = 14
    SIDE = 15  # x0, y0, x1, y1 in 0-1000, in tens: four columns, taught as a distance and not told as classes
    WIDTH = 19


LOWER = {
    Find.ROLE: Find.LOWER_ROLE,
    Find.PARTNER_FIRST: Find.LOWER_FIRST,
    Find.PARTNER_SECOND: Find.LOWER_SECOND,
    Find.PARTNER_LAST: Find.LOWER_LAST,
}


class Half(IntEnum):
    """The part of a visual token that a mark lies in; an object's centre stands for the whole token."""

    UPPER = 0
    LOWER = 1
    BOTH = 2


class Role(IntEnum):
    MERCHANT = 1
    DATE = 2
    ITEM = 3
    PRICE = 4
    TOTAL = 5
    PAYMENT = 6
    TITLE = 7
    LABEL = 8
    VALUE = 9
    HIGHEST = 10
    LOWEST = 11
    KEY = 12
    FIELD = 13
    HIGHEST_VALUE = 14
    LOWEST_VALUE = 15


class Link(IntEnum):
    """What a patch is taught to look at."""

    PARTNER = 0  # a value's name, a name's value
    HIGHEST = 1  # the highest value of the chart, from all names and values
    LOWEST = 2
    PREVIOUS = 3  # what stands before this in a list of all: the label or object to the left, the name above


FIRST = 127  # class of Find.PREVIOUS: there is none
BAR = 114
POINT = 115


def glyph_class(char: str) -> int:
    """1..94 for the printable ASCII characters, 0 for a space."""
    return ord(char) - 32


def shape_class(shape: str) -> int:
    return 96 + SHAPES.index(shape)


def colour_class(colour: str) -> int:
    return 104 + list(COLOURS).index(colour)


def object_class(colour: str, shape: str) -> int:
    return 1 + SHAPES.index(shape) * len(COLOURS) + list(COLOURS).index(colour)


def box_columns(box: tuple[float, float, float, float]) -> dict[int, int]:
    """Find.BOX and Find.SIDE columns of a box in 0-1000.

    In fifties, because a linear reader can tell these from the place. A digit of tens, which comes round ten times,
    stayed at chance.
    """
    columns = {}
    for corner, value in enumerate(box):
        columns[Find.BOX + corner] = round(value / FIFTY) + 1
        columns[Find.SIDE + corner] = min(int(value), 999) // 10 + 1
    return columns


def box_sides(columns: NDArray[np.uint8]) -> NDArray[np.float32]:
    """(..., Find.WIDTH) labels to (..., 4) sides in 0-1; meaningless where there is no box."""
    tens = columns[..., Find.SIDE : Find.SIDE + 4].astype(np.float32) - 1
    sides: NDArray[np.float32] = (tens * 10 + 5) / 1000
    return sides


def partner(name: str) -> dict[int, int]:
    """Find.PARTNER columns: the first two and the last character of the name that this value belongs to."""
    letters = name.replace(" ", "").ljust(2)
    columns = (Find.PARTNER_FIRST, Find.PARTNER_SECOND, Find.PARTNER_LAST)
    return dict(zip(columns, map(glyph_class, (letters[0], letters[1], letters[-1])), strict=True))
