"""Makes small checkpoint folders for tests: the golden ones copied, complete with a tokenizer, and changed at will."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Mapping
from importlib.resources import files
from pathlib import Path
from typing import Any

import numpy as np

from sightline.model.checkpoint import read_safetensors

FIXTURES = Path(__file__).parent / "golden" / "fixtures"
DEMO = Path(str(files("sightline") / "demo_model"))
LAYER = "model.language_model.layers.0."
EMBEDDING = "model.language_model.embed_tokens.weight"

Stored = tuple[str, tuple[int, ...], bytes]  # safetensors type, shape, little-endian values


def copy(variant: str, folder: Path) -> Path:
    """The golden checkpoint `variant` in a new `folder`, with the tokenizer that fits it."""
    shutil.copytree(FIXTURES / variant / "checkpoint", folder)
    for name in ("tokenizer.json", "tokenizer_config.json", "chat_template.json"):
        shutil.copy(FIXTURES / "tokenizer" / name, folder)
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


def wide_experts(folder: Path, layout: str, width: int = 160) -> Path:
    """A mixture of experts wide enough for int4 groups (rows of 96 to 160 values) and for compressed kernels.

    `layout` names the golden checkpoint it is made from: its hidden 32 becomes 96, its expert width 12 becomes `width`,
    its values random.
    """
    copy(layout, folder)
    text = {"hidden_size": 96, "moe_intermediate_size": width, "intermediate_size": 192}
    change_json(folder / "config.json", lambda config: config["text_config"].update(text))
    change_json(folder / "config.json", lambda config: config["vision_config"].update(out_hidden_size=96))
    wider, rng = {32: 96, 12: width, 24: 2 * width}, np.random.default_rng(0)

    def widen(tensors: dict[str, Stored]) -> None:
        for name, (_, shape, _) in list(tensors.items()):
            if "merger" in name:
                shape = (96, *shape[1:]) if "linear_fc2" in name else shape
            elif ".visual." not in name and not name.endswith(("q_norm.weight", "k_norm.weight")):
                shape = tuple(wider.get(n, n) for n in shape)
            values = rng.standard_normal(shape) / np.sqrt(96)
            tensors[name] = "F32", shape, (values + (len(shape) == 1)).astype(np.float32).tobytes()

    change_tensors(folder, widen)
    return folder
