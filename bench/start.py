"""Measures how long Sightline takes to be ready, whether its first request is slower than its tenth, and its memory.

    python bench/start.py --checkpoint DIR --sightline int8 --sightline int4

Each precision starts three times, each time in a new process: without quantised weights of its own (cold), with them
(packed), and with them still in memory (packed, again). Before the first two, the pages of checkpoint and cache are
dropped from memory, so they come from the disk. Behind the last come ten requests with new pictures of one size and,
with `--context`, a prompt as long as that.
"""

from __future__ import annotations

import argparse
import os
import shutil
import tempfile
from pathlib import Path

import pictures
from report import Claim, Figure
from rounds import Measured, card_of, contenders, draw, one_round, options, parse, publish, quietly

REQUESTS = 10
LOADS = "first load", "load"
STARTS = "cold", "packed", "packed, again"
FIGURES = (
    *(Figure(case, "seconds", f"{case}, s") for case in STARTS),
    Figure("request 1", "seconds", "first request, s"),
    Figure(f"request {REQUESTS}", "seconds", "tenth request, s"),
    Figure("memory", "resident_mb", "resident memory at the end, MB"),
    Figure("memory", "peak_mb", "peak memory, MB"),
)
FIRST, TENTH = "request 1 / seconds", f"request {REQUESTS} / seconds"
CLAIMS = tuple(
    claim
    for name, most_mb in (("sightline int8", 3000), ("sightline int4", 2000))
    for claim in (
        Claim(f"{name}: ready in 15 s from the checkpoint", (name, "cold / seconds"), None, 15),
        Claim(f"{name}: ready in 5 s from packed weights", (name, "packed / seconds"), None, 5),
        Claim(f"{name}: first request at most 10 % slower than the tenth", (name, FIRST), (name, TENTH), 1.1),
        Claim(f"{name}: resident memory at most {most_mb} MB", (name, "memory / resident_mb"), None, most_mb),
    )
)


def forget_pages(folder: Path) -> None:
    """Drop what the system keeps in memory of the folder's files; dirty pages are written first."""
    for path in (found for found in folder.rglob("*") if found.is_file()):
        with path.open("rb") as file:
            os.fsync(file.fileno())
            os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


def measure_starts(given: argparse.Namespace) -> Measured:
    """All rounds: every precision cold, packed and packed again."""
    measured = Measured()
    with tempfile.TemporaryDirectory(dir=given.cache) as made:
        for number in range(1, given.rounds + 1):
            seed = given.seed + number
            for system in contenders(given):
                kept = Path(made) / system.name
                shutil.rmtree(kept, ignore_errors=True)
                for start in STARTS:
                    last = start == STARTS[-1]
                    if not last:
                        forget_pages(Path(given.checkpoint))
                        forget_pages(kept)
                    asked = draw(Path(made), seed, [given.size] * REQUESTS if last else [])
                    asked += ["--table", "start", "--text-tokens", str(given.context if last else 0)]
                    lines = one_round(system, [*asked, "--tokens", str(given.tokens)], kept)
                    for line in lines:
                        line["case"] = start if line["case"] in LOADS else line["case"]
                    measured.take(system.name, [line for line in lines if last or line["case"] == start])
    return measured


def main() -> None:
    parser = options(__doc__)
    parser.add_argument("--size", type=pictures.parse_size, default=(512, 384), help="WIDTHxHEIGHT of the pictures")
    parser.add_argument("--context", type=int, default=0, help="tokens of a prompt that fills the context at the end")
    given = parse(parser)
    card = card_of(
        table="start",
        picture="x".join(map(str, given.size)),
        tokens=given.tokens,
        context=given.context,
        rounds=given.rounds,
    )
    publish(card, quietly(card, lambda: measure_starts(given)), FIGURES, CLAIMS, given.out)


if __name__ == "__main__":
    main()
