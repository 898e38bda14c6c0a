"""Measures Sightline beside other systems on the same pictures, in turn, each in a process of its own.

    python bench/speed.py --checkpoint DIR --sightline int8 --sightline exact \\
        --transformers PYTHON --genai int8=DIR --genai-python PYTHON --rounds 3

Prints a card, a table, the claims that must hold and one JSON line. Knows no engine: `ask_*.py` do.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from pathlib import Path

from rich.console import Console

import pictures
from report import commit, machine, other_cpu_s, show_card, show_table, show_verdicts, verdicts

HERE = Path(__file__).parent
WARM_UP_SIZE = 256, 192  # pixels
ROUND_LIMIT_S = 3600


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

    def take(self, system: str, lines: list[dict[str, str | float]]) -> None:
        """Add the lines of one round."""
        for line in lines:
            case = line.pop("case")
            if case == "versions":
                self.versions[system] = {name: str(value) for name, value in line.items()}
                continue
            for name, value in line.items():
                if isinstance(value, int | float):
                    self.results.setdefault(system, {}).setdefault(f"{case} / {name}", []).append(value)


def one_round(contender: Contender, folder: Path, given: argparse.Namespace) -> list[dict[str, str | float]]:
    """The lines one system prints in one round; raises RuntimeError with the end of its complaint when it fails."""
    kept = folder / contender.name
    kept.mkdir(exist_ok=True)
    command = [
        *contender.command,
        *("--picture", str(folder / "new.jpg")),
        *("--warm-up-picture", str(folder / "warm-up.jpg")),
        *("--tokens", str(given.tokens)),
        *("--folder", str(kept)),
        *("--at-once", *map(str, given.at_once)),
    ]
    ran = subprocess.run(command, capture_output=True, text=True, timeout=ROUND_LIMIT_S, check=False)
    if ran.returncode:
        raise RuntimeError(f"{contender.name} ended with status {ran.returncode}:\n{ran.stderr[-3000:]}")
    return [json.loads(line) for line in ran.stdout.splitlines() if line.startswith("{")]


def measure(systems: list[Contender], given: argparse.Namespace, console: Console) -> Measured:
    """All rounds, the systems in turn within each; a system that fails in one round is tried again in the next."""
    measured = Measured()
    with tempfile.TemporaryDirectory() as made:
        folder = Path(made)
        (folder / "warm-up.jpg").write_bytes(pictures.jpeg(given.seed, *WARM_UP_SIZE))
        for number in range(1, given.rounds + 1):
            (folder / "new.jpg").write_bytes(pictures.jpeg(given.seed + number, *given.size))
            for system in systems:
                started = time.monotonic()
                try:
                    measured.take(system.name, one_round(system, folder, given))
                    said = "measured"
                except (OSError, RuntimeError, subprocess.TimeoutExpired) as failure:
                    measured.failures += 1
                    said = str(failure)
                took = f"{time.monotonic() - started:.0f} s"
                console.print(f"round {number} of {given.rounds}, {system.name}, {took}: {said}", markup=False)
    return measured


def options() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--checkpoint", help="Qwen3-VL folder, for Sightline and transformers")
    parser.add_argument("--sightline", action="append", default=[], choices=["exact", "int8", "int4"])
    parser.add_argument("--transformers", metavar="PYTHON", help="interpreter that has torch and transformers")
    parser.add_argument("--dtype", action="append", choices=["float32", "bfloat16"], help="default: float32")
    parser.add_argument("--genai", action="append", default=[], type=labelled, metavar="LABEL=DIR")
    parser.add_argument("--genai-python", metavar="PYTHON", help="interpreter that has openvino-genai")
    parser.add_argument("--server", action="append", default=[], type=labelled, metavar="NAME=COMMAND")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--tokens", type=int, default=48, help="length of every answer")
    parser.add_argument("--at-once", type=int, nargs="*", default=[2, 4, 8])
    parser.add_argument("--size", type=pictures.parse_size, default=(1024, 768), help="WIDTHxHEIGHT of the pictures")
    parser.add_argument("--seed", type=int, default=0, help="another seed draws other pictures")
    parser.add_argument("--out", type=Path, help="append the JSON line to this file")
    return parser


def main() -> None:
    parser = options()
    given = parser.parse_args()
    if (given.sightline or given.transformers) and not given.checkpoint:
        parser.error("--sightline and --transformers need --checkpoint")
    if given.genai and not given.genai_python:
        parser.error("--genai needs --genai-python")
    systems = list(contenders(given))
    if not systems:
        parser.error("nothing to measure: give --sightline, --transformers, --genai or --server")
    console = Console(stderr=True, width=200)
    card: dict[str, object] = {
        "when": datetime.now(UTC).isoformat(timespec="seconds"),
        "commit": commit(),
        **machine(),
        "picture": "x".join(map(str, given.size)),
        "tokens": given.tokens,
        "rounds": given.rounds,
    }
    started, others = time.monotonic(), other_cpu_s()
    measured = measure(systems, given, console)
    card["others_cpu"] = round((other_cpu_s() - others) / (time.monotonic() - started), 2)  # cores, on average
    if not measured.results:
        raise SystemExit("every round failed")
    shown, found = Console(width=200), verdicts(measured.results)
    show_card(shown, card | measured.versions)
    show_table(shown, measured.results)
    show_verdicts(shown, found)
    record = card | asdict(measured) | {"claims": [asdict(verdict) for verdict in found]}
    line = json.dumps(record, ensure_ascii=False)
    print(line)
    if given.out:
        given.out.parent.mkdir(parents=True, exist_ok=True)
        with given.out.open("a") as file:
            file.write(line + "\n")
    raise SystemExit(1 if measured.failures else 0)


if __name__ == "__main__":
    main()
