"""What every system is asked, in one order, with the same pictures; one JSON line per case. Knows no engine.

Each `ask_*.py` beside this file teaches one system to answer and is started by `speed.py` in that system's own
virtual environment, so this file uses the standard library only.
"""

from __future__ import annotations

import argparse
import json
import os
import time
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass, field
from importlib.metadata import version
from pathlib import Path

QUESTION = "请详细描述这张图片的内容,并提取所有可见文字。"
OTHER_QUESTION = "What is the total amount?"
LONG_TEXT = "What is the meaning of life and everything? " * 20
WARM_UP_TOKENS = 4


@dataclass(slots=True)
class Answer:
    """When the tokens of one answer came: `asked` and `arrivals` are seconds of `time.perf_counter`."""

    asked: float
    arrivals: list[tuple[float, int]] = field(default_factory=list)  # (when, how many tokens)
    prompt_tokens: int | None = None

    def arrive(self, tokens: int = 1) -> None:
        self.arrivals.append((time.perf_counter(), tokens))

    @property
    def first(self) -> float:
        return self.arrivals[0][0]

    @property
    def last(self) -> float:
        return self.arrivals[-1][0]

    def between(self, after: float, until: float) -> int:
        """Tokens that came after one moment and up to another."""
        return sum(tokens for when, tokens in self.arrivals if after < when <= until)


class System(ABC):
    """One system under measurement, in this process or in a server it starts."""

    packages: tuple[str, ...] = ()  # distributions whose versions belong on the card
    batches: bool = True  # whether it answers several at once
    first_load: bool = False  # whether `load` makes files that later loads find

    @abstractmethod
    def load(self) -> None:
        """Everything from importing the library to being ready to answer."""

    @abstractmethod
    def ask(self, question: str, picture: Path | None, tokens: int) -> Answer:
        """Answer in a new conversation, greedily, with exactly `tokens` tokens."""

    def ask_at_once(self, questions: Sequence[str], picture: Path, tokens: int) -> list[Answer]:
        """Answer all questions about one picture together, each in a new conversation."""
        raise NotImplementedError

    def close(self) -> None:  # noqa: B027  # most systems have nothing to stop
        """Stop what `load` started outside this process."""


def decode_rate(answers: Sequence[Answer]) -> float:
    """Tokens per second of all answers together, while every one of them is being written.

    That is from the last first token to the first last token. Where no such moment exists (answered one after
    another), the whole time from the first token to the last counts.
    """
    start, end = max(a.first for a in answers), min(a.last for a in answers)
    if end <= start:
        start, end = min(a.first for a in answers), max(a.last for a in answers)
    return sum(a.between(start, end) for a in answers) / (end - start)


def family(pid: int) -> list[int]:
    """`pid` and every process below it."""
    children: dict[int, list[int]] = {}
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            parent = int(stat.read_text().rpartition(")")[2].split()[1])
        except (FileNotFoundError, ProcessLookupError):  # it ended meanwhile
            continue
        children.setdefault(parent, []).append(int(stat.parent.name))
    found = [pid]
    for one in found:
        found += children.get(one, [])
    return found


def peak_mb() -> float:
    """Sum of the peak resident memory (MB) of this process and those it started that still live (Linux).

    Pages shared by parent and child count twice.
    """
    total = 0
    for pid in family(os.getpid()):
        try:
            status = Path(f"/proc/{pid}/status").read_text()
        except (FileNotFoundError, ProcessLookupError):
            continue
        total += next((int(line.split()[1]) for line in status.splitlines() if line.startswith("VmHWM:")), 0)
    return total * 1024 / 1e6


def emit(case: str, **figures: float | str | None) -> None:
    rounded = {name: round(value, 4) if isinstance(value, float) else value for name, value in figures.items()}
    print(json.dumps({"case": case, **rounded}), flush=True)


def emit_answer(case: str, answer: Answer) -> None:
    emit(
        case,
        first_token_s=answer.first - answer.asked,
        decode_tok_s=decode_rate([answer]),
        prompt_tokens=answer.prompt_tokens,
    )


def measure(system: System, given: argparse.Namespace) -> None:
    """Load the system, ask every case and print its line."""
    start = time.perf_counter()
    system.load()
    emit("first load" if system.first_load else "load", seconds=time.perf_counter() - start)
    emit("versions", **{package: version(package) for package in system.packages})
    system.ask("hello", None, WARM_UP_TOKENS)
    system.ask("hello", given.warm_up_picture, WARM_UP_TOKENS)
    emit_answer("new image", system.ask(QUESTION, given.picture, given.tokens))
    emit_answer("same image again", system.ask(OTHER_QUESTION, given.picture, given.tokens))
    emit_answer("text only", system.ask(LONG_TEXT, None, given.tokens))
    emit("memory", peak_mb=peak_mb())
    for count in given.at_once if system.batches else ():
        questions = [f"Question {count}.{i}: {OTHER_QUESTION}" for i in range(count)]
        answers = system.ask_at_once(questions, given.picture, given.tokens)
        emit(f"{count} at once", decode_tok_s=decode_rate(answers), seconds=max(a.last - a.asked for a in answers))
    if system.batches and given.at_once:
        emit("memory, at once", peak_mb=peak_mb())


def parser(purpose: str) -> argparse.ArgumentParser:
    """The options that every system is started with."""
    options = argparse.ArgumentParser(description=purpose)
    options.add_argument("model", help="model folder, or the server's command")
    options.add_argument("--picture", type=Path, required=True, help="a picture not seen before")
    options.add_argument("--warm-up-picture", type=Path, required=True)
    options.add_argument("--tokens", type=int, default=48, help="length of every answer")
    options.add_argument("--at-once", type=int, nargs="*", default=[])
    options.add_argument(
        "--folder", type=Path, required=True, help="where files may be kept for this system's next round"
    )
    return options


def run(system: System, given: argparse.Namespace) -> None:
    try:
        measure(system, given)
    finally:
        system.close()
