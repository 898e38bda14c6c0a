"""Chooses how many threads to compute with next to busy neighbours. Knows cores, not training.

A step waits for its slowest thread. At idle priority a thread whose core is busy hardly runs, so two threads were
twice as slow as one beside one busy neighbour (3.7 s against 1.9 s a step, two cores), and twice as fast alone.
"""

import os
import time
from pathlib import Path

LOOK_EVERY_S = 5.0
BUSY_SHARE = 0.5  # of a core; less than this taken by others (or our own drawing worker) still leaves room for a thread


class FreeCores:
    """Counts the cores that other programs leave free, from the kernel's counters (Linux)."""

    def __init__(self, most: int) -> None:
        self._most = most
        self._count = most
        self._looked_at = time.monotonic()
        self._taken = _taken_by_others()

    def count(self) -> int:
        """At least one; looks again every few seconds."""
        elapsed = time.monotonic() - self._looked_at
        if elapsed > LOOK_EVERY_S:
            taken = _taken_by_others()
            busy = (taken - self._taken) / elapsed
            self._looked_at, self._taken = time.monotonic(), taken
            self._count = max(1, min(self._most, int((os.cpu_count() or 1) - busy + BUSY_SHARE)))
        return self._count


def _taken_by_others() -> float:
    """Seconds of CPU that other programs have used since the machine started."""
    user, nice, system, _, _, irq, softirq, *_ = map(int, Path("/proc/stat").read_text().split()[1:11])
    own = os.times()
    ticks = os.sysconf("SC_CLK_TCK")
    return (user + nice + system + irq + softirq) / ticks - own.user - own.system - own.children_user
