"""Holds the service's confidences against what was right, on held-out pictures: a table and a reliability plot.

    python -m training.calibrate http://127.0.0.1:8080 --out docs/images/reliability.svg

Answers are those of the task `vqa` to every held-out question about one picture; fields are merchant, date and total
of receipts by the task `extract`. A point of the plot is a group of answers of like confidence: where the line is
below the diagonal, the model is surer than it should be.
"""

import argparse
import json
import urllib.request
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

from .evaluate import TIMEOUT_S, data_url
from .held_out import Trial, trials
from .score import is_right

EDGES = (0.0, 0.5, 0.7, 0.8, 0.9, 0.95, 0.98, 0.99, 0.995, 0.999, 1.0)
KINDS = ("receipt", "chart", "scene", "text", "form")
FIELDS = ("merchant", "date", "total")
SCHEMA = {
    "type": "object",
    "properties": {"merchant": {"type": "string"}, "date": {"type": "string"}, "total": {"type": "number"}},
    "required": list(FIELDS),
    "additionalProperties": False,
}


@dataclass(frozen=True, slots=True)
class Claim:
    """A confidence, and whether what it was said of is right."""

    confidence: float
    right: bool


@dataclass(frozen=True, slots=True)
class Group:
    """Claims of like confidence: how many, their mean confidence, the share that is right."""

    low: float
    high: float
    count: int
    confidence: float
    right: float


def groups(claims: Sequence[Claim]) -> list[Group]:
    """Claims by `EDGES`; groups without any are left out."""
    found = []
    for low, high in pairwise(EDGES):
        inside = [c for c in claims if low <= c.confidence < high or c.confidence == high == EDGES[-1]]
        if inside:
            mean = sum(c.confidence for c in inside) / len(inside)
            found.append(Group(low, high, len(inside), mean, sum(c.right for c in inside) / len(inside)))
    return found


def expected_calibration_error(claims: Sequence[Claim]) -> float:
    """The mean distance of confidence and accuracy over the groups, by their size (Naeini et al., 2015)."""
    return sum(g.count * abs(g.confidence - g.right) for g in groups(claims)) / len(claims)


def answer_claims(base_url: str, trial: Trial) -> Iterator[Claim]:
    body = {"task": "vqa", "images": [data_url(trial.pictures[0])], "text": trial.question}
    result = _infer(base_url, body, {"temperature": 0})
    yield Claim(result["confidence"], is_right(trial.task, trial.expected, result["answer"]))


def field_claims(base_url: str, trial: Trial) -> Iterator[Claim]:
    """One claim for each field of a receipt; `trial` is one of `receipt.json`."""
    body = {"task": "extract", "images": [data_url(trial.pictures[0])]}
    result = _infer(base_url, body, {"temperature": 0, "schema": SCHEMA})
    expected = json.loads(trial.expected)
    for name, confidence in (result.get("field_confidence") or {}).items():
        yield Claim(confidence, result["data"][name] == expected[name])


def _infer(base_url: str, body: dict[str, Any], options: dict[str, Any]) -> dict[str, Any]:
    request = urllib.request.Request(
        f"{base_url.rstrip('/')}/infer",
        json.dumps({**body, "options": options}).encode(),
        {"Content-Type": "application/json"},
    )
    with urllib.request.urlopen(request, timeout=TIMEOUT_S) as response:
        result: dict[str, Any] = json.load(response)["result"]
        return result


def table(named: dict[str, list[Claim]]) -> str:
    lines = []
    for name, claims in named.items():
        error, right = expected_calibration_error(claims), sum(c.right for c in claims) / len(claims)
        lines += [f"{name}: {len(claims)}, {right:.1%} right, expected calibration error {error:.3f}", ""]
        lines += ["| confidence | number | mean confidence | right |", "|---|---|---|---|"]
        lines += [f"| {g.low:g}-{g.high:g} | {g.count} | {g.confidence:.3f} | {g.right:.3f} |" for g in groups(claims)]
        lines.append("")
    return "\n".join(lines)


def draw(named: dict[str, list[Claim]], out: Path) -> None:
    """The reliability plot, as SVG."""
    from matplotlib import pyplot

    pyplot.rcParams["svg.hashsalt"] = "sightline"  # the same file for the same figures
    figure, axes = pyplot.subplots(figsize=(5.2, 4.8), layout="constrained")
    axes.plot([0, 1], [0, 1], color="#999999", linestyle="--", linewidth=1, label="perfect")
    for name, claims in named.items():
        found = groups(claims)
        axes.plot([g.confidence for g in found], [g.right for g in found], linewidth=1.5, label=name)
        sizes = [12 + 220 * g.count / len(claims) for g in found]
        axes.scatter([g.confidence for g in found], [g.right for g in found], s=sizes, alpha=0.6)
    axes.set(xlabel="confidence", ylabel="share right", xlim=(0, 1.02), ylim=(0, 1.02))
    axes.legend(loc="upper left", frameon=False)
    axes.grid(alpha=0.25)
    out.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(out, format="svg", metadata={"Date": None})


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("base_url", help="such as http://127.0.0.1:8080")
    parser.add_argument("--samples", type=int, default=60, help="trials per task")
    parser.add_argument("--at-once", type=int, default=8, help="requests under way at a time")
    parser.add_argument("--out", type=Path, required=True, help="the plot, SVG")
    options = parser.parse_args()
    asked = trials(options.samples, KINDS)
    single = [t for found in asked.values() for t in found if len(t.pictures) == 1 and not t.turns]
    named: dict[str, list[Claim]] = {}
    with ThreadPoolExecutor(options.at_once) as pool:
        for name, claims_of, chosen in (
            ("answers", answer_claims, single),
            ("fields", field_claims, asked["receipt.json"]),
        ):
            heard = pool.map(lambda trial, ask=claims_of: list(ask(options.base_url, trial)), chosen)
            named[name] = [claim for claims in heard for claim in claims]
    print(table(named))
    draw(named, options.out)


if __name__ == "__main__":
    main()
