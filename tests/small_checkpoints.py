"""Makes small checkpoint folders for tests: the golden ones copied, complete with a tokenizer, and changed at will."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Mapping
from importlib.resources import files
from pathlib import Path
from typing import Any

from sightline.model.checkpoint import read_safetensors

FIXTURES = Path(__file__).parent / "golden" / "fixtures"
DEMO = Path(str(files("sightline") / "demo_model"))
LAYER = "model.language_model.layers.0."
EMBEDDING = "model.language_model.embed_tokens.weight"

Stored = tuple[str, tuple[int, ...], bytes]  # safetensors type, shape, little-endian values


def copy(variant: str, folder: Path) -> Path:
    """The golden checkpoint `variant` in a new `folder`, with the demo model's tokenizer, which fits it."""
    shutil.copytree(FIXTURES / variant / "checkpoint", folder)
    for name in ("tokenizer.json", "tokenizer_config.json", "chat_template.json"):
        shutil.copy(DEMO / name, folder)
    return folder


def change_json(path: Path, change: Callable[[dict[str, Any]], object]) -> None:
    """Rewrite a JSON file after `change` has altered its object."""
    values = json.loads(path.read_text(encoding="utf-8"))
    change(values)
    path.write_text(json.dumps(values), encoding="utf-8")


def read_stored(path: Path) -> dict[str, Stored]:
    return {name: (t.dtype, t.shape, t.data.tobytes()) for name, t in read_safetensors(path)[1].items()}


def write_stored(path: Path, tensors: Mapping[str, Stored], padding: int = 0) -> None:
    """Write a safetensors file; `padding` spaces behind its header move every tensor by as many bytes."""
    header, at = {}, 0
    for name, (dtype, shape, raw) in tensors.items():
        header[name] = {"dtype": dtype, "shape": shape, "data_offsets": [at, at + len(raw)]}
        at += len(raw)
    write_raw(path, json.dumps(header).encode() + b" " * padding, b"".join(raw for _, _, raw in tensors.values()))


def write_raw(path: Path, header: bytes, body: bytes) -> None:
    """Write a safetensors file of any header at all, in a new file: an open map of the old one stays whole."""
    path.unlink(missing_ok=True)
    path.write_bytes(len(header).to_bytes(8, "little") + header + body)


def change_tensors(folder: Path, change: Callable[[dict[str, Stored]], object]) -> None:
    """Rewrite a single-file checkpoint's weights after `change` has altered them."""
    path = folder / "model.safetensors"
    tensors = read_stored(path)
    change(tensors)
    write_stored(path, tensors)
