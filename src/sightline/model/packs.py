"""Files of packed weights in the cache, which appear only when they are whole. Knows names and sizes, not formats."""

from __future__ import annotations

import contextlib
import json
import math
import os
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sightline.errors import CheckpointError

Array = NDArray[Any]
Entry = tuple[str, str, Sequence[int]]  # a tensor's name, safetensors type and shape
Progress = Callable[[str, float], None]  # what is being done, share done in 0..1

_KINDS = {"F16": np.float16, "I8": np.int8, "U8": np.uint8}
_STALE_S = 3600  # a pack being written changes its file all the time


class PackNotKept(CheckpointError):
    """The cache cannot hold a pack: no space, or no right to write there."""

    def __init__(self, path: Path, size: int, error: OSError):
        super().__init__(
            f"{path}: cannot keep the packed weights ({size / 1e9:.1f} GB): {error.strerror}; "
            "free some space or point SIGHTLINE_CACHE_DIR elsewhere"
        )


@contextlib.contextmanager
def new_pack(path: Path, entries: Sequence[Entry]) -> Iterator[tuple[Array, Mapping[str, Array]]]:
    """The map of a new file and of each of its tensors, zeros to be filled; then it becomes `path`.

    Raises PackNotKept when the cache cannot hold it.
    """
    header, size = _header(entries)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        _sweep(path.parent)
        descriptor, name = tempfile.mkstemp(dir=path.parent, suffix=".part")
    except OSError as error:
        raise PackNotKept(path, size, error) from None
    part = Path(name)
    try:
        with os.fdopen(descriptor, "wb") as file:
            file.write(header)
            os.posix_fallocate(file.fileno(), 0, len(header) + size)  # a full disk is noticed here, not in a fault
        body = np.memmap(part, np.uint8, mode="r+", offset=len(header)) if size else np.zeros(0, np.uint8)
        yield body, dict(_views(body, entries))
        part.replace(path)
    except OSError as error:
        raise PackNotKept(path, size, error) from None
    finally:
        part.unlink(missing_ok=True)


def _sweep(folder: Path) -> None:
    """Remove what killed starts left half written."""
    for part in folder.glob("*.part"):
        with contextlib.suppress(OSError):  # another start may be just as tidy
            if time.time() - part.stat().st_mtime > _STALE_S:
                part.unlink()


def _header(entries: Sequence[Entry]) -> tuple[bytes, int]:
    """The safetensors header and the bytes that follow it."""
    described, end = {}, 0
    for (name, dtype, shape), (start, end) in zip(entries, _places(entries), strict=True):
        described[name] = {"dtype": dtype, "shape": [*shape], "data_offsets": [start, end]}
    text = json.dumps(described).encode()
    text += b" " * (-(len(text) + 8) % 64)
    return len(text).to_bytes(8, "little") + text, end + -end % 64


def _views(body: Array, entries: Sequence[Entry]) -> Iterator[tuple[str, Array]]:
    for (name, dtype, shape), (start, end) in zip(entries, _places(entries), strict=True):
        yield name, body[start:end].view(_KINDS[dtype]).reshape(shape)


def _places(entries: Sequence[Entry]) -> Iterator[tuple[int, int]]:
    """Where each tensor's bytes begin and end."""
    start = 0
    for _, dtype, shape in entries:
        end = start + math.prod(shape) * np.dtype(_KINDS[dtype]).itemsize
        yield start, end
        start = end + -end % 64  # a kernel reads rows faster when they start on a cache line
