"""Notices an answer that goes in circles, as small models do over tables and dots. Knows text only."""

from __future__ import annotations

LONGEST = 200  # characters of one round
ROUNDS = 8
# Rulers, dot leaders and empty table cells repeat on honest pages too; hardly ever this long without a break.
SHORTEST = 200  # characters of all rounds together


def goes_in_circles(text: str) -> bool:
    """Whether the end of `text` is the same piece, of 1 to 200 characters, at least 8 times and 200 characters long.

    Costs 0.1 ms at worst, so it can be asked after every token.
    """
    for size in range(1, min(LONGEST, len(text) // ROUNDS) + 1):
        needed = max(ROUNDS * size, SHORTEST)
        if len(text) < needed or text[-1] != text[-1 - size]:
            continue
        tail = text[-needed:]
        if tail[size:] == tail[:-size]:
            return True
    return False
