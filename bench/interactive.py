"""Measures how long an interactive question waits for its first step while a bulk request is being read.

    python bench/interactive.py --checkpoint DIR --precision int8

A bulk request with a long text, or with a new picture, is under way; a short question arrives at a random moment. Its
wait ends when the first step with any of its tokens begins. Prints a card, a table, the claims and one JSON line.
"""

from __future__ import annotations

import argparse
import asyncio
import random
import tempfile
from importlib.metadata import version
from importlib.resources import files
from pathlib import Path

import pictures
from cases import OTHER_QUESTION, text_of
from report import Claim, Figure
from rounds import Measured, card_of, publish, quietly
from sightline.backends.local import LocalAnswer, LocalBackend
from sightline.settings import load_settings
from sightline.types import Conversation, Image, Lane, Message, Part, Sampling, Text, Usage

SYSTEM, TARGET_S = "sightline", 0.25
POLL_S = 0.002
BULK = {"reading": "a bulk text is read", "looking": "a bulk picture is looked at"}  # by the stage to wait for
FIGURES = (
    Figure("nothing else", "first_token_s", "nothing else: first token, s"),
    *(
        Figure(case, name, f"{case}: {title}")
        for case in BULK.values()
        for name, title in (
            ("wait_s", "wait, s"),
            ("longest_wait_s", "longest wait, s"),
            ("first_token_s", "first token, s"),
        )
    ),
)
CLAIMS = tuple(
    Claim(f"{case}: wait of at most 250 ms, every time", (SYSTEM, f"{case} / longest_wait_s"), None, TARGET_S)
    for case in BULK.values()
)


class Desk:
    """A backend, and what is asked of it; no text is asked twice."""

    def __init__(self, backend: LocalBackend, size: tuple[int, int], tokens: int):
        self.backend, self.size, self.tokens = backend, size, tokens
        self.number = 0

    async def ask(self, *parts: Part, lane: Lane, tokens: int) -> LocalAnswer:
        self.number += 1
        said = (*parts, Text(f"{self.number}. {OTHER_QUESTION}"))
        sampling = Sampling(temperature=0, max_tokens=tokens, ignore_eos=True)
        name = f"bench-{self.number}"
        return await self.backend.generate(Conversation((Message("user", said),)), sampling, request_id=name, lane=lane)

    async def question(self) -> Usage:
        """What a short interactive question cost."""
        async for delta in await self.ask(lane="interactive", tokens=2):
            if delta.usage:
                return delta.usage
        raise AssertionError("an answer ended without its usage")

    async def question_beside(self, stage: str, delay_s: float) -> Usage:
        """The same, asked `delay_s` after a bulk request has come to `stage`, which is dropped then."""
        if stage == "looking":
            part: Part = Image(pictures.jpeg(7000 + self.number, *self.size))
        else:
            part = Text(f"{self.number} {text_of(self.tokens)}")
        bulk = await self.ask(part, lane="bulk", tokens=1)
        while bulk.progress.stage != stage:
            await asyncio.sleep(POLL_S)
        await asyncio.sleep(delay_s)
        assert bulk.progress.stage == stage, f"the bulk request is {bulk.progress.stage} already; make it larger"
        usage = await self.question()
        await bulk.aclose()
        while self.backend.stats and self.backend.stats.running:  # its last step, which nobody waits for
            await asyncio.sleep(POLL_S)
        return usage


async def measure(given: argparse.Namespace, cache: Path) -> Measured:
    backend = LocalBackend(load_settings(model=given.checkpoint, precision=given.precision, cache_dir=cache))
    await backend.start()
    await backend.ready()
    desk, rng = Desk(backend, given.size, given.tokens), random.Random(given.seed)
    results: dict[str, list[float]] = {}

    def note(case: str, usage: Usage) -> None:
        first_ms = usage.queue_ms + usage.vision_ms + usage.prefill_ms
        for name, ms in (("wait_s", usage.queue_ms), ("first_token_s", first_ms)):
            results.setdefault(f"{case} / {name}", []).append(round(ms / 1e3, 4))

    try:
        for stage in BULK:  # bulk chunks have to find their size first
            await desk.question_beside(stage, 0.0)
        for _ in range(given.rounds):
            note("nothing else", await desk.question())
            for stage, case in BULK.items():
                note(case, await desk.question_beside(stage, rng.uniform(0.0, given.most_delay)))
    finally:
        await backend.close()
    for case in BULK.values():
        results[f"{case} / longest_wait_s"] = [max(results[f"{case} / wait_s"])]
    return Measured({SYSTEM: results}, {SYSTEM: {"openvino": version("openvino")}})


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--checkpoint", default=str(files("sightline") / "demo_model"))
    parser.add_argument("--precision", default="int8", choices=["exact", "int8", "int4"])
    parser.add_argument("--rounds", type=int, default=10)
    parser.add_argument("--tokens", type=int, default=1500, help="length of the bulk text, about")
    parser.add_argument("--size", type=pictures.parse_size, default=(1024, 768), help="WIDTHxHEIGHT of bulk pictures")
    parser.add_argument("--most-delay", type=float, default=1.0, help="seconds into the bulk work at most")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--cache", type=Path, help="where our quantised weights stay; default: for this run only")
    parser.add_argument("--out", type=Path, help="append the JSON line to this file")
    given = parser.parse_args()
    card = card_of(
        table="interactive",
        precision=given.precision,
        picture="x".join(map(str, given.size)),
        text_tokens=given.tokens,
        rounds=given.rounds,
    )
    with tempfile.TemporaryDirectory() as made:
        cache = given.cache / f"sightline {given.precision}" if given.cache else Path(made)
        measured = quietly(card, lambda: asyncio.run(measure(given, cache)))
    publish(card, measured, FIGURES, CLAIMS, given.out)


if __name__ == "__main__":
    main()
