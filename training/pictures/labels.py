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


class Find(IntEnum):
    """Columns of a token's label row: what a question may look for at this token."""

    ROLE = 0
    PARTNER_FIRST = 1  # a price or a bar's value carries the first two letters of its name
    PARTNER_SECOND = 2
    OBJECT = 3
    REGION = 4
    BOX = 5  # hundreds and tens of x0, y0, x1, y1 in 0-999: eight columns
    WIDTH = 13


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


def box_digits(box: tuple[int, int, int, int]) -> dict[int, int]:
    """Find.BOX columns of a box in 0-1000. The units digit is below a quarter of a pixel and is not taught here."""
    columns = {}
    for corner, value in enumerate(box):
        hundreds, tens = divmod(min(value, 999) // 10, 10)
        columns[Find.BOX + 2 * corner] = hundreds + 1
        columns[Find.BOX + 2 * corner + 1] = tens + 1
    return columns


def box_sides(columns: NDArray[np.uint8]) -> NDArray[np.float32]:
    """`box_digits` undone: (..., Find.WIDTH) labels to (..., 4) sides in 0-1; meaningless where there is no box."""
    digits = columns[..., Find.BOX : Find.WIDTH].astype(np.float32) - 1
    sides: NDArray[np.float32] = (digits[..., 0::2] * 100 + digits[..., 1::2] * 10 + 5) / 1000
    return sides


def partner(name: str) -> dict[int, int]:
    """Find.PARTNER columns: the first two characters of the name that this value belongs to."""
    letters = name.replace(" ", "")[:2].ljust(2)
    return {Find.PARTNER_FIRST: glyph_class(letters[0]), Find.PARTNER_SECOND: glyph_class(letters[1])}
