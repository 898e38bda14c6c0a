"""Measures a mixture of experts beside other systems: reading a prompt, and writing behind it.

    python bench/moe.py --checkpoint SLICE --sightline int8 --server "llama.cpp Q8_0=llama-server -m ... --port {port}"

The cases of `speed.py`, with a long text; a few layers of the real shape are enough to compare systems by. Knows only
what must hold for such models.
"""

from __future__ import annotations

from report import Claim
from speed import DECODE, GENAI4, GENAI8, INT4, INT8, LLAMA4, LLAMA8, NEW, TEXT, WRITE, run

CLAIMS = tuple(
    claim
    for name, peers in ((INT8, (GENAI8, LLAMA8)), (INT4, (GENAI4, LLAMA4)))
    for peer in peers
    for claim in (
        Claim(f"{name}: new image no slower than {peer}", (name, NEW), (peer, NEW), 1.0),
        Claim(f"{name}: prompt of text no slower than {peer}", (name, TEXT), (peer, TEXT), 1.0),
        Claim(f"{name}: decode behind text no slower than {peer}", (peer, WRITE), (name, WRITE), 1.0),
        Claim(f"{name}: decode behind the image no slower than {peer}", (peer, DECODE), (name, DECODE), 1.0),
    )
)

if __name__ == "__main__":
    run(__doc__, "moe", CLAIMS, text_tokens=800)
