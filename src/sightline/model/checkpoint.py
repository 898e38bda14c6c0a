"""A checkpoint folder as named, memory-mapped tensors, checked before anything is computed. Knows no graphs."""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sightline.errors import CheckpointError
from sightline.model.config import ModelConfig
from sightline.model.pages import ask_for_pages, release_pages

# bf16 has no numpy type: it is kept as its bits. F8_E4M3 checkpoints are refused by name in `_Header.read`.
_DTYPES = {"BF16": np.uint16, "F16": np.float16, "F32": np.float32, "I8": np.int8, "U8": np.uint8, "I64": np.int64}
FLOATS = ("BF16", "F16", "F32")  # what weights may be stored as
_MAX_HEADER_BYTES = 100 << 20  # the format's own limit
_SAMPLE_BYTES = 4096

Array = NDArray[Any]


@dataclass(frozen=True, slots=True)
class Tensor:
    """One tensor in a mapped file. `data` is the map itself, bf16 as uint16 bits; nothing is read until it is used."""

    name: str
    dtype: str  # the file's word: BF16, F16, F32, ...
    shape: tuple[int, ...]
    data: Array
    file: Path

    @property
    def nbytes(self) -> int:
        return self.data.nbytes

    def samples(self) -> Iterator[NDArray[np.uint8]]:
        """The first, the middle and the last 4 KiB."""
        raw = self.data.reshape(-1).view(np.uint8)
        for start in (0, len(raw) // 2, max(0, len(raw) - _SAMPLE_BYTES)):
            yield raw[start : start + _SAMPLE_BYTES]

    def float32(self) -> NDArray[np.float32]:
        """The values as float32; exact for every stored type."""
        return to_float32(self.data, self.dtype)


def to_float32(data: Array, dtype: str) -> NDArray[np.float32]:
    """Stored values as float32. A bf16 number is the upper half of a float32's bits."""
    if dtype == "BF16":
        wide = data.astype(np.uint32)
        wide <<= 16
        return wide.view(np.float32)
    return data.astype(np.float32, copy=False)


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """An open checkpoint: its shape, its tensors by normalised name, and a digest that changes when they do."""

    folder: Path
    config: ModelConfig
    tensors: Mapping[str, Tensor]
    maps: tuple[Array, ...]  # the mapped files, for releasing their pages after load

    @classmethod
    def open(cls, folder: Path) -> Checkpoint:
        """Map every weight file of `folder`. Raises CheckpointError naming the file that is missing, cut or wrong."""
        if not folder.is_dir():
            raise CheckpointError(f"{folder}: no such folder; give a Qwen3-VL checkpoint folder in Hugging Face layout")
        config = ModelConfig.load(folder)
        tensors: dict[str, Tensor] = {}
        maps = []
        for path in _weight_files(folder):
            mapped, found = read_safetensors(path)
            maps.append(mapped)
            for tensor in found.values():
                tensors[_normal_name(tensor.name)] = tensor
        _check_index(folder, tensors)
        return cls(folder, config, tensors, tuple(maps))

    def tensor(self, name: str, *shapes: tuple[int, ...]) -> Tensor:
        """The tensor `name`, which must hold floats in one of `shapes`."""
        found = self.tensors.get(name)
        if found is None:
            raise CheckpointError(f"{self.folder}: tensor {name!r} is missing from the weight files")
        if found.shape not in shapes:
            wanted = " or ".join(str(list(shape)) for shape in shapes)
            raise CheckpointError(
                f"{found.file}: tensor {name!r} has shape {list(found.shape)}, config.json asks for {wanted}"
            )
        if found.dtype not in FLOATS:
            raise CheckpointError(
                f"{found.file}: tensor {name!r} is {found.dtype}; stored weights must be BF16, F16 or F32"
            )
        return found

    def digest(self) -> str:
        """32 hex digits that name these weights: every header, file size and time, and samples of every tensor.

        Reading 4 GB to hash it all would cost seconds at each start; the samples, with the file's size and
        modification time, notice what really happens to checkpoint files.
        """
        state = hashlib.blake2b(digest_size=16)
        state.update((self.folder / "config.json").read_bytes())
        for path in sorted({t.file for t in self.tensors.values()}):
            info = path.stat()
            state.update(f"{path.name} {info.st_size} {info.st_mtime_ns}".encode())
        named = sorted(self.tensors.items())
        ask_for_pages(sample for _, tensor in named for sample in tensor.samples())
        for name, tensor in named:
            state.update(f"{name} {tensor.dtype} {tensor.shape}".encode())
            for sample in tensor.samples():
                state.update(sample.tobytes())
        return state.hexdigest()

    def release(self) -> None:
        """Give the mapped pages back to the system; they are read again from the file if anyone asks."""
        release_pages(self.maps)


def read_safetensors(path: Path) -> tuple[Array, dict[str, Tensor]]:
    """Map one safetensors file: (the map, tensors by the file's names).

    Offsets and sizes are checked against the file before any of them is trusted.
    """
    try:
        size = path.stat().st_size
        # mode "c": a private map; OpenVINO's shared tensors refuse a read-only one
        mapped = np.memmap(path, np.uint8, mode="c") if size else np.zeros(0, np.uint8)
    except OSError as error:
        raise CheckpointError(f"{path}: cannot be opened ({error.strerror})") from None
    header = _header(path, mapped)
    start = 8 + int.from_bytes(mapped[:8].tobytes(), "little")
    tensors = {
        name: _tensor(path, mapped[start:], name, entry) for name, entry in header.items() if name != "__metadata__"
    }
    return mapped, tensors


def _header(path: Path, mapped: Array) -> dict[str, Any]:
    if len(mapped) < 8:
        raise CheckpointError(f"{path}: {len(mapped)} bytes is too short for a safetensors file; download it again")
    length = int.from_bytes(mapped[:8].tobytes(), "little")
    if length > min(_MAX_HEADER_BYTES, len(mapped) - 8):
        raise CheckpointError(
            f"{path}: its header claims {length} bytes, the file has {len(mapped)}; it is truncated or not safetensors"
        )
    try:
        header = json.loads(mapped[8 : 8 + length].tobytes())
    except (UnicodeDecodeError, json.JSONDecodeError, RecursionError):
        raise CheckpointError(f"{path}: its header is not JSON; the file is damaged or not safetensors") from None
    if not isinstance(header, dict):
        raise CheckpointError(f"{path}: its header is not a JSON object; the file is damaged")
    return header


def _tensor(path: Path, body: Array, name: str, entry: Any) -> Tensor:
    try:
        dtype, shape = str(entry["dtype"]), tuple(int(n) for n in entry["shape"])
        start, end = (int(n) for n in entry["data_offsets"])
    except (KeyError, TypeError, ValueError, OverflowError):
        raise CheckpointError(f"{path}: the header entry of {name!r} is malformed; the file is damaged") from None
    if dtype.startswith("F8"):
        raise CheckpointError(
            f"{path}: tensor {name!r} is {dtype}; FP8 checkpoints are not served here, use the BF16 one"
        )
    if dtype not in _DTYPES:
        raise CheckpointError(f"{path}: tensor {name!r} has type {dtype}; known are {', '.join(_DTYPES)}")
    need = math.prod(shape) * np.dtype(_DTYPES[dtype]).itemsize
    if min(shape, default=0) < 0 or end - start != need:
        raise CheckpointError(f"{path}: tensor {name!r} of shape {list(shape)} needs {need} bytes, has {end - start}")
    if start < 0 or end > len(body):
        raise CheckpointError(
            f"{path}: tensor {name!r} ends at byte {end} of {len(body)}; the file is truncated, download it again"
        )
    raw = body[start:end]
    if raw.ctypes.data % np.dtype(_DTYPES[dtype]).itemsize:
        raw = raw.copy()  # an oddly aligned file; the format allows it, numpy views do not
    return Tensor(name, dtype, shape, raw.view(_DTYPES[dtype]).reshape(shape), path)


def _weight_files(folder: Path) -> list[Path]:
    index = folder / "model.safetensors.index.json"
    if index.exists():
        return [folder / name for name in sorted(set(_weight_map(index).values()))]
    single = folder / "model.safetensors"
    if single.exists():
        return [single]
    raise CheckpointError(f"{folder}: neither model.safetensors nor model.safetensors.index.json is there")


def _weight_map(index: Path) -> dict[str, str]:
    try:
        names = json.loads(index.read_text(encoding="utf-8"))["weight_map"]
    except (OSError, ValueError, KeyError, TypeError, RecursionError) as error:
        raise CheckpointError(f"{index}: cannot be read as a shard index ({type(error).__name__})") from None
    if not isinstance(names, dict) or not names:
        raise CheckpointError(f"{index}: its weight_map is empty")
    for file in names.values():
        if not isinstance(file, str) or Path(file).name != file:
            raise CheckpointError(f"{index}: names the weight file {file!r}; only plain file names are allowed")
        if not (index.parent / file).exists():
            raise CheckpointError(f"{index.parent / file}: file is missing; {index.name} lists it, download it again")
    return names


def _check_index(folder: Path, tensors: Mapping[str, Tensor]) -> None:
    index = folder / "model.safetensors.index.json"
    if not index.exists():
        return
    for name, file in _weight_map(index).items():
        if _normal_name(name) not in tensors:
            raise CheckpointError(f"{folder / file}: tensor {name!r} is not in it, though {index.name} says so")


def _normal_name(name: str) -> str:
    """Official names, whatever a fine-tuning tool did to the `model.` prefix."""
    if name.startswith(("language_model.", "visual.")):
        return "model." + name
    return name.replace("model.model.", "model.", 1) if name.startswith("model.model.") else name
