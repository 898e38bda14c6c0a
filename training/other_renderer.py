"""Receipts of the same content drawn by Cairo: what does a change of renderer cost? Nothing here is trained on.

Other rasteriser and hinting, text placed by Cairo, serif fonts among them, dotted rules, other margins.
"""

from random import Random

import numpy as np
from numpy.typing import NDArray

from .held_out import Trial
from .pictures import receipts, words
from .pictures.wordings import WORDINGS

WIDTH, HEIGHT = 256, 320
FONTS = ["Liberation Sans", "DejaVu Sans", "Noto Sans", "DejaVu Serif", "Liberation Serif"]


def trials(per_task: int) -> dict[str, list[Trial]]:
    """Totals, dates and merchants."""
    found: dict[str, list[Trial]] = {"receipt.total": [], "receipt.date": [], "receipt.merchant": []}
    for number in range(per_task):
        rng = Random(f"cairo/{number}")
        pixels, answers = _draw(rng)
        for task, answer in answers.items():
            wordings = WORDINGS[task].chinese if rng.random() < 0.5 else WORDINGS[task].english
            found[task].append(Trial(task, (pixels,), (), rng.choice(wordings), answer))
    return found


def _draw(rng: Random) -> tuple[NDArray[np.uint8], dict[str, str]]:
    """Pixels (HEIGHT, WIDTH, 3) and the answers by task."""
    import cairocffi as cairo

    surface = cairo.ImageSurface(cairo.FORMAT_RGB24, WIDTH, HEIGHT)
    pen = cairo.Context(surface)
    pen.set_source_rgb(*[rng.uniform(0.9, 1.0)] * 3)
    pen.paint()
    pen.set_source_rgb(*[rng.uniform(0.0, 0.2)] * 3)
    face, size, left = rng.choice(FONTS), rng.choice([17, 18, 19]), rng.randint(8, 18)

    def write(text: str, y: float, *, size_px: float = size, bold: bool = False, where: str = "left") -> None:
        pen.select_font_face(
            face, cairo.FONT_SLANT_NORMAL, cairo.FONT_WEIGHT_BOLD if bold else cairo.FONT_WEIGHT_NORMAL
        )
        pen.set_font_size(size_px)
        width = pen.text_extents(text)[4]
        pen.move_to({"left": left, "middle": (WIDTH - width) / 2, "right": WIDTH - left - width}[where], y)
        pen.show_text(text)

    goods = receipts.pick_goods(rng, HEIGHT)
    merchant, date = receipts.pick_merchant(rng), words.date(rng)
    total = words.money(sum(cents for _, cents in goods))
    y = 30.0
    write(merchant, y, size_px=min(22, 300 / len(merchant)), bold=True, where="middle")
    y += size + 12
    write(rng.choice(["", "Date: "]) + date, y)
    for name, cents in goods:
        y += size + 12
        write(name, y)
        write(words.money(cents), y, where="right")
    y += 10
    pen.set_dash([3, 3])
    pen.move_to(left, y)
    pen.line_to(WIDTH - left, y)
    pen.stroke()
    y += size + 6
    write("Total", y, bold=True)
    write(total, y, bold=True, where="right")
    rows = np.frombuffer(surface.get_data(), np.uint8).reshape(HEIGHT, surface.get_stride() // 4, 4)
    pixels = np.ascontiguousarray(rows[:, :WIDTH, 2::-1])
    return pixels, {"receipt.total": total, "receipt.date": date, "receipt.merchant": merchant}
