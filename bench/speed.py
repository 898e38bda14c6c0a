"""Measures first token, decode rate, loading and memory beside other systems on the same pictures, in turn.

    python bench/speed.py --checkpoint DIR --sightline int8 --sightline exact \\
        --transformers PYTHON --genai int8=DIR --genai-python PYTHON --rounds 5

Prints a card, a table, the claims that must hold and one JSON line. Knows no engine: `ask_*.py` do.
"""

from __future__ import annotations

from collections.abc import Sequence

import pictures
from report import Claim, Figure
from rounds import card_of, measure, options, parse, publish, quietly

FIRST, RATE = "first_token_s", "decode_tok_s"
FIGURES = (
    Figure("first load", "seconds", "first load, s"),
    Figure("load", "seconds", "load, s"),
    Figure("new image", FIRST, "new image: first token, s"),
    Figure("same image again", FIRST, "same image again: first token, s"),
    Figure("text only", FIRST, "text only: first token, s"),
    Figure("new image", RATE, "decode behind the image, tok/s", more_is_better=True),
    Figure("text only", RATE, "decode behind text, tok/s", more_is_better=True),
    Figure("memory", "peak_mb", "peak memory, MB"),
)
NEW, AGAIN, TEXT = (f"{case} / {FIRST}" for case in ("new image", "same image again", "text only"))
DECODE, WRITE, MEMORY = f"new image / {RATE}", f"text only / {RATE}", "memory / peak_mb"
INT8, INT4, EXACT, FLOAT32 = "sightline int8", "sightline int4", "sightline exact", "transformers float32"
GENAI8, GENAI4, LLAMA8, LLAMA4 = "genai int8", "genai int4", "llama.cpp Q8_0", "llama.cpp Q4_0"
CLAIMS = (
    Claim("int8, new image: 1.3x faster than GenAI int8", (INT8, NEW), (GENAI8, NEW), 1 / 1.3),
    Claim("int8, new image: 3.5x faster than llama.cpp Q8_0", (INT8, NEW), (LLAMA8, NEW), 1 / 3.5),
    Claim("int8, new image: 3.5x faster than transformers float32", (INT8, NEW), (FLOAT32, NEW), 1 / 3.5),
    Claim("int4, new image: 1.3x faster than GenAI int4", (INT4, NEW), (GENAI4, NEW), 1 / 1.3),
    Claim("int8, same image again: at most 0.4 s", (INT8, AGAIN), None, 0.4),
    Claim("int8, same image again: 20x faster than GenAI int8", (INT8, AGAIN), (GENAI8, AGAIN), 1 / 20),
    *(
        Claim(f"{name}: decode no slower than {peer}", (peer, case), (name, case), 1.0)
        for name, peers in ((INT8, (GENAI8, LLAMA8)), (INT4, (GENAI4, LLAMA4)))
        for peer in peers
        for case in (DECODE, WRITE)
    ),
    *(
        Claim(f"{name}: prompt of text no slower than {peer}", (name, TEXT), (peer, TEXT), 1.0)
        for name, peers in ((INT8, (GENAI8, LLAMA8)), (INT4, (GENAI4, LLAMA4)))
        for peer in peers
    ),
    Claim("exact, new image: 1.2x faster than transformers float32", (EXACT, NEW), (FLOAT32, NEW), 1 / 1.2),
    Claim("exact, decode: 2.5x faster than transformers float32", (FLOAT32, DECODE), (EXACT, DECODE), 1 / 2.5),
    Claim("exact, peak memory: at most 45 % of transformers float32", (EXACT, MEMORY), (FLOAT32, MEMORY), 0.45),
)


def run(purpose: str | None, table: str, claims: Sequence[Claim], text_tokens: int) -> None:
    """The whole command, for the table of this name."""
    parser = options(purpose)
    parser.add_argument("--size", type=pictures.parse_size, default=(1024, 768), help="WIDTHxHEIGHT of the pictures")
    parser.add_argument(
        "--text-tokens", type=int, default=text_tokens, help="length of the question without a picture, about"
    )
    given = parse(parser)
    card = card_of(
        table=table,
        picture="x".join(map(str, given.size)),
        tokens=given.tokens,
        text_tokens=given.text_tokens,
        rounds=given.rounds,
    )
    asked = ["--table", "speed", "--text-tokens", str(given.text_tokens)]
    measured = quietly(card, lambda: measure(given, asked, [given.size]))
    publish(card, measured, FIGURES, claims, given.out)


if __name__ == "__main__":
    run(__doc__, "speed", CLAIMS, text_tokens=180)
