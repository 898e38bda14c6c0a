"""Starts the systems under measurement in turn, each in a process of its own, and collects the lines they print.

Knows how a system is started and what a round is; neither what is asked (`cases.py`) nor what figures mean
(`report.py`, and the table that is measured).
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from pathlib import Path

from rich.console import Console

import pictures
from report import Claim, Figure, commit, machine, other_cpu_s, show_card, show_table, show_verdicts, verdicts

HERE = Path(__file__).parent
WARM_UP_SIZE = 256, 192  # pixels
ROUND_LIMIT_S = 3600

Size = tuple[int, int]
Lines = list[dict[str, str | float]]


@dataclass(frozen=True, slots=True)
class Contender:
    """A system to measure: its name in the table, and the start of its command line."""

    name: str
    command: tuple[str, ...]


def labelled(text: str) -> tuple[str, str]:
    """`int8=DIR` to ("int8", "DIR")."""
    label, equals, value = text.partition("=")
    if not (label and equals and value):
        raise argparse.ArgumentTypeError(f"{text!r} is not LABEL=VALUE")
    return label, value


def options(purpose: str | None) -> argparse.ArgumentParser:
    """What every table is told: the systems, the rounds, where the record goes."""
    parser = argparse.ArgumentParser(description=purpose, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--checkpoint", help="Qwen3-VL folder, for Sightline and transformers")
    parser.add_argument("--sightline", action="append", default=[], choices=["exact", "int8", "int4"])
    parser.add_argument("--transformers", metavar="PYTHON", help="interpreter that has torch and transformers")
    parser.add_argument("--dtype", action="append", choices=["float32", "bfloat16"], help="default: float32")
    parser.add_argument("--genai", action="append", default=[], type=labelled, metavar="LABEL=DIR")
    parser.add_argument("--genai-python", metavar="PYTHON", help="interpreter that has openvino-genai")
    parser.add_argument("--server", action="append", default=[], type=labelled, metavar="NAME=COMMAND")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--tokens", type=int, default=48, help="length of every answer")
    parser.add_argument("--seed", type=int, default=0, help="another seed draws other pictures")
    parser.add_argument("--cache", type=Path, help="where our quantised weights stay; default: for this run only")
    parser.add_argument("--out", type=Path, help="append the JSON line to this file")
    return parser


def parse(parser: argparse.ArgumentParser) -> argparse.Namespace:
    """The options given; ends the program when a system lacks what it needs, or there is none."""
    given = parser.parse_args()
    if (given.sightline or given.transformers) and not given.checkpoint:
        parser.error("--sightline and --transformers need --checkpoint")
    if given.genai and not given.genai_python:
        parser.error("--genai needs --genai-python")
    if not list(contenders(given)):
        parser.error("nothing to measure: give --sightline, --transformers, --genai or --server")
    return given


def contenders(given: argparse.Namespace) -> Iterator[Contender]:
    """In the order of the table; the first is what the others are compared with."""
    for precision in given.sightline:
        script = str(HERE / "ask_sightline.py")
        yield Contender(f"sightline {precision}", (sys.executable, script, given.checkpoint, "--precision", precision))
    for label, folder in given.genai:
        yield Contender(f"genai {label}", (given.genai_python, str(HERE / "ask_genai.py"), folder))
    for label, command in given.server:
        yield Contender(label, (sys.executable, str(HERE / "ask_server.py"), command))
    if given.transformers:
        for dtype in given.dtype or ["float32"]:
            script = str(HERE / "ask_transformers.py")
            yield Contender(f"transformers {dtype}", (given.transformers, script, given.checkpoint, "--dtype", dtype))


@dataclass(slots=True)
class Measured:
    """What all rounds gave: figures and library versions by system, and how many rounds failed."""

    results: dict[str, dict[str, list[float]]] = field(default_factory=dict)
    versions: dict[str, dict[str, str]] = field(default_factory=dict)
    failures: int = 0

    def take(self, system: str, lines: Lines) -> None:
        """Add the lines of one round."""
        for line in lines:
            case = line.pop("case")
            if case == "versions":
                self.versions[system] = {name: str(value) for name, value in line.items()}
                continue
            for name, value in line.items():
                if isinstance(value, int | float):
                    self.results.setdefault(system, {}).setdefault(f"{case} / {name}", []).append(value)


def one_round(contender: Contender, asked: Sequence[str], kept: Path) -> Lines:
    """The lines one system prints in one round; raises RuntimeError with the end of its complaint when it fails."""
    kept.mkdir(parents=True, exist_ok=True)
    command = [*contender.command, *asked, "--folder", str(kept)]
    ran = subprocess.run(command, capture_output=True, text=True, timeout=ROUND_LIMIT_S, check=False)
    if ran.returncode:
        raise RuntimeError(f"{contender.name} ended with status {ran.returncode}:\n{ran.stderr[-3000:]}")
    return [json.loads(line) for line in ran.stdout.splitlines() if line.startswith("{")]


def draw(folder: Path, seed: int, sizes: Sequence[Size]) -> list[str]:
    """Options for pictures of these sizes, which nothing has seen before, and for the one that warms up."""
    paths = []
    for number, (width, height) in enumerate(sizes):
        path = folder / f"{number}-{width}x{height}.jpg"
        path.write_bytes(pictures.jpeg(1000 * seed + number, width, height))
        paths.append(str(path))
    warm_up = folder / "warm-up.jpg"
    warm_up.write_bytes(pictures.jpeg(1000 * seed + 999, *WARM_UP_SIZE))
    return ["--warm-up-picture", str(warm_up), *(["--pictures", *paths] if paths else [])]


def measure(given: argparse.Namespace, asked: Sequence[str], sizes: Sequence[Size]) -> Measured:
    """All rounds, the systems in turn within each; a system that fails in one round is tried again in the next.

    `asked`: options that say what is asked; `sizes`: of the pictures each round draws anew.
    """
    console, measured = Console(stderr=True, width=200), Measured()
    with tempfile.TemporaryDirectory() as made:
        for number in range(1, given.rounds + 1):
            drawn = draw(Path(made), given.seed + number, sizes)
            for system in contenders(given):
                kept = (given.cache or Path(made)) / system.name
                started = time.monotonic()
                try:
                    measured.take(system.name, one_round(system, [*asked, *drawn, "--tokens", str(given.tokens)], kept))
                    said = "measured"
                except (OSError, RuntimeError, subprocess.TimeoutExpired) as failure:
                    measured.failures += 1
                    said = str(failure)
                took = f"{time.monotonic() - started:.0f} s"
                console.print(f"round {number} of {given.rounds}, {system.name}, {took}: {said}", markup=False)
    return measured


def card_of(**figures: object) -> dict[str, object]:
    """When, what and where."""
    return {"when": datetime.now(UTC).isoformat(timespec="seconds"), "commit": commit(), **machine(), **figures}


def quietly(card: dict[str, object], work: Callable[[], Measured]) -> Measured:
    """Do the work and put on the card how many cores, on average, went to other programs meanwhile."""
    started, others = time.monotonic(), other_cpu_s()
    measured = work()
    card["others_cpu"] = round((other_cpu_s() - others) / (time.monotonic() - started), 2)
    if not measured.results:
        raise SystemExit("every round failed")
    return measured


def publish(
    card: dict[str, object],
    measured: Measured,
    figures: Sequence[Figure],
    claims: Sequence[Claim],
    out: Path | None,
    **more: object,
) -> None:
    """Print card, table, claims and the JSON line, append the line to `out`; exit status 1 when a round failed."""
    shown, found = Console(width=200), verdicts(measured.results, claims)
    show_card(shown, card | measured.versions)
    show_table(shown, measured.results, figures)
    show_verdicts(shown, found)
    record = card | asdict(measured) | {"claims": [asdict(verdict) for verdict in found]} | more
    line = json.dumps(record, ensure_ascii=False)
    print(line)
    if out:
        out.parent.mkdir(parents=True, exist_ok=True)
        with out.open("a", encoding="utf-8") as file:
            file.write(line + "\n")
    if measured.failures:
        raise SystemExit(1)
