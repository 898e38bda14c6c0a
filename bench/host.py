"""Measures what is done around the model: a large JPEG until its patches are there, and what the HTTP server adds.

    python bench/host.py

The JPEG goes the way of a request's pictures, to a sandboxed worker and back, and its pixels become patches, while a
ticker on the same event loop notes for how long that stood still. What the server adds is the difference between a
question that came over HTTP and the same one asked of an engine in this process, in turns, both with the demo model.
Prints a card, a table, the claims that must hold and one JSON line.
"""

from __future__ import annotations

import argparse
import asyncio
import http.client
import json
import random
import sys
import time
from importlib.metadata import version
from importlib.resources import files
from pathlib import Path

import pictures
from ask_server import Server
from cases import Answer
from report import Claim, Figure
from rounds import Measured, card_of, publish, quietly
from sightline.backends.local import LocalBackend
from sightline.media.images import ResizeRule
from sightline.media.pictures import ImageWorkers
from sightline.model.config import ModelConfig
from sightline.model.vision import patch_rows
from sightline.settings import MediaSettings, load_settings
from sightline.types import Conversation, Image, Message, Sampling, Text

SYSTEM, DEMO = "sightline", files("sightline") / "demo_model"
START = (
    f"env SIGHTLINE_LOG_LEVEL=error {sys.executable} -c 'from sightline.cli import main; main()' serve --port {{port}}"
)
SEEN = {"1024x768": (1024, 768), "1920x1440": (1920, 1440)}  # as which the picture reaches the model
TICK_S = 0.001
FIGURES = (
    *(
        Figure(f"jpeg, {size}", name, f"12-megapixel JPEG, seen as {size}: {title}")
        for size in SEEN
        for name, title in (("seconds", "until its patches are there, s"), ("still_s", "event loop still, s"))
    ),
    *(
        Figure(who, name, f"{who}: {title}")
        for who in ("engine", "server")
        for name, title in (("first_token_ms", "first token, ms"), ("token_ms", "each token after it, ms"))
    ),
    Figure("overhead", "request_ms", "what the server adds to a request, ms"),
    Figure("overhead", "token_ms", "to each token, ms"),
)
CLAIMS = (
    *(Claim(f"JPEG seen as {size}: at most 150 ms", (SYSTEM, f"jpeg, {size} / seconds"), None, 0.15) for size in SEEN),
    Claim("the server adds at most 3 ms to a request", (SYSTEM, "overhead / request_ms"), None, 3),
    Claim("and at most 0.1 ms to a token", (SYSTEM, "overhead / token_ms"), None, 0.1),
)
TWELVE_MEGAPIXELS = 4000, 3000


async def longest_still(until: asyncio.Event) -> float:
    """Seconds by which the event loop was late at worst, until the event."""
    worst = 0.0
    while not until.is_set():
        began = time.perf_counter()
        await asyncio.sleep(TICK_S)
        worst = max(worst, time.perf_counter() - began - TICK_S)
    return worst


async def decode(workers: ImageWorkers, data: bytes, size: tuple[int, int]) -> dict[str, float]:
    """One JPEG, from its bytes to its patches."""
    config = ModelConfig.load(Path(str(DEMO)))
    vision, done = config.vision, asyncio.Event()
    rule = ResizeRule(min_pixels=1, max_pixels=size[0] * size[1], patch=vision.patch, merge=vision.merge)
    still = asyncio.create_task(longest_still(done))
    began = time.perf_counter()
    picture = await workers.decode(Image(data), rule)
    await asyncio.to_thread(patch_rows, picture.pixels[None], vision, config.pixels)
    seconds = time.perf_counter() - began
    done.set()
    assert picture.pixels.shape[:2] == size[::-1], picture.pixels.shape
    return {"seconds": seconds, "still_s": await still}


class Stream:
    """One connection to the server, kept open from question to question as clients do."""

    def __init__(self, base: str):
        self.connection = http.client.HTTPConnection(base.removeprefix("http://"), timeout=60)

    def ask(self, question: str, tokens: int) -> Answer:
        body = {
            "messages": [{"role": "user", "content": question}],
            "max_tokens": tokens,
            "temperature": 0,
            "ignore_eos": True,
            "stream": True,
        }
        answer = Answer(time.perf_counter())
        self.connection.request("POST", "/v1/chat/completions", json.dumps(body), {"Content-Type": "application/json"})
        reply = self.connection.getresponse()
        if reply.status != 200:
            raise SystemExit(f"the server answered {reply.status}: {reply.read().decode()[:500]}")
        while piece := reply.read1(1 << 16):  # mostly one event; to cut it into lines costs more than it did
            for _ in range(piece.count(b'"content":"') - piece.count(b'"content":""')):
                answer.arrive()
        answer.arrive(0)  # the end of the stream
        return answer


def direct(backend: LocalBackend, runner: asyncio.Runner, question: str, tokens: int) -> Answer:
    """The same from the engine in this process."""

    async def answered() -> Answer:
        answer = Answer(time.perf_counter())
        sampling = Sampling(temperature=0, max_tokens=tokens, ignore_eos=True)
        conversation = Conversation((Message("user", (Text(question),)),))
        async for delta in await backend.generate(conversation, sampling, request_id="bench"):
            if delta.text:
                answer.arrive()
        answer.arrive(0)
        return answer

    return runner.run(answered())


def times(answer: Answer, tokens: int) -> dict[str, float]:
    whole = answer.last - answer.first
    return {"first_token_ms": (answer.first - answer.asked) * 1e3, "token_ms": whole / (tokens - 1) * 1e3}


def question(number: int) -> str:
    """Each one new, so that nothing of it is known already."""
    rng = random.Random(number)
    return f"{rng.uniform(1, 99):.2f}, {rng.uniform(1, 99):.2f}: which number is larger?"


def beside_the_engine(rounds: int, tokens: int, results: dict[str, list[float]]) -> None:
    """The same questions, asked of the engine and of the server in turns; the first two of each are not counted."""
    server, runner = Server(START, None), asyncio.Runner()
    backend = LocalBackend(load_settings())
    try:
        server.load()
        runner.run(backend.start())
        runner.run(backend.ready())
        stream = Stream(server.base)
        ask = {
            "engine": lambda asked: direct(backend, runner, asked, tokens),
            "server": lambda asked: stream.ask(asked, tokens),
        }
        for number in range(-2, rounds):
            found = {}
            for who in sorted(ask, reverse=number % 2 == 0):  # who goes first changes
                found[who] = times(ask[who](question(number)), tokens)
            if number < 0:
                continue
            found["overhead"] = {
                to: found["server"][of] - found["engine"][of]
                for to, of in (("request_ms", "first_token_ms"), ("token_ms", "token_ms"))
            }
            for case, figures in found.items():
                for name, value in figures.items():
                    results.setdefault(f"{case} / {name}", []).append(round(value, 4))
    finally:
        runner.run(backend.close(0))
        runner.close()
        server.close()


def measure(given: argparse.Namespace) -> Measured:
    results: dict[str, list[float]] = {}
    workers = ImageWorkers(MediaSettings())
    data = pictures.jpeg(given.seed, *TWELVE_MEGAPIXELS)
    try:
        for number in range(given.rounds + 1):
            for name, size in SEEN.items():
                for figure, value in asyncio.run(decode(workers, data, size)).items():
                    if number:  # the first one starts the worker
                        results.setdefault(f"jpeg, {name} / {figure}", []).append(round(value, 4))
    finally:
        workers.close()
    beside_the_engine(10 * given.rounds, given.tokens, results)
    return Measured({SYSTEM: results}, {SYSTEM: {name: version(name) for name in ("openvino", "uvicorn", "pillow")}})


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=10, help="JPEGs of each size, and a tenth of the questions")
    parser.add_argument("--tokens", type=int, default=64, help="length of every answer")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, help="append the JSON line to this file")
    given = parser.parse_args()
    card = card_of(table="host", tokens=given.tokens, rounds=given.rounds)
    publish(card, quietly(card, lambda: measure(given)), FIGURES, CLAIMS, given.out)


if __name__ == "__main__":
    main()
