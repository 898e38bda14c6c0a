"""Scores a running service on the held-out questions, through its OpenAI-compatible API. Needs no torch.

    python -m training.evaluate http://127.0.0.1:8080/v1 --label exact --out results.json

Every run adds its column to the results file; the table of all columns is printed in Markdown.
"""

import argparse
import base64
import io
import json
import urllib.request
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from . import other_renderer
from .held_out import CANVASES, SEED, Trial, trials
from .score import bar, is_right

TIMEOUT_S = 300.0
MAX_TOKENS = 400


@dataclass(frozen=True, slots=True)
class Service:
    """`base_url` ends in /v1; `model` None lets the service choose."""

    base_url: str
    model: str | None

    def answer(self, trial: Trial) -> str:
        """The greedy answer; an HTTP error raises urllib.error.HTTPError."""
        body: dict[str, Any] = {"messages": _messages(trial), "temperature": 0, "max_tokens": MAX_TOKENS}
        if self.model:
            body["model"] = self.model
        request = urllib.request.Request(
            f"{self.base_url.rstrip('/')}/chat/completions",
            json.dumps(body).encode(),
            {"Content-Type": "application/json"},
        )
        with urllib.request.urlopen(request, timeout=TIMEOUT_S) as response:
            return str(json.load(response)["choices"][0]["message"]["content"])


def measure(
    answer: Callable[[Trial], str], asked: dict[str, list[Trial]], at_once: int, log: Path | None = None
) -> dict[str, float]:
    """Share of right answers by task, and of all by the question's language; wrong ones go to `log`, as lines of JSON.

    Questions about one picture are asked one after another, so that the service finds it in its caches.
    """
    first_seen: dict[int, int] = {}
    every = [trial for found in asked.values() for trial in found]
    for trial in every:
        first_seen.setdefault(id(trial.pictures), len(first_seen))
    every.sort(key=lambda trial: first_seen[id(trial.pictures)])
    right: dict[str, list[bool]] = {task: [] for task in asked}
    spoken: dict[str, list[bool]] = {}
    with ThreadPoolExecutor(at_once) as pool:
        for count, (trial, text) in enumerate(zip(every, pool.map(answer, every), strict=True), 1):
            right[trial.task].append(is_right(trial.task, trial.expected, text))
            spoken.setdefault(f"all in {trial.language}", []).append(right[trial.task][-1])
            if log and not right[trial.task][-1]:
                _log_wrong(log, trial, text)
            if count % 100 == 0 or count == len(every):
                print(f"{count} of {len(every)} asked", flush=True)
    return {row: sum(found) / len(found) for row, found in (right | dict(sorted(spoken.items()))).items()}


def table(results: dict[str, dict[str, float]]) -> str:
    """Markdown: a row for every task, a column for every label; what misses its bar is marked."""
    labels = list(results)
    lines = [f"| task | bar | {' | '.join(labels)} |", "|---|---|" + "---|" * len(labels)]
    for task in next(iter(results.values())):
        promised = bar(task)
        cells = []
        for label in labels:
            share = results[label][task]
            cells.append(f"{share:.1%}" + (" (misses)" if promised and share < promised else ""))
        lines.append(f"| {task} | {f'{promised:.0%}' if promised else '-'} | {' | '.join(cells)} |")
    return "\n".join(lines)


def _messages(trial: Trial) -> list[dict[str, Any]]:
    pictures = [{"type": "image_url", "image_url": {"url": data_url(picture)}} for picture in trial.pictures]
    messages: list[dict[str, Any]] = []
    for question, answered in [*trial.turns, (trial.question, "")]:
        content = [*(pictures if not messages else []), {"type": "text", "text": question}]
        messages.append({"role": "user", "content": content})
        if answered:
            messages.append({"role": "assistant", "content": answered})
    return messages


def data_url(pixels: NDArray[np.uint8]) -> str:
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "PNG")
    return "data:image/png;base64," + base64.b64encode(buffer.getvalue()).decode()


def _log_wrong(log: Path, trial: Trial, text: str) -> None:
    with log.open("a") as lines:
        row = {"task": trial.task, "question": trial.question, "expected": trial.expected, "answer": text}
        lines.write(json.dumps(row, ensure_ascii=False) + "\n")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("base_url", help="such as http://127.0.0.1:8080/v1")
    parser.add_argument("--model", help="model id; the service's default when left out")
    parser.add_argument("--label", default="exact", help="name of this column: exact, int8, int4")
    parser.add_argument("--samples", type=int, default=200, help="trials per task")
    parser.add_argument("--seed", default=SEED, help="any other word than the default: to choose between checkpoints")
    parser.add_argument("--kinds", nargs="*", default=list(CANVASES), choices=list(CANVASES))
    parser.add_argument("--other-renderer", action="store_true", help="receipts drawn by Cairo instead")
    parser.add_argument("--at-once", type=int, default=8, help="requests under way at a time")
    parser.add_argument("--out", type=Path, required=True, help="results file, JSON")
    parser.add_argument("--wrong", type=Path, help="write wrong answers here, a line of JSON each")
    options = parser.parse_args()
    service = Service(options.base_url, options.model)
    if options.other_renderer:
        asked = other_renderer.trials(options.samples)
    else:
        asked = trials(options.samples, tuple(options.kinds), options.seed)
    shares = measure(service.answer, asked, options.at_once, options.wrong)
    results = json.loads(options.out.read_text()) if options.out.exists() else {}
    results[options.label] = shares
    options.out.write_text(json.dumps(results, indent=2) + "\n")
    print(table(results))


if __name__ == "__main__":
    main()
