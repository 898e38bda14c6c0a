"""A sheet to draw on that remembers where every character and object landed. Knows no task and no question.

From the remembered marks come, at no cost, the labels that teach the vision tower to read and the visual token that
each character of an answer was read from.
"""

import io
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from itertools import pairwise
from pathlib import Path
from random import Random

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFilter, ImageFont

from .labels import GLYPHS_PER_PATCH, LOWER, PATCH_PX, TOKEN_PX, Find, Half, Link, glyph_class, partner

Colour = tuple[int, int, int]

FONT_ROOT = Path("/usr/share/fonts/truetype")
# Regular and bold of each family, and its share of the pictures.
FAMILIES = [
    ("dejavu/DejaVuSans.ttf", "dejavu/DejaVuSans-Bold.ttf", 0.27),
    ("dejavu/DejaVuSansMono.ttf", "dejavu/DejaVuSansMono-Bold.ttf", 0.22),
    ("liberation/LiberationSans-Regular.ttf", "liberation/LiberationSans-Bold.ttf", 0.27),
    ("noto/NotoSans-Regular.ttf", "noto/NotoSans-Bold.ttf", 0.16),
    ("liberation/LiberationMono-Regular.ttf", "liberation/LiberationMono-Bold.ttf", 0.08),
]


@dataclass(frozen=True, slots=True)
class Drawn:
    """A string on the page; its i-th character is mark `first + i`."""

    text: str
    first: int

    def part(self, text: str) -> "Drawn":
        return Drawn(text, self.first + self.text.rindex(text))

    def shifted(self, marks: int) -> "Drawn":
        return Drawn(self.text, self.first + marks)

    @property
    def marks(self) -> range:
        return range(self.first, self.first + len(self.text))


@dataclass(frozen=True, slots=True)
class Picture:
    """A finished picture and its labels. Sides are multiples of 32 px."""

    pixels: NDArray[np.uint8]  # (height, width, 3)
    patch_labels: NDArray[np.uint8]  # (height/16, width/16, 3) glyph classes in reading order
    token_labels: NDArray[np.uint8]  # (height/32 * width/32, Find.WIDTH)
    # (len(Link), height/16, width/16): patch, counted row by row, where what this one is linked to begins; else -1.
    patch_links: NDArray[np.int32]
    mark_tokens: NDArray[np.int32]  # visual token of every mark; -1 when it left the picture
    mark_halves: NDArray[np.int32]  # Half of that token


@cache
def font(path: str, size_px: float) -> ImageFont.FreeTypeFont:
    return ImageFont.truetype(str(FONT_ROOT / path), size_px, layout_engine=ImageFont.Layout.BASIC)


@cache
def _advance(path: str, size_px: float, char: str) -> float:
    return font(path, size_px).getlength(char)


def text_width(path: str, size_px: float, text: str) -> float:
    return sum(_advance(path, size_px, char) for char in text)


def pick_family(rng: Random) -> tuple[str, str]:
    """(regular, bold) paths of one font family."""
    regular, bold, _ = rng.choices(FAMILIES, [share for *_, share in FAMILIES])[0]
    return regular, bold


class Page:
    """Coordinates are in pixels of the finished picture; the drawing itself may be larger and is reduced at the end."""

    def __init__(self, rng: Random, width: int, height: int, background: Colour, *, upload: bool = True) -> None:
        self.width, self.height = width, height
        self._rng = rng
        # Larger drawings imitate an upload that the image processor shrinks.
        self.scale = rng.choices([1, 1.5, 2, 3], [0.6, 0.1, 0.22, 0.08])[0] if upload else 1
        self._image = Image.new("RGB", (int(width * self.scale), int(height * self.scale)), background)
        self.draw = ImageDraw.Draw(self._image)
        self._marks: list[tuple[float, float, int]] = []
        self._areas: list[tuple[int, int, int, int]] = []
        self._notes: list[tuple[int, Mapping[int, int]]] = []
        self._links: list[tuple[Link, int, int]] = []

    def text(self, x: float, y: float, text: str, path: str, size_px: float, colour: Colour) -> Drawn:
        scale, first = self.scale, len(self._marks)
        self.draw.text((x * scale, y * scale), text, font=font(path, size_px * scale), fill=colour)
        for char in text:
            advance = _advance(path, size_px * scale, char) / scale
            self._marks.append((x + advance / 2, y + size_px * 0.62, glyph_class(char)))
            x += advance
        return Drawn(text, first)

    def mark(self, x: float, y: float) -> int:
        """Remember a place that is no glyph: an object's centre."""
        self._marks.append((x, y, 0))
        return len(self._marks) - 1

    def line(self, points: Iterable[tuple[float, float]], colour: Colour, width_px: float = 1) -> None:
        scaled = [(x * self.scale, y * self.scale) for x, y in points]
        self.draw.line(scaled, fill=colour, width=max(1, round(width_px * self.scale)))

    def area(self, box: tuple[float, float, float, float], first_class: int, second_class: int) -> None:
        """Label every patch whose centre lies in the box."""
        x0, y0, x1, y1 = box
        for row in range(int(y0 // PATCH_PX), int(y1 // PATCH_PX) + 1):
            for column in range(int(x0 // PATCH_PX), int(x1 // PATCH_PX) + 1):
                x, y = (column + 0.5) * PATCH_PX, (row + 0.5) * PATCH_PX
                if x0 <= x <= x1 and y0 <= y <= y1:
                    self._areas.append((row, column, first_class, second_class))

    def note(self, marks: Iterable[int], finds: Mapping[int, int]) -> None:
        """Label the visual tokens of these marks, or their halves; later notes win."""
        self._notes.extend((mark, finds) for mark in marks)

    def link(self, value: Drawn, name: Drawn) -> None:
        """Remember that this value belongs to that name."""
        self.note(value.marks, partner(name.text))
        self.look_at(Link.PARTNER, value.marks, name.first)
        self.look_at(Link.PARTNER, name.marks, value.first)

    def in_order(self, names: Sequence[Drawn]) -> None:
        """Remember that these are listed one after the other."""
        for before, name in pairwise(names):
            self.look_at(Link.PREVIOUS, name.marks, before.first)

    def look_at(self, link: Link, marks: Iterable[int], target: int) -> None:
        """Remember which mark the patches of these marks are to look at."""
        self._links.extend((link, mark, target) for mark in marks)

    def finish(self, turn_deg: float = 0.0, noise: float = 0.0) -> Picture:
        """Turn, blur, compress, reduce, add noise; then place every mark."""
        rng, image = self._rng, self._image
        if turn_deg:
            image = image.rotate(turn_deg, Image.Resampling.BICUBIC, fillcolor=image.getpixel((2, 2)))
        if rng.random() < 0.15:
            image = image.filter(ImageFilter.GaussianBlur(rng.uniform(0.3, 0.7) * self.scale))
        if rng.random() < 0.2:
            image = _compressed(image, rng.randint(55, 95))
        if self.scale != 1:
            image = image.resize((self.width, self.height), Image.Resampling.BICUBIC)
        pixels = np.asarray(image)
        if noise:
            grain = np.random.default_rng(rng.getrandbits(32)).integers(-128, 128, (*pixels.shape[:2], 1), np.int16)
            pixels = np.clip(pixels.astype(np.int16) + (grain * int(noise) >> 7), 0, 255).astype(np.uint8)
        places = [self._turned(x, y, turn_deg) for x, y, _ in self._marks]
        mark_tokens = np.array([self._token_at(x, y) for x, y in places], np.int32)
        lower = [int(y // PATCH_PX) % 2 for _, y in places]
        halves = [half if glyph else Half.BOTH for half, (_, _, glyph) in zip(lower, self._marks, strict=True)]
        return Picture(
            pixels,
            self._patch_labels(places),
            self._token_labels(mark_tokens, lower),
            self._patch_links(places),
            mark_tokens,
            np.array(halves, np.int32),
        )

    def _turned(self, x: float, y: float, turn_deg: float) -> tuple[float, float]:
        cos, sin = math.cos(math.radians(turn_deg)), math.sin(math.radians(turn_deg))
        dx, dy = x - self.width / 2, y - self.height / 2
        return self.width / 2 + cos * dx + sin * dy, self.height / 2 - sin * dx + cos * dy

    def _token_at(self, x: float, y: float) -> int:
        if not (0 <= x < self.width and 0 <= y < self.height):
            return -1
        return int(y // TOKEN_PX) * (self.width // TOKEN_PX) + int(x // TOKEN_PX)

    def _patch_labels(self, places: list[tuple[float, float]]) -> NDArray[np.uint8]:
        rows, columns = self.height // PATCH_PX, self.width // PATCH_PX
        labels = np.zeros((rows, columns, GLYPHS_PER_PATCH), np.uint8)
        for row, column, first, second in self._areas:
            if row < rows and column < columns:
                labels[row, column, :2] = first, second
        glyphs: dict[tuple[int, int], list[int]] = {}
        for (x, y), (_, _, glyph) in zip(places, self._marks, strict=True):
            if glyph and 0 <= x < self.width and 0 <= y < self.height:
                glyphs.setdefault((int(y // PATCH_PX), int(x // PATCH_PX)), []).append(glyph)
        for patch, classes in glyphs.items():
            labels[patch] = (classes + [0] * GLYPHS_PER_PATCH)[:GLYPHS_PER_PATCH]
        return labels

    def _token_labels(self, mark_tokens: NDArray[np.int32], lower: Sequence[int]) -> NDArray[np.uint8]:
        labels = np.zeros((self.height // TOKEN_PX * (self.width // TOKEN_PX), Find.WIDTH), np.uint8)
        for mark, finds in self._notes:
            if mark_tokens[mark] >= 0:
                for column, value in finds.items():
                    labels[mark_tokens[mark], LOWER.get(column, column) if lower[mark] else column] = value
        return labels

    def _patch_links(self, places: list[tuple[float, float]]) -> NDArray[np.int32]:
        columns = self.width // PATCH_PX
        links = np.full((len(Link), self.height // PATCH_PX * columns), -1, np.int32)
        for link, source, target in self._links:
            if self._token_at(*places[source]) >= 0 and self._token_at(*places[target]) >= 0:
                at, to = (
                    int(y // PATCH_PX) * columns + int(x // PATCH_PX) for x, y in (places[source], places[target])
                )
                links[link, at] = to
        return links.reshape(len(Link), -1, columns)


def _compressed(image: Image.Image, quality: int) -> Image.Image:
    buffer = io.BytesIO()
    image.save(buffer, "JPEG", quality=quality)
    return Image.open(buffer).convert("RGB")


def grey(level: int) -> Colour:
    return level, level, level


def some_noise(rng: Random, strongest: float = 24) -> float:
    """No noise in two pictures of three."""
    return rng.choice([0.0, 0.0, rng.uniform(4, strongest)])


def some_turn(rng: Random, widest_deg: float = 1.2) -> float:
    """No rotation in two pictures of three."""
    return rng.choice([0.0, 0.0, rng.uniform(-widest_deg, widest_deg)])
