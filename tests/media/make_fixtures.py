"""Writes pictures of many kinds and what Hugging Face transformers makes of them.

Run `PYTHONPATH=tests python tests/media/make_fixtures.py` where transformers 5.23 and Pillow 13 are installed; nothing
else here needs transformers. It refuses to know our decoder: every digest comes from the Pillow image processor.

fixtures/expected.json has, for each case, the resize limits, the size of the upright picture, the size the model sees
and the SHA-256 of those pixels (RGB uint8, row by row). Cases with a `file` decode that file; the others, a PNG of
`pictures.pattern(height, width)`.
"""

from __future__ import annotations

import hashlib
import io
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import PIL.Image
import PIL.ImageOps
from transformers.models.qwen2_vl.image_processing_pil_qwen2_vl import Qwen2VLImageProcessorPil

from media.pictures import encoded, pattern, png, turned

FIXTURES = Path(__file__).resolve().parent / "fixtures"
MIN_PIXELS, MAX_PIXELS = 65_536, 16_777_216  # the published checkpoints'

SIZES = (
    *((1, 1), (2, 2), (27, 27), (16, 16), (100, 100), (256, 256), (31, 500), (1, 200), (200, 1), (48, 80), (80, 48)),
    *((336, 448), (480, 640), (639, 481), (720, 1280), (768, 1024), (1000, 1000), (1079, 1919), (64, 1900)),
)
SMALLER_CEILINGS = ((480, 640, 90_112), (1000, 700, 262_144), (333, 777, 131_072), (33, 1800, 90_112))


def files() -> Iterator[tuple[str, bytes]]:
    """(name, contents) of small pictures, one for each way of storing pixels."""
    height, width = 44, 60
    rgb = PIL.Image.fromarray(pattern(height, width))
    rgba = PIL.Image.fromarray(pattern(height, width, 4))
    grey, palette = rgb.convert("L"), rgb.quantize(32)
    cmyk = PIL.Image.frombytes("CMYK", rgb.size, pattern(height, width, 4).tobytes())
    yield "rgb.jpg", encoded(rgb, "JPEG")
    yield "progressive.jpg", encoded(rgb, "JPEG", progressive=True)
    yield "grey.jpg", encoded(grey, "JPEG")
    yield "cmyk.jpg", encoded(cmyk, "JPEG")
    yield "two_pictures.jpg", encoded(rgb, "MPO", save_all=True, append_images=[rgba.convert("RGB")])
    for orientation in (0, *range(1, 10), 65535):
        yield f"orientation_{orientation}.jpg", encoded(rgb, "JPEG", exif=turned(orientation))
    yield "orientation_6.png", encoded(rgba, exif=turned(6))
    yield "rgba.png", encoded(rgba)
    yield "grey_alpha.png", encoded(rgba.convert("LA"))
    yield "grey.png", encoded(grey)
    yield "bilevel.png", encoded(rgb.convert("1"))
    yield "palette.png", encoded(palette)
    yield "palette_one_transparent.png", encoded(palette, transparency=3)
    yield "palette_alphas.png", encoded(palette, transparency=bytes(range(0, 256, 8)))
    yield "rgb_one_transparent.png", encoded(rgb, transparency=rgb.getpixel((0, 0)))
    yield "grey_one_transparent.png", encoded(grey, transparency=grey.getpixel((0, 0)))
    yield "lossy.webp", encoded(rgb, "WEBP")
    yield "alpha.webp", encoded(rgba, "WEBP")
    yield "lossless.webp", encoded(rgb, "WEBP", lossless=True)
    yield "animated.webp", encoded(rgb, "WEBP", save_all=True, append_images=[rgba])
    yield "rgb.bmp", encoded(rgb, "BMP")
    yield "rgba.bmp", encoded(rgba, "BMP")
    yield "bilevel.bmp", encoded(rgb.convert("1"), "BMP")
    yield "palette.bmp", encoded(palette, "BMP")
    yield "palette.gif", encoded(palette, "GIF")
    yield "transparent.gif", encoded(palette, "GIF", transparency=3)
    yield "animated.gif", encoded(palette, "GIF", save_all=True, append_images=[rgba.quantize(16)])


def expected(data: bytes, max_pixels: int) -> dict[str, Any]:
    image = PIL.ImageOps.exif_transpose(PIL.Image.open(io.BytesIO(data)))
    size = {"shortest_edge": MIN_PIXELS, "longest_edge": max_pixels}
    reference = Qwen2VLImageProcessorPil(patch_size=16, merge_size=2, temporal_patch_size=2, size=size)
    batch = reference(images=[image], do_rescale=False, do_normalize=False, return_tensors="np")
    _, rows, columns = (int(n) for n in batch["image_grid_thw"][0])
    patches = batch["pixel_values"].reshape(rows // 2, columns // 2, 2, 2, 3, 2, 16, 16)[:, :, :, :, :, 0]
    pixels = patches.transpose(0, 2, 5, 1, 3, 6, 4).reshape(rows * 16, columns * 16, 3).astype(np.uint8)
    return {
        "max_pixels": max_pixels,
        "original": [image.height, image.width],
        "resized": list(pixels.shape[:2]),
        "sha256": hashlib.sha256(pixels.tobytes()).hexdigest(),
    }


def main() -> None:
    FIXTURES.mkdir(exist_ok=True)
    cases = []
    for name, data in files():
        (FIXTURES / name).write_bytes(data)
        cases.append({"file": name, **expected(data, MAX_PIXELS)})
    for height, width, max_pixels in (*((*size, MAX_PIXELS) for size in SIZES), *SMALLER_CEILINGS):
        cases.append(expected(png(height, width), max_pixels))
    lines = ",\n".join(json.dumps(case) for case in cases)
    (FIXTURES / "expected.json").write_text(f"[\n{lines}\n]\n")


if __name__ == "__main__":
    main()
