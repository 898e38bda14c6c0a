"""Draws test pictures: words, shapes and noise, the same for the same seed. Knows nothing of models.

    python bench/pictures.py --seed 7 --size 1024x768 picture.jpg

A new seed is a picture no cache has seen, at the same cost of reading it.
"""

from __future__ import annotations

import argparse
import io
import random
from pathlib import Path

from PIL import Image, ImageDraw, ImageFont

WORDS = ("invoice", "total", "date", "amount", "price", "tax", "paid", "order", "street", "north", "circle", "green")
FIGURES = 20
LINES = 24
NOISE = 0.1  # share of random colour in each pixel, so that no two pictures have a patch in common


def draw(seed: int, width: int = 1024, height: int = 768) -> Image.Image:
    """An RGB page of figures and lines of words, `width` x `height` pixels."""
    rng = random.Random(seed)
    page = Image.new("RGB", (width, height), (250, 248, 240))
    pen = ImageDraw.Draw(page)
    for _ in range(FIGURES):
        x, y, side = rng.randrange(width), rng.randrange(height), rng.randrange(20, 160)
        shape = rng.choice([pen.rectangle, pen.ellipse])
        shape((x, y, x + side, y + side // 2), fill=tuple(rng.randbytes(3)), outline=(0, 0, 0))
    for _ in range(LINES):
        words = f"{rng.choice(WORDS)} {rng.choice(WORDS)} {rng.randrange(10**6)}"
        place = rng.randrange(width), rng.randrange(height)
        pen.text(place, words, fill=(10, 10, 30), font=ImageFont.load_default(rng.randrange(14, 40)))
    return Image.blend(page, Image.frombytes("RGB", (width, height), rng.randbytes(width * height * 3)), NOISE)


def jpeg(seed: int, width: int = 1024, height: int = 768) -> bytes:
    """The picture of `seed` as a JPEG of quality 90."""
    out = io.BytesIO()
    draw(seed, width, height).save(out, "JPEG", quality=90)
    return out.getvalue()


def parse_size(text: str) -> tuple[int, int]:
    """`1024x768` to (width, height) in pixels."""
    width, height = text.split("x")
    return int(width), int(height)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("out", type=Path)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--size", type=parse_size, default=(1024, 768), help="WIDTHxHEIGHT in pixels")
    given = parser.parse_args()
    given.out.write_bytes(jpeg(given.seed, *given.size))


if __name__ == "__main__":
    main()
