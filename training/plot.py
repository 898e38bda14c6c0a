"""Draws a run's curves as one SVG from its progress and accuracy lines. Needs nothing but the standard library.

python -m training.plot training/runs/demo training/runs/demo/curves.svg
"""

import argparse
import json
from pathlib import Path
from typing import Any

WIDTH, HEIGHT, MARGIN = 760, 230, 46
COLOURS = ["#1f77b4", "#d62728", "#2ca02c", "#9467bd", "#ff7f0e", "#17becf", "#8c564b", "#7f7f7f", "#bcbd22", "#e377c2"]
PANELS = {
    "Loss of answer tokens": ["answer_loss"],
    "Share right: letters in a patch and in a token, things to find, answer tokens, glances": [
        "patch_right",
        "glyph_right",
        "find_right",
        "token_right",
        "glance",
        "partner",
    ],
}
Line = list[tuple[float, float]]


def panel(title: str, lines: dict[str, Line], top: float, last_minute: float) -> str:
    """One diagram; x is minutes of training, y starts at 0."""
    highest = max([1.0, *(y for line in lines.values() for _, y in line)])
    inner_width, inner_height = WIDTH - 2 * MARGIN - 130, HEIGHT - 2 * MARGIN

    def at(x: float, y: float) -> str:
        return f"{MARGIN + inner_width * x / last_minute:.1f},{top + MARGIN + inner_height * (1 - y / highest):.1f}"

    parts = [f'<text x="{MARGIN}" y="{top + 24}" font-weight="bold">{title}</text>']
    for tick in range(5):
        y, x = highest * tick / 4, last_minute * tick / 4
        parts.append(f'<polyline points="{at(0, y)} {at(last_minute, y)}" stroke="#ddd" fill="none"/>')
        left, bottom = at(0, y).split(",")[1], at(x, 0).split(",")[0]
        parts.append(f'<text x="{MARGIN - 6}" y="{left}" text-anchor="end" font-size="11">{y:.2f}</text>')
        foot = top + HEIGHT - MARGIN + 16
        parts.append(f'<text x="{bottom}" y="{foot}" text-anchor="middle" font-size="11">{x:.0f} min</text>')
    for number, (name, line) in enumerate(lines.items()):
        colour = COLOURS[number % len(COLOURS)]
        points = " ".join(at(x, y) for x, y in line)
        parts.append(f'<polyline points="{points}" stroke="{colour}" fill="none" stroke-width="1.5"/>')
        y_text = top + MARGIN + 14 * number
        parts.append(f'<text x="{WIDTH - MARGIN - 120}" y="{y_text}" fill="{colour}" font-size="12">{name}</text>')
    return "\n".join(parts)


def draw(run: Path) -> str:
    """The SVG of a run folder; accuracy is shown where `probe` was used."""
    progress = _rows(run / "progress.jsonl")
    panels = {
        title: {name: _line(progress, name) for name in names if _line(progress, name)}
        for title, names in PANELS.items()
    }
    probes = _rows(run / "accuracy.jsonl")
    groups = sorted({_group(task) for row in probes for task in row["accuracy"] if not task.startswith("all ")})
    panels["Share of right answers on held-out pictures, mean of each kind's tasks"] = {
        group: [(row["minutes"], mean) for row in probes if (mean := _mean(row["accuracy"], group)) is not None]
        for group in groups
    }
    last_minute = max(row["minutes"] for row in progress)
    body = [panel(title, lines, HEIGHT * n, last_minute) for n, (title, lines) in enumerate(panels.items())]
    size = f'width="{WIDTH}" height="{HEIGHT * len(panels)}"'
    ground = '<rect width="100%" height="100%" fill="white"/>'
    opening = f'<svg xmlns="http://www.w3.org/2000/svg" {size} font-family="sans-serif" font-size="13">'
    return "\n".join([opening, ground, *body, "</svg>\n"])


def _rows(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []


def _line(rows: list[dict[str, Any]], name: str) -> Line:
    return [(row["minutes"], row[name]) for row in rows if name in row]


def _group(task: str) -> str:
    return task.split(".")[0]


def _mean(accuracy: dict[str, float], group: str) -> float | None:
    """Of the group's tasks; None where none was asked."""
    shares = [share for task, share in accuracy.items() if _group(task) == group]
    return sum(shares) / len(shares) if shares else None


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", type=Path, help="folder of a training run")
    parser.add_argument("svg", type=Path)
    options = parser.parse_args()
    options.svg.write_text(draw(options.run))


if __name__ == "__main__":
    main()
