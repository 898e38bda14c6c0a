"""Measures how fast one answer is written beside other systems, and as a share of what this memory could give.

    python bench/decode.py --checkpoint DIR --sightline int8 --sightline int4 --genai int8=DIR --genai-python PYTHON

Every process writes an answer, reads 1 GiB with all cores, writes again, and so on. The share is tokens per second,
times the bytes that one token needs (weights by the formula of `sightline doctor`, keys and values of the context),
over the bytes read per second right before and behind. Prints a card, a table, the claims and one JSON line.
"""

from __future__ import annotations

from report import Claim, Figure
from rounds import card_of, measure, options, parse, publish, quietly

RATE, LIMIT = "decode / decode_tok_s", "decode / limit_tok_s"
FIGURES = (
    Figure("decode", "decode_tok_s", "decode, tok/s", more_is_better=True),
    Figure("decode", "read_gb_s", "memory read meanwhile, GB/s", more_is_better=True),
    Figure("decode", "limit_tok_s", "what that could give, tok/s", more_is_better=True),
    Figure("decode", "share", "share of it", more_is_better=True),
)
EQUAL_BITS = {"sightline int8": ("genai int8", "llama.cpp Q8_0"), "sightline int4": ("genai int4", "llama.cpp Q4_0")}
CLAIMS = (
    *(
        Claim(f"{name}: no slower than {peer}", (peer, RATE), (name, RATE), 1.0)
        for name, peers in EQUAL_BITS.items()
        for peer in peers
    ),
    *(Claim(f"{name}: 90 % of what memory could give", (name, LIMIT), (name, RATE), 1 / 0.9) for name in EQUAL_BITS),
    Claim("sightline exact: 2.5x transformers float32", ("transformers float32", RATE), ("sightline exact", RATE), 0.4),
)


def main() -> None:
    parser = options(__doc__)
    parser.add_argument("--text-tokens", type=int, default=180, help="length of the question, about")
    parser.add_argument("--turns", type=int, default=3, help="answers of each process in each round")
    given = parse(parser)
    card = card_of(
        table="decode", text_tokens=given.text_tokens, tokens=given.tokens, rounds=given.rounds, turns=given.turns
    )
    asked = ["--table", "decode", "--text-tokens", str(given.text_tokens), "--turns", str(given.turns)]
    measured = quietly(card, lambda: measure(given, asked, []))
    publish(card, measured, FIGURES, CLAIMS, given.out)


if __name__ == "__main__":
    main()
