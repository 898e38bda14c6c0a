"""What every system is asked for each table, in one order, with the same pictures; one JSON line per case.

Knows no engine. Each `ask_*.py` beside this file teaches one system to answer and is started by `rounds.py` in that
system's own virtual environment, so this file uses the standard library only.
"""

from __future__ import annotations

import argparse
import json
import os
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from importlib.metadata import version
from pathlib import Path

QUESTION = "请详细描述这张图片的内容,并提取所有可见文字。"
OTHER_QUESTION = "What is the total amount?"
SENTENCE = "What is the meaning of life and everything? "
SENTENCE_TOKENS = 9
WARM_UP_TOKENS = 4
FEW = 2  # tokens of an answer whose first one is of interest


@dataclass(slots=True)
class Answer:
    """When the tokens of one answer came: `asked` and `arrivals` are seconds of `time.perf_counter`."""

    asked: float
    arrivals: list[tuple[float, int]] = field(default_factory=list)  # (when, how many tokens)
    prompt_tokens: int | None = None
    vision_s: float | None = None  # of the time to the first token, where the system tells

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
    remembers: bool = True  # whether it keeps anything of a picture for the next question
    sees: bool = True  # whether this model takes pictures
    first_load: bool = False  # whether `load` makes files that later loads find

    @abstractmethod
    def load(self) -> None:
        """Everything from importing the library to being ready to answer."""

    @abstractmethod
    def ask(self, question: str, picture: Path | None, tokens: int) -> Answer:
        """Answer in a new conversation, greedily, with exactly `tokens` tokens."""

    def ask_at_once(self, asked: Sequence[tuple[str, Path]], tokens: int) -> list[Answer]:
        """Answer all questions together, each about its picture and in a new conversation."""
        raise NotImplementedError

    def versions(self) -> dict[str, str]:
        """What the card says of this system; asked after `load`."""
        return {package: version(package) for package in self.packages}

    def bytes_per_token(self, context: int) -> int | None:  # noqa: B027  # only we know it of ourselves
        """Bytes read from memory for each token written behind `context` others, where that is known."""

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
    return status_mb("VmHWM:")


def resident_mb() -> float:
    """The same of the memory that is resident now."""
    return status_mb("VmRSS:")


def status_mb(line: str) -> float:
    """Sum of one line of /proc/PID/status, over this process and those it started."""
    total = 0
    for pid in family(os.getpid()):
        try:
            status = Path(f"/proc/{pid}/status").read_text()
        except (FileNotFoundError, ProcessLookupError):
            continue
        total += next((int(found.split()[1]) for found in status.splitlines() if found.startswith(line)), 0)
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


def text_of(tokens: int) -> str:
    return SENTENCE * (tokens // SENTENCE_TOKENS)


def begin(system: System, warm_up: Path, *, warm: bool) -> None:
    """Load the system and, to `warm` it up, let it answer a word and a small picture."""
    start = time.perf_counter()
    system.load()
    emit("first load" if system.first_load else "load", seconds=time.perf_counter() - start)
    emit("versions", **system.versions())
    if warm:
        system.ask("hello", None, WARM_UP_TOKENS)
    if warm and system.sees:
        system.ask("hello", warm_up, WARM_UP_TOKENS)


def speed(system: System, given: argparse.Namespace) -> None:
    """A new picture, the same with another question, text; memory."""
    if system.sees:
        emit_answer("new image", system.ask(QUESTION, given.pictures[0], given.tokens))
        if system.remembers:
            emit_answer("same image again", system.ask(OTHER_QUESTION, given.pictures[0], given.tokens))
    emit_answer("text only", system.ask(text_of(given.text_tokens), None, given.tokens))
    emit("memory", peak_mb=peak_mb())


def together(system: System, given: argparse.Namespace) -> None:
    """Several questions at once: about one picture that is known by then, and about a new picture each."""
    known, *fresh = given.pictures
    system.ask_at_once([(QUESTION, known)], FEW)
    for count in given.at_once:
        questions = [f"Question {count}.{i}: {OTHER_QUESTION}" for i in range(count)]
        emit_together(f"{count} same", system.ask_at_once([(q, known) for q in questions], given.tokens))
    for count in given.at_once:
        pictures, fresh = fresh[:count], fresh[count:]
        if len(pictures) == count:
            asked = [(f"Question {count}: {OTHER_QUESTION}", picture) for picture in pictures]
            emit_together(f"{count} different", system.ask_at_once(asked, given.tokens))
    emit("memory", peak_mb=peak_mb())


def emit_together(case: str, answers: Sequence[Answer]) -> None:
    asked, last = min(a.asked for a in answers), max(a.last for a in answers)
    tokens = sum(tokens for a in answers for _, tokens in a.arrivals)
    emit(case, decode_tok_s=decode_rate(answers), whole_tok_s=tokens / (last - asked), seconds=last - asked)


def decode(system: System, given: argparse.Namespace) -> None:
    """The rate of writing and the rate of reading memory by turns, so that both see the same machine."""
    question, memory = text_of(given.text_tokens), Memory()
    for _ in range(given.turns):
        before = memory.read()
        answer = system.ask(question, None, given.tokens)
        rate, read = decode_rate([answer]), (before + memory.read()) / 2
        size = system.bytes_per_token((answer.prompt_tokens or 0) + given.tokens // 2)
        limit = read / size if size else None
        emit(
            "decode",
            decode_tok_s=rate,
            read_gb_s=read / 1e9,
            limit_tok_s=limit,
            share=rate / limit if limit else None,
        )


class Memory:
    """Something to read that no cache holds."""

    gib = 1

    def __init__(self) -> None:
        import numpy as np

        threads = len(os.sched_getaffinity(0))
        self.parts = np.array_split(np.ones((self.gib << 30) // 8, np.int64), threads)
        self.pool = ThreadPoolExecutor(threads)
        self.read()

    def read(self) -> float:
        """Bytes a second that all cores read together: the better of two times over everything."""
        return max(self._once(), self._once())

    def _once(self) -> float:
        start = time.perf_counter()
        list(self.pool.map(lambda part: part.sum(), self.parts))
        return (self.gib << 30) / (time.perf_counter() - start)


def sizes(system: System, given: argparse.Namespace) -> None:
    """The first token behind pictures of several sizes; `12-1024x768.jpg` is a picture of that size."""
    for picture in given.pictures:
        answer = system.ask(OTHER_QUESTION, picture, FEW)
        size = picture.stem.rpartition("-")[2]
        emit(
            size,
            first_token_s=answer.first - answer.asked,
            vision_s=answer.vision_s,
            prompt_tokens=answer.prompt_tokens,
        )


def start(system: System, given: argparse.Namespace) -> None:
    """Nothing but loading is done before the first of some requests, each with a new picture of the same size."""
    for number, picture in enumerate(given.pictures, 1):
        answer = system.ask(OTHER_QUESTION, picture, given.tokens)
        emit(f"request {number}", seconds=answer.last - answer.asked, first_token_s=answer.first - answer.asked)
    if given.text_tokens:
        system.ask(text_of(given.text_tokens), None, FEW)
    emit("memory", peak_mb=peak_mb(), resident_mb=resident_mb())


TABLES: Mapping[str, Callable[[System, argparse.Namespace], None]] = {
    "speed": speed,
    "together": together,
    "decode": decode,
    "sizes": sizes,
    "start": start,
}


def parser(purpose: str) -> argparse.ArgumentParser:
    """The options that every system is started with."""
    options = argparse.ArgumentParser(description=purpose)
    options.add_argument("model", help="model folder, or the server's command")
    options.add_argument("--table", choices=TABLES, required=True, help="which cases to ask")
    options.add_argument("--pictures", type=Path, nargs="*", default=[], help="pictures not seen before")
    options.add_argument("--warm-up-picture", type=Path, required=True)
    options.add_argument("--tokens", type=int, default=48, help="length of every answer")
    options.add_argument("--text-tokens", type=int, default=180, help="length of a question without a picture, about")
    options.add_argument("--at-once", type=int, nargs="*", default=[1])
    options.add_argument("--turns", type=int, default=3, help="how often one process decodes")
    options.add_argument(
        "--folder", type=Path, required=True, help="where files may be kept for this system's next round"
    )
    return options


def run(system: System, given: argparse.Namespace) -> None:
    """Load the system, ask the cases of the table and print their lines."""
    try:
        begin(system, given.warm_up_picture, warm=given.table != "start")
        TABLES[given.table](system, given)
    finally:
        system.close()
