"""One door to the generator: a kind of picture, a size and a source of chance make one example."""

from collections.abc import Callable
from dataclasses import replace
from functools import partial
from random import Random

from . import charts, numbers, pages, pairs, receipts, scenes
from .questions import Example


def _receipt(rng: Random, width: int, height: int, unlisted: float = 0.0, *, tight: bool = False) -> Example:
    receipt = receipts.draw(rng, width, height, unlisted=unlisted, tight=tight)
    return Example((receipt.picture,), tuple(receipts.questions(rng, receipt)))


def _chart(rng: Random, width: int, height: int) -> Example:
    chart = charts.draw(rng, width, height)
    return Example((chart.picture,), tuple(charts.questions(rng, chart)))


def _scene(rng: Random, width: int, height: int) -> Example:
    scene = scenes.draw(rng, width, height)
    return Example((scene.picture,), tuple(scenes.questions(rng, scene)))


KINDS: dict[str, Callable[[Random, int, int], Example]] = {
    "receipt": _receipt,
    "unlisted_receipt": partial(_receipt, unlisted=0.6),
    "tight_receipt": partial(_receipt, tight=True),
    "chart": _chart,
    "scene": _scene,
    "text": pages.text_lines,
    "form": pages.form,
    "dense": pages.dense,
    "two_receipts": pairs.two_receipts,
    "two_scenes": pairs.two_scenes,
}


def example(rng: Random, kind: str, width: int, height: int) -> Example:
    """Draw one example; both sides are multiples of 32 px. Whatever it shows, two numbers are to be compared, too."""
    drawn = KINDS[kind](rng, width, height)
    if not drawn.questions:
        return drawn
    return replace(drawn, questions=(*drawn.questions, numbers.larger(rng), numbers.larger(rng)))
