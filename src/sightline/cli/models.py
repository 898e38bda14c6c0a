"""`sightline models`: fetch, list and look into checkpoints. Parses and prints; the work is done in `model`."""

from __future__ import annotations

import math
import sys
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal, get_args

import typer
from rich import box
from rich.console import Console
from rich.progress import BarColumn, DownloadColumn, TextColumn, TimeRemainingColumn, TransferSpeedColumn
from rich.progress import Progress as Bar
from rich.table import Table

from sightline.errors import CheckpointError, ModelNotFound
from sightline.settings import load_settings
from sightline.types import Precision

if TYPE_CHECKING:
    from sightline.model.checkpoint import Checkpoint
    from sightline.model.config import ModelConfig
    from sightline.model.download import Progress

app = typer.Typer(help="Fetch, list and inspect models.", no_args_is_help=True)

PRECISIONS: tuple[Precision, ...] = get_args(Precision)
CONTEXT = 8192  # tokens assumed when memory is estimated


@app.command()
def pull(
    model: Annotated[str, typer.Argument(help="Hub id, as Qwen/Qwen3-VL-2B-Instruct.")],
    source: Annotated[
        Literal["huggingface", "modelscope"], typer.Option(help="Which hub to fetch from.")
    ] = "huggingface",
    revision: Annotated[str | None, typer.Option(help="Branch, tag or commit; the main branch by default.")] = None,
    endpoint: Annotated[str | None, typer.Option(help="A mirror of the hub, as https://HOST.")] = None,
    token: Annotated[str | None, typer.Option(help="Access token for private and gated models.")] = None,
) -> None:
    """Fetch a model: resumable, every file verified. Prints the folder it is in."""
    from sightline.model import download

    with _showing() as progress:
        folder = download.pull(
            model,
            into=models_dir(),
            source=source,
            revision=revision,
            endpoint=endpoint,
            token=token,
            progress=progress,
        )
    typer.echo(folder)


@app.command("list")
def list_models() -> None:
    """Show the models that were pulled, newest first."""
    from sightline.model.download import downloaded

    models = downloaded(models_dir())
    if not models:
        typer.echo(f"No models in {models_dir()}. Fetch one: sightline models pull Qwen/Qwen3-VL-2B-Instruct")
        return
    table = Table("model", "kind", "size", "source", "version", box=box.SIMPLE_HEAD)
    for model in models:
        state = f"damaged ({', '.join(model.damaged)}): pull it again" if model.damaged else _kind_of(model.folder)
        table.add_row(model.id, state, human(model.size_bytes), model.source, f"{model.revision} {model.version[:8]}")
    Console().print(table)


@app.command()
def inspect(model: Annotated[str, typer.Argument(help="A checkpoint folder, or the id of a pulled model.")]) -> None:
    """Show what a checkpoint is, what memory it needs and what is wrong with it (then the exit code is 1)."""
    inspection = look_into(find(model))
    table = Table(box=None, show_header=False, pad_edge=False)
    for name, value in inspection.facts.items():
        table.add_row(name, value)
    console = Console(highlight=False, markup=False)
    console.print(table)
    for problem in inspection.problems:
        console.print(f"Problem: {problem}")
    if inspection.problems:
        raise typer.Exit(1)


@dataclass(slots=True)
class Inspection:
    """What a checkpoint folder holds, in words, and what is wrong with it."""

    facts: dict[str, str] = field(default_factory=dict)
    problems: list[str] = field(default_factory=list)


def look_into(folder: Path) -> Inspection:
    """Read the folder's JSON files and tensor headers; no weights are read."""
    from sightline.model.checkpoint import Checkpoint
    from sightline.model.config import ModelConfig

    found = Inspection({"folder": str(folder)})
    try:
        config = ModelConfig.load(folder)
        found.facts |= _shape_facts(config)
        checkpoint = Checkpoint.open(folder)
        found.facts |= _tensor_facts(checkpoint)
        found.problems += _tensor_problems(checkpoint)
    except CheckpointError as error:
        found.problems.append(error.message)
    try:
        found.facts["chat template"] = _template(folder)
    except CheckpointError as error:
        found.problems.append(error.message)
    if not (folder / "tokenizer.json").is_file():
        found.problems.append(f"{folder / 'tokenizer.json'}: file is missing; download it from the model's hub page")
    return found


def find(model: str) -> Path:
    """The folder of a path or pulled id. Raises ModelNotFound saying how to get it."""
    from sightline.model.download import resolve

    folder = resolve(model, models_dir())
    if folder is None:
        raise ModelNotFound(
            f"{model!r} is neither a folder nor a pulled model; see `sightline models list`, "
            "or fetch it with `sightline models pull ORGANISATION/NAME`"
        )
    return folder


def models_dir() -> Path:
    return load_settings().cache_dir / "models"


def human(size: float) -> str:
    """Bytes for people: 4.3 GB, 11 MB."""
    return f"{size / 1e9:.1f} GB" if size >= 1e9 else f"{math.ceil(size / 1e6)} MB"


def _shape_facts(config: ModelConfig) -> dict[str, str]:
    from sightline.model.machine import memory_need, read_machine
    from sightline.model.own import why_not

    text, vision = config.text, config.vision
    context = min(CONTEXT, text.max_positions)
    machine = read_machine()
    here = {"bf16": machine.multiplies_bf16, "own": why_not(machine.flags, load_settings().own_kernels) is None}
    needs = (f"{p} {human(memory_need(config, p, context, **here).total)}" for p in PRECISIONS)
    return {
        "kind": _kind(config),
        "language model": f"{text.layers} layers of {text.hidden}, {text.heads} heads of {text.head_dim} "
        f"({text.kv_heads} for keys and values), {text.vocab} tokens, {'tied' if config.tied else 'separate'} head",
        "vision tower": f"{vision.depth} blocks of {vision.hidden}, {vision.heads} heads, patches of {vision.patch} px "
        f"merged {vision.merge}x{vision.merge}, features taken after blocks {[*vision.deepstack, vision.depth - 1]}",
        "pictures": f"{config.pixels.min_pixels} to {config.pixels.max_pixels} pixels",
        "context": f"{text.max_positions} tokens",
        f"memory at {context} tokens": ", ".join(needs),
    }


def _tensor_facts(checkpoint: Checkpoint) -> dict[str, str]:
    tensors = checkpoint.tensors.values()
    kinds = Counter[str]()
    for tensor in tensors:
        kinds[tensor.dtype] += math.prod(tensor.shape)
    return {
        "parameters": f"{sum(kinds.values()):,} in {len(tensors)} tensors",
        "stored as": ", ".join(f"{kind} {share / sum(kinds.values()):.0%}" for kind, share in kinds.most_common()),
        "size": human(sum(t.nbytes for t in tensors)),
    }


def _tensor_problems(checkpoint: Checkpoint) -> Iterator[str]:
    """Differences between what the config promises and what the weight files hold."""
    from sightline.model.machine import parameters

    holds, promised = sum(math.prod(t.shape) for t in checkpoint.tensors.values()), parameters(checkpoint.config)
    head = checkpoint.config.text.vocab * checkpoint.config.text.hidden
    has_head = "lm_head.weight" in checkpoint.tensors
    if checkpoint.config.tied == has_head:  # both are served: the head is ignored, or the embeddings stand in
        promised += head if has_head else -head
    if holds != promised:
        yield f"the weight files hold {holds:,} parameters, config.json describes {promised:,}; pull the model again"


def _template(folder: Path) -> str:
    from sightline.model.prompt import read_template, style_of

    template = read_template(folder)
    return "none: the instruct one is used" if template is None else style_of(template)


def _kind_of(folder: Path) -> str:
    from sightline.model.config import ModelConfig

    try:
        return _kind(ModelConfig.load(folder))
    except CheckpointError:
        return "not served here: see models inspect"


def _kind(config: ModelConfig) -> str:
    text = config.text
    if not text.experts:
        return "dense"
    return f"mixture of {text.experts} experts, {text.experts_per_token} per token"


@contextmanager
def _showing() -> Iterator[Callable[[Progress], None]]:
    """Show a pull on standard error: a bar on a terminal, else a line for each new thing and each tenth done."""
    if not sys.stderr.isatty():
        yield _lines()
        return
    columns = (BarColumn(), DownloadColumn(), TransferSpeedColumn(), TimeRemainingColumn())
    with Bar(TextColumn("{task.description}", markup=False), *columns, console=Console(stderr=True)) as bar:
        task = bar.add_task("", total=None)
        yield lambda p: bar.update(task, description=p.text, completed=p.done, total=p.total or None)


def _lines() -> Callable[[Progress], None]:
    shown: tuple[str, int] = ("", -1)

    def show(progress: Progress) -> None:
        nonlocal shown
        tenth = 10 * progress.done // progress.total if progress.total else 0
        if (progress.text, tenth) != shown:
            shown = progress.text, tenth
            of = f" {10 * tenth} % of {human(progress.total)}" if progress.total else ""
            typer.echo(progress.text + of, err=True)

    return show
