"""Makes encoded pictures for the media tests. Knows Pillow's encoders; none of our code."""

from __future__ import annotations

import io
from typing import Any

import numpy as np
import PIL.Image

ORIENTATION = 0x0112


def pattern(height: int, width: int, channels: int = 3) -> np.ndarray:
    """Stripes and ramps, uint8 [height, width, channels]: no symmetry, detail at every scale."""
    y, x, c = np.mgrid[:height, :width, :channels]
    return ((3 * x + 5 * y + x * y // 7 + 70 * c) % 256).astype(np.uint8)


def encoded(image: PIL.Image.Image, kind: str = "PNG", **options: Any) -> bytes:
    file = io.BytesIO()
    image.save(file, kind, **options)
    return file.getvalue()


def png(height: int, width: int) -> bytes:
    return encoded(PIL.Image.fromarray(pattern(height, width)), compress_level=1)


def turned(orientation: int) -> PIL.Image.Exif:
    exif = PIL.Image.Exif()
    exif[ORIENTATION] = orientation
    return exif
