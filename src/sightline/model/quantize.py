"""Packs a checkpoint's matrices into 8 or 4 bits, once, into a file that later starts map. Knows no graphs.

int8: one scale per output row. int4: language model layers but the first in groups along the input, everything else
int8, and of a long output head a copy in such groups, too. In the layers, levels are chosen with the inputs in mind
that a matrix has in the prompts of `calibrate.py`.
Norms, biases, position tables, routers and the patch embedding are never quantised.
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sightline.errors import CheckpointError
from sightline.model.calibrate import Inputs, layer_inputs
from sightline.model.checkpoint import FLOATS, Checkpoint, Tensor, read_safetensors, to_float32
from sightline.model.kernels import weight_group
from sightline.model.machine import SCANNED_ROWS
from sightline.model.packs import Entry, Progress, new_pack
from sightline.model.pages import release_pages
from sightline.model.rounding import Feedback, feedback, int4, int8
from sightline.model.weights import Weights, experts_are_transposed, head_name, scan_name
from sightline.types import Precision

Array = NDArray[Any]
F32 = NDArray[np.float32]
Shares = Mapping[str, Sequence[Feedback]]  # by tensor

# Raise when packed numbers change: old packs are then made anew.
RECIPE: dict[Precision, int] = {"int8": 1, "int4": 5}
_VISION = "model.visual."
_LAYER = re.compile(r"model\.language_model\.layers\.(\d+)\.")
# Few and sensitive, so they stay in 8 bits: the first layer and value matrices, 3.6 and 4 % of the values in the layers
# of 2B. In the demo model a fifth of what 4 bits cost came from value matrices, then two fifths from the first layer.
_SPARED = re.compile(r"model\.language_model\.layers\.(0\.|\d+\..*v_proj\.weight$)")
_PIECE = 1 << 18  # values quantised at a time: fits a core's cache
_WIDE_PIECE = 1 << 22  # the same where every value is followed by products: 16 MiB, and as much for errors and columns


@dataclass(frozen=True, slots=True)
class Plan:
    """How one tensor is packed. `shape` is [.., out, in] after `transposed` tensors were turned."""

    tensor: Tensor
    shape: tuple[int, ...]
    bits: int
    group: int
    transposed: bool = False

    def entries(self) -> Iterator[Entry]:
        """(name, safetensors type, shape) of what is written: the integers, then their scales."""
        *lead, out, width = self.shape
        if self.bits == 8:
            yield self.tensor.name, "I8", self.shape
            yield self.tensor.name + ".scale", "F16", (*lead, out, 1)
        else:
            groups = width // self.group
            yield self.tensor.name, "U8", (*lead, out, groups, self.group // 2)
            yield self.tensor.name + ".scale", "F16", (*lead, out, groups, 1)


@dataclass(frozen=True, slots=True)
class Job:
    """A plan, and where in the pack its integers and scales go."""

    plan: Plan
    integers: Array
    scales: Array


def open_weights(
    checkpoint: Checkpoint,
    precision: Precision,
    cache: Path,
    threads: int = 1,
    progress: Progress | None = None,
    stored_vision: bool = False,
) -> Weights:
    """The weights for `precision`: as stored for `exact`, else mapped from the pack in `cache`, made when missing.

    With `stored_vision` the vision tower's stay as stored, too.
    """
    if precision == "exact":
        return Weights(checkpoint)
    plans = [p for p in plan(checkpoint, precision) if not (stored_vision and p.tensor.name.startswith(_VISION))]
    path = cache / "packed" / f"{checkpoint.digest()}-{precision}-r{RECIPE[precision]}.safetensors"
    if not _is_complete(path, plans):
        pack(checkpoint, plans, path, threads, progress)
    mapped, tensors = read_safetensors(path)
    planned = {name for p in plans for name, *_ in p.entries()}  # a pack made on another machine may hold more
    return Weights(checkpoint, {name: t for name, t in tensors.items() if name in planned}, (mapped,))


def plan(checkpoint: Checkpoint, precision: Precision) -> list[Plan]:
    """Every matrix to pack, in file order."""
    plans = []
    for name, tensor in checkpoint.tensors.items():
        if not is_matrix(name, tensor) or (name == "lm_head.weight" and checkpoint.config.tied):
            continue
        shape, transposed = tensor.shape, False
        if len(shape) == 3:
            transposed = experts_are_transposed(checkpoint, name)
            shape = (shape[0], shape[2], shape[1]) if transposed else shape
        spared = not _LAYER.match(name) or _SPARED.match(name)
        group = shape[-1] if spared else weight_group(shape[-1], precision)
        plans.append(Plan(replace(tensor, name=name), shape, 4 if group < shape[-1] else 8, group, transposed))
        if name == head_name(checkpoint):
            plans += _scans(tensor, name, precision)
    return plans


def _scans(head: Tensor, name: str, precision: Precision) -> Iterator[Plan]:
    """The plan of the copy that tells which tokens of an output head are worth a look in 8 bits."""
    rows, width = head.shape
    group = weight_group(width, precision)
    if rows >= SCANNED_ROWS and group < width:
        yield Plan(replace(head, name=scan_name(name)), head.shape, 4, group)


def is_matrix(name: str, tensor: Tensor) -> bool:
    """Whether a pack may hold this tensor: a matrix or experts, neither table of positions nor router."""
    if tensor.dtype not in FLOATS or not tensor.nbytes or len(tensor.shape) not in (2, 3):
        return False  # no weight of this family: `Checkpoint.tensor` refuses it by name if the model wants it
    if name.endswith((".experts.gate_up_proj", ".experts.down_proj")):
        return True
    if name in ("lm_head.weight", "model.language_model.embed_tokens.weight"):
        return True
    if len(tensor.shape) != 2 or not name.endswith(".weight"):
        return False
    return "pos_embed" not in name and not name.endswith(".mlp.gate.weight")


def pack(
    checkpoint: Checkpoint, plans: list[Plan], path: Path, threads: int = 1, progress: Progress | None = None
) -> None:
    """Write all of `plans` to `path`, which appears only when it is whole. Raises PackNotKept when it cannot.

    Pages of the files read from are given back on the way: a pack needs little memory of its own.
    """
    with new_pack(path, [entry for each in plans for entry in each.entries()]) as (body, views):
        jobs = [Job(each, views[each.tensor.name], views[each.tensor.name + ".scale"]) for each in plans]
        _fill(body, jobs, checkpoint, threads, progress)


def _fill(body: Array, jobs: list[Job], checkpoint: Checkpoint, threads: int, progress: Progress | None) -> None:
    total, done = sum(job.plan.tensor.nbytes for job in jobs), 0
    pool = ThreadPoolExecutor(threads)
    try:
        for batch, shares in _batches(jobs, checkpoint, threads):
            work = pool.map(lambda job, by_name=shares: _quantize(job, by_name.get(job.plan.tensor.name, ())), batch)
            for job, _ in zip(batch, work, strict=True):
                done += job.plan.tensor.nbytes
                release_pages((body, *checkpoint.maps))
                if progress:
                    progress("packing weights", done / total)
    finally:
        pool.shutdown(cancel_futures=True)  # whoever stops the load must not wait for all the rest


def _batches(jobs: list[Job], checkpoint: Checkpoint, threads: int) -> Iterator[tuple[list[Job], Shares]]:
    """What can be packed side by side: all that is only rounded, then each layer with how its errors are shared."""
    rounded, by_layer = [], defaultdict[int, list[Job]](list)
    for job in jobs:
        found = _LAYER.match(job.plan.tensor.name)
        if found is None or job.plan.bits == 8:
            rounded.append(job)
        else:
            by_layer[int(found[1])].append(job)
    yield rounded, {}
    if by_layer:
        for layer, inputs in enumerate(layer_inputs(checkpoint, threads)):
            yield by_layer[layer], _shares(inputs)


def _shares(inputs: Inputs) -> Shares:
    """Worked out once for all matrices that multiply the same."""
    distinct = {id(rows): rows for each in inputs.values() for rows in each}
    shares = {key: feedback(rows) for key, rows in distinct.items()}
    return {name: [shares[id(rows)] for rows in each] for name, each in inputs.items()}


def _quantize(job: Job, shares: Sequence[Feedback]) -> None:
    """Pack one tensor; `shares` are those of each of its matrices, or one for all of them, or none."""
    item = job.plan
    width = item.shape[-1]
    step = max(1, (_WIDE_PIECE if item.bits == 4 else _PIECE) // width)
    whole = item.tensor.data.reshape((-1, *item.tensor.shape[-2:]))
    for index, matrix in enumerate(whole):
        source = matrix.T if item.transposed else matrix
        lead = () if len(item.shape) == 2 else (index,)
        share = shares[index % len(shares)] if shares else None
        for start in range(0, source.shape[0], step):
            rows = slice(start, start + step)
            values = to_float32(np.ascontiguousarray(source[rows]), item.tensor.dtype)
            found = int8(values) if item.bits == 8 else int4(values, item.group, share)
            job.integers[(*lead, rows)], job.scales[(*lead, rows)] = found


def _is_complete(path: Path, plans: list[Plan]) -> bool:
    """Whether `path` is a pack of exactly these tensors; a damaged or foreign file is simply made anew."""
    try:
        _, tensors = read_safetensors(path)
    except CheckpointError:
        return False
    return all(name in tensors and tensors[name].shape == shape for p in plans for name, _, shape in p.entries())
