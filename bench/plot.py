"""Draws the figures of the README from the records of the tables. Needs nothing but the standard library.

    python bench/plot.py                      # bench/results to docs/images
    python bench/plot.py --results DIR --images DIR

A figure shows the newest records of its table that share commit and processor; a system in several of them is shown
as in the newest. Medians, with a line from the lowest to the highest value. Readable on light and on dark pages.
"""

from __future__ import annotations

import argparse
import json
import math
import statistics
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from html import escape
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]
WIDTH, ROW, LABEL = 760, 24, 176  # pixels
PLOT_WIDTH, PLOT_HEIGHT, MARGIN = 310, 230, 42  # of one diagram of lines
# By the beginning of a system's name: its colour on light pages and on dark ones.
COLOURS = {
    "sightline int8": ("#0b6a6b", "#5fc9c1"),
    "sightline int4": ("#237032", "#73cf99"),
    "sightline exact": ("#1971c2", "#74b3f0"),
    "sightline": ("#0b6a6b", "#5fc9c1"),
    "genai": ("#c25700", "#f0a35a"),
    "llama": ("#7048e8", "#b29cf7"),
    "transformers": ("#8a867c", "#9aa2a5"),
}
OTHER = "#8a867c", "#9aa2a5"
STYLE = """text{font:13px sans-serif;fill:#1c1e20}.soft{fill:#55585c;font-size:12px}
.head{font-weight:600;font-size:14px}.grid{stroke:#e3e0d9}.span{stroke:#1c1e20;stroke-width:1.5}
@media(prefers-color-scheme:dark){text{fill:#e9ebeb}.soft{fill:#aab0b2}.grid{stroke:#3a4043}.span{stroke:#e9ebeb}}"""


@dataclass(frozen=True, slots=True)
class Line:
    """Points (x, y) of one system, joined, or shown as dots alone."""

    system: str
    points: Sequence[tuple[float, float]]
    joined: bool = True
    dots: bool = True


@dataclass(frozen=True, slots=True)
class Diagram:
    title: str
    ticks: Sequence[tuple[float, str]]  # of the x axis: place and label
    lines: Sequence[Line]
    x_title: str


def newest(path: Path) -> dict[str, Any] | None:
    """One record made of the newest ones of a file that share commit and processor; None when there is none."""
    if not path.exists():
        return None
    records = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
    if not records:
        return None
    # A record of the same evening calls itself dirty for no more than the records written before it.
    same = [r for r in records if _where(r) == _where(records[-1])]
    merged = {name: value for record in same for name, value in record.items()}
    merged["results"] = {name: figures for record in same for name, figures in record["results"].items()}
    return merged


def _where(record: dict[str, Any]) -> tuple[str, str]:
    return record["commit"].removesuffix("-dirty"), record["cpu"]


def colour(system: str) -> tuple[str, str]:
    return next((pair for name, pair in COLOURS.items() if system.startswith(name)), OTHER)


def label(system: str) -> str:
    return system.replace("genai", "OpenVINO GenAI")


def rank(system: str) -> int:
    """Ours first, then the others in one order."""
    return next((i for i, name in enumerate(COLOURS) if system.startswith(name)), len(COLOURS))


def svg(height: float, parts: Iterable[str], systems: Sequence[str], purpose: str) -> str:
    """The document; `s0`, `s1`, ... are the classes of the systems' colours."""
    light = "".join(f".s{i}{{--c:{colour(s)[0]}}}" for i, s in enumerate(systems))
    dark = "".join(f".s{i}{{--c:{colour(s)[1]}}}" for i, s in enumerate(systems))
    classes = f"{light}.bar{{fill:var(--c)}}.line{{stroke:var(--c);fill:none;stroke-width:2}}"
    style = f"<style>{STYLE}{classes}@media(prefers-color-scheme:dark){{{dark}}}</style>"
    size = f'width="{WIDTH}" height="{height:.0f}" viewBox="0 0 {WIDTH} {height:.0f}"'
    opening = f'<svg xmlns="http://www.w3.org/2000/svg" {size} role="img" aria-label="{escape(purpose)}">'
    return "\n".join([opening, style, *parts, "</svg>\n"])


def text(x: float, y: float, words: str, kind: str = "", anchor: str = "start") -> str:
    return f'<text x="{x:.1f}" y="{y:.1f}" class="{kind}" text-anchor="{anchor}">{escape(words)}</text>'


def shown(value: float) -> str:
    return f"{value:.0f}" if value >= 100 else f"{value:.3g}"


def bars(
    title: str, values: Mapping[str, Sequence[float]], systems: Sequence[str], top: float
) -> tuple[list[str], float]:
    """One bar a system, and where the next panel may begin."""
    parts, y = [text(0, top + 16, title, "head")], top + 28
    room = WIDTH - LABEL - 70
    most = max(max(v) for v in values.values())
    for system in (s for s in systems if s in values):
        found = values[system]
        low, middle, high = (room * f / most for f in (min(found), statistics.median(found), max(found)))
        parts += [
            text(LABEL - 8, y + 16, label(system), anchor="end"),
            f'<rect x="{LABEL}" y="{y + 3}" width="{middle:.1f}" height="{ROW - 8}" rx="2" '
            f'class="bar s{systems.index(system)}"/>',
            f'<line x1="{LABEL + low:.1f}" x2="{LABEL + high:.1f}" y1="{y + 11}" y2="{y + 11}" class="span"/>',
            text(LABEL + max(middle, high) + 6, y + 16, shown(statistics.median(found)), "soft"),
        ]
        y += ROW
    return parts, y + 14


def lines(diagram: Diagram, systems: Sequence[str], left: float, top: float) -> list[str]:
    """One diagram; both axes begin at their least tick and at 0."""
    first, last = diagram.ticks[0][0], diagram.ticks[-1][0]
    most = nice(max((y for line in diagram.lines for _, y in line.points), default=1.0))

    def at(x: float, y: float) -> tuple[float, float]:
        across = (x - first) / (last - first) if last > first else 0.5
        return left + MARGIN + across * PLOT_WIDTH, top + 34 + (1 - y / most) * PLOT_HEIGHT

    parts = [text(left, top + 16, diagram.title, "head")]
    for step in range(5):
        x, y = at(first, most * step / 4)
        parts.append(f'<line x1="{x:.1f}" x2="{x + PLOT_WIDTH:.1f}" y1="{y:.1f}" y2="{y:.1f}" class="grid"/>')
        parts.append(text(x - 6, y + 4, shown(most * step / 4), "soft", "end"))
    foot = top + 34 + PLOT_HEIGHT
    parts += [text(at(x, 0)[0], foot + 18, label, "soft", "middle") for x, label in diagram.ticks]
    parts.append(text(left + MARGIN + PLOT_WIDTH / 2, foot + 36, diagram.x_title, "soft", "middle"))
    for line in diagram.lines:
        kind = f"s{systems.index(line.system)}"
        places = [at(x, y) for x, y in line.points]
        if line.joined:
            path = " ".join(f"{x:.1f},{y:.1f}" for x, y in places)
            parts.append(f'<polyline points="{path}" class="line {kind}"/>')
        if line.dots:
            parts += [f'<circle cx="{x:.1f}" cy="{y:.1f}" r="3.5" class="bar {kind}"/>' for x, y in places]
    return parts


def nice(value: float) -> float:
    """The least of 1, 2, 4, 5, 8, 10 times a power of ten that is not below `value`: quarters of it read well."""
    ten = 10.0 ** math.floor(math.log10(value))
    return next(ten * factor for factor in (1, 2, 4, 5, 8, 10) if ten * factor >= value)


def legend(systems: Sequence[str], top: float) -> list[str]:
    parts, x = [], 0.0
    for number, system in enumerate(systems):
        parts.append(f'<rect x="{x:.0f}" y="{top}" width="12" height="12" rx="2" class="bar s{number}"/>')
        parts.append(text(x + 17, top + 11, label(system)))
        x += 34 + 7.2 * len(label(system))
    return parts


def note(record: Mapping[str, Any], y: float) -> str:
    cores, cpu = record["cores"], record["cpu"]
    return text(0, y, f"{cores} cores of {cpu}, commit {record['commit']}, {record['when'][:10]}", "soft")


def values_of(record: Mapping[str, Any], key: str) -> dict[str, list[float]]:
    return {system: figures[key] for system, figures in record["results"].items() if figures.get(key)}


def ranked(record: Mapping[str, Any]) -> list[str]:
    return sorted(record["results"], key=rank)


def speed(record: Mapping[str, Any]) -> str:
    systems, parts, y = ranked(record), [], 0.0
    for title, key in (
        (
            f"First token behind a new {record['picture']} picture, seconds (less is better)",
            "new image / first_token_s",
        ),
        ("Tokens a second after that (more is better)", "new image / decode_tok_s"),
    ):
        if values := values_of(record, key):
            panel, y = bars(title, values, systems, y)
            parts += panel
    return svg(y + 22, [*parts, note(record, y + 12)], systems, "First token and tokens per second, by system")


def together(record: Mapping[str, Any]) -> str:
    systems = ranked(record)
    diagrams = []
    for title, kind, name in (
        ("One picture: writing, tokens/s", "same", "decode_tok_s"),
        ("New pictures: all work, tokens/s", "different", "whole_tok_s"),
    ):
        drawn, counts = [], set()
        for system, figures in record["results"].items():
            found = {int(k.split()[0]): v for k, v in figures.items() if k.endswith(f" {kind} / {name}")}
            counts |= set(found)
            points = [(math.log2(n), statistics.median(v)) for n, v in sorted(found.items())]
            drawn.append(Line(system, points))
        if counts:
            ticks = [(math.log2(n), str(n)) for n in sorted(counts)]
            diagrams.append(Diagram(title, ticks, drawn, "questions at once"))
    return side_by_side(diagrams, systems, record, "Tokens per second by questions at once")


def sizes(record: Mapping[str, Any]) -> str:
    systems = ranked(record)
    fitted = next(iter(record["results"]))  # the curve is the first system's
    curve = [(float(x), float(y)) for x, y in record["curve"]["points"].items()]

    def diagram(title: str, most: float, ticks: Sequence[float]) -> Diagram:
        drawn = [Line(fitted, [p for p in curve if p[0] <= most], dots=False)]
        for system, figures in record["results"].items():
            points = []
            for key, values in figures.items():
                size, _, name = key.partition(" / ")
                if name == "first_token_s" and size.count("x") == 1:
                    width, height = map(int, size.split("x"))
                    points.append((width * height / 1e6, statistics.median(values)))
            drawn.append(Line(system, [p for p in sorted(points) if p[0] <= most], joined=system != fitted))
        return Diagram(title, [(t, f"{t:g}") for t in ticks], drawn, "megapixels")

    whole = diagram("First token, seconds", 4.1, (0, 1, 2, 3, 4))
    near = diagram("The same, up to 1 megapixel", 1.0, (0, 0.25, 0.5, 0.75, 1))
    return side_by_side([whole, near], systems, record, "Seconds to the first token by picture size, and the formula")


def side_by_side(diagrams: Sequence[Diagram], systems: list[str], record: Mapping[str, Any], purpose: str) -> str:
    parts = legend(systems, 0)
    for number, diagram in enumerate(diagrams):
        parts += lines(diagram, systems, number * WIDTH / 2, 24)
    height = 24 + 34 + PLOT_HEIGHT + 46 + 20
    return svg(height, [*parts, note(record, height - 4)], systems, purpose)


FIGURES: Mapping[str, Callable[[Mapping[str, Any]], str]] = {"speed": speed, "together": together, "sizes": sizes}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--results", type=Path, default=ROOT / "bench" / "results")
    parser.add_argument("--images", type=Path, default=ROOT / "docs" / "images")
    given = parser.parse_args()
    for name, drawn in FIGURES.items():
        if record := newest(given.results / f"{name}.jsonl"):
            path = given.images / f"bench-{name}.svg"
            path.write_text(drawn(record), encoding="utf-8")
            print(path)


if __name__ == "__main__":
    main()
