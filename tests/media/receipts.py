"""Draws receipts that the demo model can mostly read, as many as wanted. Knows Pillow and its own font; no model."""

from __future__ import annotations

from random import Random

import PIL.Image
import PIL.ImageDraw
import PIL.ImageFont

WIDTH, HEIGHT, MARGIN = 256, 320, 14
GOODS = ("Salad", "Oil", "Bread", "Milk", "Tea", "Rice")


def receipt(number: int) -> tuple[PIL.Image.Image, str]:
    """Receipt `number` and its total, always the same."""
    rng = Random(number)
    prices = {name: rng.randint(100, 2500) for name in rng.sample(GOODS, rng.randint(2, 3))}
    total = f"{sum(prices.values()) / 100:.2f}"
    rows = [("Urban Foods", ""), (f"2021-07-{number % 28 + 1:02}", "")]
    rows += [(name, f"{cents / 100:.2f}") for name, cents in prices.items()]
    page = PIL.Image.new("L", (WIDTH, HEIGHT), 255)
    draw, font = PIL.ImageDraw.Draw(page), PIL.ImageFont.load_default(18)
    for line, (left, right) in enumerate((*rows, ("Total", total))):
        top = MARGIN + 42 * line
        draw.text((MARGIN, top), left, font=font, fill=0)
        draw.text((WIDTH - MARGIN, top), right, font=font, fill=0, anchor="ra")
    return page, total
