"""Measures several questions at once, about one known picture and about a new picture each, beside other systems.

    python bench/together.py --checkpoint DIR --sightline int8 --genai int8=DIR --genai-python PYTHON \\
        --server "llama.cpp Q8_0=llama-server -m MODEL --mmproj MMPROJ -t 2 -c 16384 -np 8 --port {port}"

Prints a card, a table, the claims that must hold and one JSON line.
"""

from __future__ import annotations

import pictures
from report import Claim, Figure
from rounds import card_of, measure, options, parse, publish, quietly

MOST = 16  # questions at once that have a row in the table
FIGURES = (
    *(
        Figure(f"{count} {kind}", name, title.format(count), more_is_better=True)
        for kind, name, title in (
            ("same", "decode_tok_s", "{} at once, one known picture: decode, tok/s"),
            ("different", "decode_tok_s", "{} at once, new pictures: decode, tok/s"),
            ("different", "whole_tok_s", "{} at once, new pictures: pictures, prompts and answers, tok/s"),
        )
        for count in range(1, MOST + 1)
    ),
    Figure("memory", "peak_mb", "peak memory, MB"),
)
OURS, PEERS = "sightline int8", ("genai int8", "llama.cpp Q8_0")
KINDS = ("same", "decode_tok_s"), ("different", "decode_tok_s")
CLAIMS = (
    *(
        Claim(
            f"{OURS}, {kind}: 8 at once 4.5x one", (OURS, f"1 {kind} / {name}"), (OURS, f"8 {kind} / {name}"), 1 / 4.5
        )
        for kind, name in KINDS
    ),
    *(
        Claim(
            f"{OURS}, {kind}, 8 at once: 1.3x {peer}",
            (peer, f"8 {kind} / {name}"),
            (OURS, f"8 {kind} / {name}"),
            1 / 1.3,
        )
        for kind, name in (*KINDS, ("different", "whole_tok_s"))
        for peer in PEERS
    ),
)


def main() -> None:
    parser = options(__doc__)
    parser.add_argument("--at-once", type=int, nargs="+", default=[1, 2, 4, 8])
    parser.add_argument("--size", type=pictures.parse_size, default=(512, 384), help="WIDTHxHEIGHT of the pictures")
    given = parse(parser)
    card = card_of(table="together", picture="x".join(map(str, given.size)), tokens=given.tokens, rounds=given.rounds)
    asked = ["--table", "together", "--at-once", *map(str, given.at_once)]
    measured = quietly(card, lambda: measure(given, asked, [given.size] * (1 + sum(given.at_once))))
    publish(card, measured, FIGURES, CLAIMS, given.out)


if __name__ == "__main__":
    main()
