"""`sightline doctor`: will it run here, how well, and what to do if not. Measures, or says why it expects."""

from __future__ import annotations

import json
import shutil
import tempfile
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from importlib import metadata, util
from pathlib import Path
from typing import Annotated, Literal

import typer
from rich import box
from rich.console import Console
from rich.table import Table

from sightline.cli.models import CONTEXT, PRECISIONS, find, human
from sightline.errors import CheckpointError, ModelNotFound
from sightline.model.config import ModelConfig
from sightline.model.machine import (
    FAMILY,
    MEASURED_BYTES,
    Machine,
    decode_bytes,
    measure_product,
    measure_read,
    memory_need,
    read_machine,
)
from sightline.settings import Settings, load_settings
from sightline.types import Precision

OPENVINO = "2026.4.1"  # the release pinned in pyproject.toml: the engine stands on a private op of it
DEMO = Path(__file__).parents[1] / "demo_model"
_SERVER_MODULES = {  # module -> package
    "PIL": "pillow", "alembic": "alembic", "av": "av", "cv2": "opencv-python-headless", "fastapi": "fastapi",
    "h11": "h11", "llguidance": "llguidance", "numpy": "numpy", "openvino": "openvino", "pi_heif": "pi-heif",
    "prometheus_client": "prometheus-client", "pypdfium2": "pypdfium2", "python_multipart": "python-multipart",
    "sqlalchemy": "sqlalchemy", "structlog": "structlog", "tokenizers": "tokenizers", "uvicorn": "uvicorn",
}  # fmt: skip
_PULL_BYTES = 5e9  # Qwen3-VL-2B, the smallest of the family, and some room


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing looked at. Only a `problem` keeps it from running; `next_step` says what to do about it."""

    level: Literal["good", "warning", "problem"]
    text: str
    next_step: str = ""


@dataclass(frozen=True, slots=True)
class Fit:
    """One model at one precision here. `tokens_per_s` is expected: measured read speed over bytes read per token."""

    model: str
    precision: Precision
    need_bytes: int
    fits: bool
    tokens_per_s: float | None


@dataclass(frozen=True, slots=True)
class Measured:
    """What was timed just now: memory reads in GB/s and float32 matrix products in GFLOP/s."""

    read_gb_s: float
    product_gflops: float


@dataclass(frozen=True, slots=True)
class Here:
    """What computes here: the machine, and why our own kernels do not, with the way out."""

    machine: Machine
    without_own: tuple[str, str] | None

    def need(self, config: ModelConfig, precision: Precision, context: int) -> int:
        """Bytes."""
        own = self.without_own is None
        return memory_need(config, precision, context, bf16=self.machine.multiplies_bf16, own=own).total


@dataclass(frozen=True, slots=True)
class Report:
    machine: Machine
    measured: Measured | None
    fits: tuple[Fit, ...]
    advice: tuple[str, ...]
    findings: tuple[Finding, ...]

    @property
    def runs(self) -> bool:
        return not any(finding.level == "problem" for finding in self.findings)


def doctor(
    model: Annotated[
        str | None, typer.Argument(help="A checkpoint folder or pulled model; the demo model if empty.")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object instead of tables.")] = False,
) -> None:
    """Say whether Sightline runs on this machine and what would be fastest. The exit code is 1 when it will not run."""
    machine = read_machine()
    report = examine(model, load_settings(), machine, measure(machine))
    if as_json:
        typer.echo(json.dumps({"runs": report.runs} | asdict(report), indent=1, default=sorted))
    else:
        _print(report)
    if not report.runs:
        raise typer.Exit(1)


def measure(machine: Machine) -> Measured | None:
    """Time this machine for less than two seconds; None without numpy or with less than 1 GB of free memory."""
    if not util.find_spec("numpy") or machine.memory_available < 1e9:
        return None
    return Measured(round(measure_read(machine.cores), 1), round(measure_product(), 1))


def examine(model: str | None, settings: Settings, machine: Machine, measured: Measured | None) -> Report:
    """Everything the report says. `model` None asks about the demo model and shows the family's shapes."""
    here = Here(machine, _no_own_kernels(settings, machine))
    findings = [*_software(), *_processor(machine), _own_kernels(here), *_folders(settings)]
    shown = dict(FAMILY)
    try:
        config = ModelConfig.load(find(model) if model else DEMO)
        name = model or "the demo model"
        findings.append(_memory(name, config, settings, here))
        shown = {name: config} if model else shown
    except (CheckpointError, ModelNotFound) as error:
        findings.append(Finding("problem", error.message, "choose another model, or pull this one (again)"))
    fits = tuple(
        _fit(name, config, precision, here, measured) for name, config in shown.items() for precision in PRECISIONS
    )
    return Report(machine, measured, fits, tuple(_advice(here)), tuple(findings))


def _fit(name: str, config: ModelConfig, precision: Precision, here: Here, measured: Measured | None) -> Fit:
    need = here.need(config, precision, min(CONTEXT, config.text.max_positions))
    read = decode_bytes(config, precision, here.without_own is None)
    # Less than was measured may stay in the processor's caches, and then nothing can be expected.
    speed = round(measured.read_gb_s * 1e9 / read, 1) if measured and read > MEASURED_BYTES else None
    return Fit(name, precision, need, need <= here.machine.memory_available, speed)


def _software() -> Iterator[Finding]:
    missing = [package for module, package in _SERVER_MODULES.items() if not util.find_spec(module)]
    if missing:
        yield Finding("problem", f"not installed: {', '.join(missing)}", 'pip install "sightline[server]"')
    if "openvino" not in missing:
        found = metadata.version("openvino")
        if found == OPENVINO:
            yield Finding("good", f"OpenVINO {found}, the release the engine is made for")
        else:
            text = f"OpenVINO {found} is installed, the engine is made for {OPENVINO} and may fail to load"
            yield Finding("warning", text, f"pip install openvino=={OPENVINO}")
    yield Finding("good", "USE_ONNX_RUNTIME is accepted and changes nothing: the accelerated kernels are always on")
    yield Finding("good", "BATCH_SIZE is accepted and changes nothing: each step computes all MAX_CONCURRENCY answers")


def _processor(machine: Machine) -> Iterator[Finding]:
    if machine.architecture not in ("x86_64", "aarch64"):
        text = f"the processor is a {machine.architecture}; the engine has kernels for x86_64 and aarch64"
        yield Finding("problem", text, "use a machine of one of these, or a server elsewhere with the sightline client")
    elif machine.architecture == "x86_64" and "avx2" not in machine.features:
        text = "the processor has no AVX2; answers will be many times slower than on one that has"
        yield Finding("warning", text, "use a processor made after 2015")
    if machine.cgroup_cores is not None:
        text = f"the container may use {machine.cgroup_cores:g} cores; {machine.cores} threads will compute"
        slow = machine.cgroup_cores < 1
        yield Finding("warning" if slow else "good", text, "give the container at least one core" if slow else "")


def _no_own_kernels(settings: Settings, machine: Machine) -> tuple[str, str] | None:
    """Why our own kernels will not compute, and what to do about it; None when they will."""
    if not util.find_spec("openvino"):
        return "OpenVINO is not installed", ""
    from sightline.model.own import why_not

    found = why_not(machine.flags, settings.own_kernels)
    return None if found is None else (found.reason, found.way_out)


def _own_kernels(here: Here) -> Finding:
    if here.without_own is None:
        from sightline.model.own import TILES

        units = "tile instructions (AMX)" if TILES.issubset(here.machine.flags) else "AVX2"
        return Finding("good", f"our own kernels compute, with this processor's {units}")
    reason, way_out = here.without_own
    return Finding(
        "warning" if way_out else "good", f"our own kernels are not used, OpenVINO's compute: {reason}", way_out
    )


def _folders(settings: Settings) -> Iterator[Finding]:
    for folder, what, way_out in (
        (settings.cache_dir, "cache", "set SIGHTLINE_CACHE_DIR to a writable folder"),
        (Path(tempfile.gettempdir()), "temporary", "set TMPDIR to a writable folder"),
    ):
        try:
            there = next(place for place in (folder, *folder.absolute().parents) if place.exists())
            with tempfile.TemporaryFile(dir=there):
                free = shutil.disk_usage(there).free
        except OSError as error:
            text = f"the {what} folder {folder} cannot be written ({error.strerror}); models cannot be kept"
            yield Finding("warning", text, way_out)
            continue
        text = f"the {what} folder {folder} is writable, {human(free)} free"
        small = what == "cache" and free < _PULL_BYTES
        yield Finding(
            "warning" if small else "good", text, f"free {human(_PULL_BYTES)} to pull a model" if small else ""
        )


def _memory(name: str, config: ModelConfig, settings: Settings, here: Here) -> Finding:
    context = min(settings.max_context or CONTEXT, config.text.max_positions)
    needs = {p: here.need(config, p, context) for p in PRECISIONS}
    need, free = needs[settings.precision], here.machine.memory_available
    text = f"{name} needs {human(need)} at {settings.precision}, {human(free)} are available"
    if need <= free:
        return Finding("good", text)
    smaller = [p for p in PRECISIONS if needs[p] <= free]
    way_out = (
        f"set SIGHTLINE_PRECISION={smaller[0]}" if smaller else "use a smaller model or a machine with more memory"
    )
    return Finding("problem", text, way_out)


def _advice(here: Here) -> Iterator[str]:
    """What is expected of each precision on this processor, and why."""
    machine = here.machine
    has = ", ".join(machine.features) or "no vector instructions we know of"
    yield "int4 is expected to write fastest: each token reads every weight once, and int4 has the fewest bytes to read"
    if machine.multiplies_int8:
        yield "int8 and int4 are expected to read prompts fastest: the processor multiplies 8-bit numbers natively"
    elif here.without_own is None:
        yield "int8 and int4 are expected to read prompts fastest: our own kernels multiply 16-bit numbers"
    else:
        yield f"int8 and int4 may read prompts no faster than exact: the processor has no 8-bit products ({has})"
    if machine.multiplies_bf16:
        yield "with int8 and int4, attention and the vision tower compute in bf16, which this processor does natively"
    yield "exact computes in float32 from the stored weights: the slowest, with the answers of a float32 reference"


def _print(report: Report) -> None:
    console, machine = Console(highlight=False), report.machine
    facts = Table(box=None, show_header=False, pad_edge=False)
    facts.add_row("processor", f"{machine.cpu} ({machine.architecture})")
    facts.add_row("features", ", ".join(machine.features) or "none that matter")
    facts.add_row("cores", f"{machine.cores} usable, {machine.physical_cores} of them real")
    limit = f", container limit {human(machine.cgroup_memory)}" if machine.cgroup_memory is not None else ""
    facts.add_row("memory", f"{human(machine.memory_available)} available of {human(machine.memory_total)}{limit}")
    if report.measured:
        speeds = f"reads {report.measured.read_gb_s} GB/s, float32 products {report.measured.product_gflops} GFLOP/s"
        facts.add_row("measured now", speeds)
    console.print(facts)
    table = Table("model", "precision", "memory", "fits", "expected tokens/s", box=box.SIMPLE_HEAD)
    for fit in report.fits:
        speed = "" if fit.tokens_per_s is None else f"about {fit.tokens_per_s:.3g}"
        table.add_row(
            fit.model, fit.precision, human(fit.need_bytes), "yes" if fit.fits else "no", speed if fit.fits else ""
        )
    console.print(table)
    console.print(
        f"Memory is an upper estimate at {CONTEXT} tokens; tokens/s is the measured read speed over bytes per token."
    )
    for line in report.advice:
        console.print(f"- {line}", markup=False)
    console.print()
    signs = {"good": "[green]ok[/]", "warning": "[yellow]warning[/]", "problem": "[red]problem[/]"}
    for finding in report.findings:
        console.print(signs[finding.level], end=" ")
        console.print(finding.text + (f". Next: {finding.next_step}" if finding.next_step else ""), markup=False)
    console.print("\nIt will run." if report.runs else "\nIt will not run until the problems above are solved.")
