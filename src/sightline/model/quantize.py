"""Packs a checkpoint's matrices into 8 or 4 bits, once, into a file that later starts map. Knows no graphs.

int8: one scale per output row. int4: language model layers in groups along the input, everything else int8.
Norms, biases, position tables, routers and the patch embedding are never quantised.
"""

from __future__ import annotations

import contextlib
import json
import math
import os
import tempfile
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sightline.errors import CheckpointError
from sightline.model.checkpoint import FLOATS, Checkpoint, Tensor, read_safetensors, release_pages, to_float32
from sightline.model.kernels import weight_group
from sightline.model.weights import Weights, experts_are_transposed
from sightline.types import Precision

Array = NDArray[Any]
F32 = NDArray[np.float32]
Progress = Callable[[str, float], None]  # what is being done, share done in 0..1

RECIPE = 1  # raise when packed numbers change: old packs are then made anew
_VISION = "model.visual."
_STALE_S = 3600  # a pack being written changes its file all the time
_PIECE = 1 << 18  # values quantised at a time: fits a core's cache
_TINY = np.float32(2.0**-14)  # smallest normal float16


@dataclass(frozen=True, slots=True)
class Plan:
    """How one tensor is packed. `shape` is [.., out, in] after `transposed` tensors were turned."""

    tensor: Tensor
    shape: tuple[int, ...]
    bits: int
    group: int
    transposed: bool = False

    def entries(self) -> Iterator[tuple[str, str, tuple[int, ...]]]:
        """(name, safetensors type, shape) of what is written: the integers, then their scales."""
        *lead, out, width = self.shape
        if self.bits == 8:
            yield self.tensor.name, "I8", self.shape
            yield self.tensor.name + ".scale", "F16", (*lead, out, 1)
        else:
            groups = width // self.group
            yield self.tensor.name, "U8", (*lead, out, groups, self.group // 2)
            yield self.tensor.name + ".scale", "F16", (*lead, out, groups, 1)


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
    path = cache / "packed" / f"{checkpoint.digest()}-{precision}-r{RECIPE}.safetensors"
    if not _is_complete(path, plans):
        pack(plans, path, threads, progress, checkpoint.maps)
    mapped, tensors = read_safetensors(path)
    planned = {name for p in plans for name, *_ in p.entries()}  # a pack made on another machine may hold more
    return Weights(checkpoint, {name: t for name, t in tensors.items() if name in planned}, (mapped,))


def plan(checkpoint: Checkpoint, precision: Precision) -> list[Plan]:
    """Every matrix to pack, in file order."""
    plans = []
    for name, tensor in checkpoint.tensors.items():
        if not _is_packed(name, tensor) or (name == "lm_head.weight" and checkpoint.config.tied):
            continue
        shape, transposed = tensor.shape, False
        if len(shape) == 3:
            transposed = experts_are_transposed(checkpoint, name)
            shape = (shape[0], shape[2], shape[1]) if transposed else shape
        in_layers = name.startswith("model.language_model.layers.")
        group = weight_group(shape[-1], precision) if in_layers else shape[-1]
        renamed = Tensor(name, tensor.dtype, tensor.shape, tensor.data, tensor.file)
        plans.append(Plan(renamed, shape, 4 if group < shape[-1] else 8, group, transposed))
    return plans


def _is_packed(name: str, tensor: Tensor) -> bool:
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
    plans: list[Plan], path: Path, threads: int = 1, progress: Progress | None = None, maps: tuple[Array, ...] = ()
) -> None:
    """Write all of `plans` to `path`, which appears only when it is whole. Raises CheckpointError when it cannot.

    Pages of `maps`, the files read from, are given back on the way: a pack needs little memory of its own.
    """
    header, size = _header(plans)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        _sweep(path.parent)
        descriptor, name = tempfile.mkstemp(dir=path.parent, suffix=".part")
    except OSError as error:
        raise _cannot_write(path, size, error) from None
    part = Path(name)
    try:
        with os.fdopen(descriptor, "wb") as file:
            file.write(header)
            os.posix_fallocate(file.fileno(), 0, len(header) + size)  # a full disk is noticed here, not in a fault
        _fill(np.memmap(part, np.uint8, mode="r+", offset=len(header)), plans, threads, progress, maps)
        part.replace(path)
    except OSError as error:
        raise _cannot_write(path, size, error) from None
    finally:
        part.unlink(missing_ok=True)


def _sweep(folder: Path) -> None:
    """Remove what killed starts left half written."""
    for part in folder.glob("*.part"):
        with contextlib.suppress(OSError):  # another start may be just as tidy
            if time.time() - part.stat().st_mtime > _STALE_S:
                part.unlink()


def _cannot_write(path: Path, size: int, error: OSError) -> CheckpointError:
    return CheckpointError(
        f"{path}: cannot keep the quantised weights ({size / 1e9:.1f} GB): {error.strerror}; "
        "free some space or point SIGHTLINE_CACHE_DIR elsewhere"
    )


def _header(plans: list[Plan]) -> tuple[bytes, int]:
    """The safetensors header and the bytes that follow it."""
    entries: dict[str, Any] = {"__metadata__": {"recipe": str(RECIPE)}}
    at = 0
    for item in plans:
        for name, dtype, shape in item.entries():
            end = at + math.prod(shape) * (2 if dtype == "F16" else 1)
            entries[name] = {"dtype": dtype, "shape": shape, "data_offsets": [at, end]}
            at = end + -end % 64  # a kernel reads rows faster when they start on a cache line
    text = json.dumps(entries).encode()
    text += b" " * (-(len(text) + 8) % 64)
    return len(text).to_bytes(8, "little") + text, at


def _fill(body: Array, plans: list[Plan], threads: int, progress: Progress | None, maps: tuple[Array, ...]) -> None:
    jobs, at = [], 0
    for item in plans:
        views = []
        for _, dtype, shape in item.entries():
            kind = {"F16": np.float16, "I8": np.int8, "U8": np.uint8}[dtype]
            end = at + math.prod(shape) * np.dtype(kind).itemsize
            views.append(body[at:end].view(kind).reshape(shape))
            at = end + -end % 64
        jobs.append((item, views[0], views[1]))
    total, done = sum(j[0].tensor.nbytes for j in jobs), 0
    pool = ThreadPoolExecutor(threads)
    try:
        for (item, *_), _ in zip(jobs, pool.map(lambda job: _quantize(*job), jobs), strict=True):
            done += item.tensor.nbytes
            release_pages((body, *maps))
            if progress:
                progress("packing weights", done / total)
    finally:
        pool.shutdown(cancel_futures=True)  # whoever stops the load must not wait for all the rest


def _quantize(item: Plan, integers: Array, scales: Array) -> None:
    width = item.shape[-1]
    step = max(1, _PIECE // width)
    whole = item.tensor.data.reshape((-1, *item.tensor.shape[-2:]))
    for index, matrix in enumerate(whole):
        source = matrix.T if item.transposed else matrix
        lead = () if len(item.shape) == 2 else (index,)
        for start in range(0, source.shape[0], step):
            rows = slice(start, start + step)
            values = to_float32(np.ascontiguousarray(source[rows]), item.tensor.dtype)
            target = (*lead, rows)
            integers[target], scales[target] = int8(values) if item.bits == 8 else int4(values, item.group)


def int8(values: F32) -> tuple[NDArray[np.int8], NDArray[np.float16]]:
    """Symmetric rounding per row: integers [out, in] in -127..127 and scales [out, 1]."""
    scale = np.maximum(np.abs(values).max(-1, keepdims=True) / np.float32(127), _TINY).astype(np.float16)
    levels = np.rint(values / scale.astype(np.float32))
    return np.clip(levels, -127, 127, out=levels).astype(np.int8), scale


def int4(values: F32, group: int) -> tuple[NDArray[np.uint8], NDArray[np.float16]]:
    """Symmetric rounding in groups: packed pairs [out, groups, group/2] of levels -8..7 and scales [out, groups, 1].

    The value of largest size in a group is put on level -8, the one level that has no opposite.
    """
    grouped = values.reshape(len(values), -1, group)
    top = np.take_along_axis(grouped, np.abs(grouped).argmax(-1, keepdims=True), -1)
    scale = top / np.float32(-8)
    scale = np.where(np.abs(scale) < _TINY, _TINY, scale).astype(np.float16)
    levels = np.rint(grouped / scale.astype(np.float32))
    halves = np.clip(levels, -8, 7, out=levels).astype(np.int8).view(np.uint8) & np.uint8(15)
    packed: NDArray[np.uint8] = halves[..., 0::2] | (halves[..., 1::2] << np.uint8(4))
    return packed, scale


def _is_complete(path: Path, plans: list[Plan]) -> bool:
    """Whether `path` is a pack of exactly these tensors; a damaged or foreign file is simply made anew."""
    try:
        _, tensors = read_safetensors(path)
    except CheckpointError:
        return False
    return all(name in tensors and tensors[name].shape == shape for p in plans for name, _, shape in p.entries())
