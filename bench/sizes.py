"""Measures the first token behind pictures of 0.1 to 4 megapixels, and fits the cost formula's curve to it.

    python bench/sizes.py --checkpoint DIR --sightline int8 --genai int8=DIR --genai-python PYTHON --rounds 1

The formula counts the operations of one picture and a short question (multiply and add are two): those of the
matrices, in proportion to patches and tokens, and those of attention, in proportion to their squares. Two speeds, one
for each kind, are fitted to the first system's times by least squares of the relative errors.
"""

from __future__ import annotations

import statistics
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from rich.console import Console

import pictures
from report import Figure
from rounds import Measured, Size, card_of, measure, options, parse, publish, quietly
from sightline.model.config import ModelConfig

SIZES: tuple[Size, ...] = ((352, 288), (576, 448), (832, 608), (1024, 768), (1152, 864), (1632, 1216), (2304, 1728))


@dataclass(frozen=True, slots=True)
class Cost:
    """Operations until the first token, in units of 1e12: those of `matrices` and those of `attention`."""

    matrices: float
    attention: float


@dataclass(frozen=True, slots=True)
class Curve:
    """What fitted the times best, in 1e12 operations a second, and the largest relative error of a time."""

    matrices_tops: float
    attention_tops: float
    worst: float
    points: Mapping[str, float]  # megapixels and seconds


def cost(config: ModelConfig, patches: int, tokens: int) -> Cost:
    """Of a picture of `patches` patches and a prompt of `tokens` tokens, the picture's among them.

    Vision: patch embedding, `depth` blocks of four square matrices and two of the MLP, and the mergers, which see 4
    patches at once; attention multiplies all patches with all, twice. Language: the same of its layers; attention is
    causal, so half of all pairs; the head is computed for one token.
    """
    v, t = config.vision, config.text
    wide = v.hidden * v.merge**2
    block = 4 * v.hidden**2 + 2 * v.hidden * v.intermediate
    merger = (1 + len(v.deepstack)) * (wide**2 + wide * v.out_hidden) / v.merge**2
    per_patch = 2 * (v.patch_values * v.hidden + v.depth * block + merger)
    inner = 3 * t.hidden * (t.experts_per_token * t.expert_intermediate if t.experts else t.intermediate)
    attended = 2 * t.hidden * (t.heads + t.kv_heads) * t.head_dim
    per_token = 2 * t.layers * (attended + inner)
    matrices = patches * per_patch + tokens * per_token + 2 * t.vocab * t.hidden
    attention = 4 * v.depth * v.hidden * patches**2 + 2 * t.layers * t.heads * t.head_dim * tokens**2
    return Cost(matrices / 1e12, attention / 1e12)


def patches_of(config: ModelConfig, size: Size) -> int:
    """How many patches a picture has; the model sees its sides as multiples of two patches."""
    snap = config.vision.patch * config.vision.merge
    return round(size[0] / snap) * round(size[1] / snap) * config.vision.merge**2


def fit(config: ModelConfig, seconds: Mapping[Size, float], tokens: Mapping[Size, int]) -> Curve:
    """The formula with the two speeds that bring it nearest to the times, drawn from 0.1 to 4 megapixels."""
    costs = [cost(config, patches_of(config, size), tokens[size]) for size in seconds]
    times = np.array(list(seconds.values()))
    counted = np.array([[c.matrices, c.attention] for c in costs]) / times[:, None]
    pace = np.linalg.lstsq(counted, np.ones(len(times)), rcond=None)[0]
    if (pace <= 0).any():  # too few or too noisy points to tell them apart: one speed for both
        pace = np.full(2, 1 / counted.sum(1).mean())
    text = min(tokens[size] - patches_of(config, size) // config.vision.merge**2 for size in seconds)

    def expected(megapixels: float) -> float:
        patches = round(megapixels * 1e6 / config.vision.patch**2)
        found = cost(config, patches, patches // config.vision.merge**2 + text)
        return round(float(np.array([found.matrices, found.attention]) @ pace), 4)

    worst = float(np.abs(counted @ pace - 1).max())
    drawn = {f"{n / 10:.1f}": expected(n / 10) for n in range(1, 41)}
    return Curve(round(1 / float(pace[0]), 4), round(1 / float(pace[1]), 4), round(worst, 3), drawn)


def curve_of(config: ModelConfig, measured: Measured, sizes: list[Size]) -> Curve:
    """The curve of the first system."""
    results = next(iter(measured.results.values()))
    seconds, tokens = {}, {}
    for size in sizes:
        name = "x".join(map(str, size))
        if f"{name} / first_token_s" in results:
            seconds[size] = statistics.median(results[f"{name} / first_token_s"])
            tokens[size] = int(results[f"{name} / prompt_tokens"][0])
    return fit(config, seconds, tokens)


def main() -> None:
    parser = options(__doc__)
    parser.add_argument("--size", type=pictures.parse_size, action="append", help="WIDTHxHEIGHT; default: seven sizes")
    given = parse(parser)
    if not given.checkpoint:
        parser.error("the formula needs --checkpoint")
    sizes = given.size or list(SIZES)
    card = card_of(table="sizes", rounds=given.rounds)
    measured = quietly(card, lambda: measure(given, ["--table", "sizes"], sizes))
    curve = curve_of(ModelConfig.load(Path(given.checkpoint)), measured, sizes)
    figures = [
        Figure(
            "x".join(map(str, size)), name, f"{size[0]}x{size[1]}, {size[0] * size[1] / 1e6:.1f} megapixels: {title}"
        )
        for size in sizes
        for name, title in (("first_token_s", "first token, s"), ("vision_s", "its picture, s"))
    ]
    Console(stderr=True).print(
        f"curve: {curve.matrices_tops:.3g} TOPS in matrices, {curve.attention_tops:.3g} in attention, "
        f"off by at most {curve.worst:.0%}"
    )
    more = {"matrices_tops": curve.matrices_tops, "attention_tops": curve.attention_tops}
    publish(card, measured, figures, (), given.out, curve={**more, "worst": curve.worst, "points": dict(curve.points)})


if __name__ == "__main__":
    main()
