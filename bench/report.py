"""Turns measured rounds into a card, a table, the claims that must hold, and one JSON line. Starts nothing."""

from __future__ import annotations

import os
import platform
import statistics
import subprocess
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from rich.console import Console
from rich.table import Table

X86 = ("avx2", "fma", "avx_vnni", "avx512f", "avx512_vnni", "avx512_bf16", "avx512_fp16", "amx_bf16", "amx_int8")
ARM = ("asimd", "asimddp", "bf16", "i8mm", "sve", "sve2")

Rounds = Mapping[str, list[float]]  # "new image / first_token_s": one value per round
Results = Mapping[str, Rounds]  # by system


@dataclass(frozen=True, slots=True)
class Figure:
    """One row of the table: a figure of a case, and whether more of it is better."""

    case: str
    name: str
    title: str
    more_is_better: bool = False

    @property
    def key(self) -> str:
        return f"{self.case} / {self.name}"


@dataclass(frozen=True, slots=True)
class Claim:
    """`mine` divided by `theirs` (by one without), as medians of one run, must stay at or under `limit`."""

    says: str
    mine: tuple[str, str]  # system, figure key
    theirs: tuple[str, str] | None
    limit: float


@dataclass(frozen=True, slots=True)
class Verdict:
    """What one run said of a claim."""

    claim: str
    ratio: float
    limit: float
    holds: bool


def machine() -> dict[str, object]:
    """What the figures depend on: processor, features that matter to kernels, cores, memory, system."""
    lines = [line.partition(":") for line in Path("/proc/cpuinfo").read_text().splitlines()]
    cpu = {name.strip(): value.strip() for name, _, value in reversed(lines)}  # the first processor's values stay
    flags = set((cpu.get("flags") or cpu.get("Features") or "").split())
    memory_kb = int(Path("/proc/meminfo").read_text().split()[1])
    return {
        "cpu": cpu.get("model name") or platform.machine(),
        "features": [feature for feature in X86 + ARM if feature in flags],
        "cores": len(os.sched_getaffinity(0)),  # those this program may use
        "memory_gb": round(memory_kb * 1024 / 1e9, 1),
        "system": f"{platform.system()} {platform.release()}",
        "python": platform.python_version(),
    }


def other_cpu_s() -> float:
    """Processor seconds that went to anything but this program and its ended children since the machine started.

    Counts what a hypervisor took away. Two readings tell how quiet the machine was in between (Linux).
    """
    user, nice, system, _idle, _waiting, irq, softirq, stolen = map(int, Path("/proc/stat").read_text().split()[1:9])
    everybody = (user + nice + system + irq + softirq + stolen) / os.sysconf("SC_CLK_TCK")
    return everybody - sum(os.times()[:4])


def commit() -> str:
    """The commit that is measured, with `-dirty` when tracked files differ from it; empty outside git."""
    asked = ["git", "describe", "--always", "--dirty", "--abbrev=12", "--exclude=*"]
    found = subprocess.run(asked, cwd=Path(__file__).parent, capture_output=True, text=True, check=False)
    return found.stdout.strip()


def medians(results: Results) -> dict[str, dict[str, float]]:
    return {name: {key: statistics.median(v) for key, v in rounds.items()} for name, rounds in results.items()}


def verdicts(results: Results, claims: Sequence[Claim]) -> list[Verdict]:
    """Every claim whose systems were both measured."""
    middle, found = medians(results), []

    def median(of: tuple[str, str]) -> float | None:
        return middle.get(of[0], {}).get(of[1])

    for claim in claims:
        mine, theirs = median(claim.mine), median(claim.theirs) if claim.theirs else 1.0
        if mine is not None and theirs is not None:
            ratio = mine / theirs
            found.append(Verdict(claim.says, round(ratio, 4), round(claim.limit, 4), ratio <= claim.limit))
    return found


def show_card(console: Console, card: Mapping[str, object]) -> None:
    for name, value in card.items():
        shown = ", ".join(f"{k} {v}" for k, v in value.items()) if isinstance(value, dict) else value
        shown = " ".join(map(str, shown)) if isinstance(shown, list) else shown
        console.print(f"{name:>22}  {shown}", highlight=False)


def figure(value: float) -> str:
    """Three digits, or all digits before the point."""
    return f"{value:.0f}" if value >= 100 else f"{value:.3g}"


def cell(values: list[float]) -> str:
    """Median (lowest-highest)."""
    return f"{figure(statistics.median(values))} ({figure(min(values))}-{figure(max(values))})"


def show_table(console: Console, results: Results, figures: Sequence[Figure]) -> None:
    """Figures by system; beside each other system, how many times the first system is better (over 1) or worse."""
    first, *others = results
    table = Table("median (lowest-highest)", first)
    for other in others:
        table.add_column(other)
        table.add_column("times")
    middle = medians(results)
    for wanted in figures:
        row = [wanted.title]
        for name, rounds in results.items():
            values = rounds.get(wanted.key)
            row.append(cell(values) if values else "-")
            if name == first:
                continue
            a, b = middle[first].get(wanted.key), middle[name].get(wanted.key)
            row.append(f"{(a / b if wanted.more_is_better else b / a):.2f}" if a and b else "-")
        if any(shown != "-" for shown in row[1:]):
            table.add_row(*row)
    console.print(table)


def show_verdicts(console: Console, found: list[Verdict]) -> None:
    for verdict in found:
        word = "holds" if verdict.holds else "FAILS"
        console.print(f"{word}  {verdict.claim}  (ratio {verdict.ratio}, limit {verdict.limit})", highlight=False)
