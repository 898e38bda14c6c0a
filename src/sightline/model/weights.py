"""Where a graph's weights come from: the checkpoint as stored, or its pack. Knows names, not graphs."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sightline.model.checkpoint import Checkpoint, Tensor, to_float32
from sightline.model.pages import release_pages

Array = NDArray[Any]

EMBEDDING = "model.language_model.embed_tokens.weight"


@dataclass(frozen=True, slots=True)
class Weight:
    """One matrix [out, in] as a kernel takes it.

    Floats: `data` as stored, `dtype` BF16/F16/F32; `transposed` when it lies in the file as [in, out].
    The same in fewer bytes: `bits` 12 with `data` and `rest` as `lossless.py` writes them; only our own kernels read
    that, others take `stored`.
    Integers: `bits` 8 with `scale` f16 [out, 1], or `bits` 4 in groups with `scale` f16 [out, groups, 1] and two
    values a byte, the first in the low half.
    """

    data: Array
    shape: tuple[int, int]
    dtype: str = ""
    transposed: bool = False
    bits: int = 0
    scale: Array | None = None
    rest: Array | None = None
    stored: Weight | None = None

    @property
    def stored_shape(self) -> tuple[int, ...]:
        out, width = self.shape
        if self.scale is not None and self.scale.ndim == 3:
            groups = self.scale.shape[1]
            return (out, groups, width // groups)
        return (width, out) if self.transposed else (out, width)

    def split(self, parts: int) -> tuple[Weight, ...]:
        """Equal parts of its rows, in order, each a view; not for transposed ones or those in 12 bits."""
        out, width = self.shape
        size = out // parts
        data = self.data.reshape(out, -1)
        pieces = []
        for start in range(0, out, size):
            rows = slice(start, start + size)
            scale = None if self.scale is None else self.scale[rows]
            pieces.append(replace(self, data=data[rows], shape=(size, width), scale=scale))
        return tuple(pieces)


class Weights:
    """A checkpoint's matrices by official name, as a pack has them or as stored, and its small tensors as float32."""

    def __init__(self, checkpoint: Checkpoint, pack: Mapping[str, Tensor] | None = None, maps: tuple[Array, ...] = ()):
        self.checkpoint = checkpoint
        self._pack = pack or {}
        self._maps = maps

    def matrix(self, name: str, out: int, width: int, stored: tuple[int, ...] | None = None) -> Weight:
        """The matrix `name` of shape [out, width]; `stored` is its shape in the file when that has more axes."""
        tensor = self.checkpoint.tensor(name, stored or (out, width))
        return self._packed(Weight(tensor.data, (out, width), tensor.dtype), name)

    def scan(self, name: str, out: int, width: int) -> Weight | None:
        """The copy in 4 bits that the pack has of the matrix `name`, if it has one."""
        if not self.is_scanned(name):
            return None
        copy = scan_name(name)
        return Weight(self._pack[copy].data, (out, width), bits=4, scale=self._pack[f"{copy}.scale"].data)

    def expert(self, name: str, index: int, out: int, width: int) -> Weight:
        """One expert's matrix [out, width] from the stacked tensor `name`, in either layout of the family."""
        experts = self.checkpoint.config.text.experts
        tensor = self.checkpoint.tensor(name, (experts, out, width), (experts, width, out))
        transposed = experts_are_transposed(self.checkpoint, name)
        return self._packed(Weight(tensor.data[index], (out, width), tensor.dtype, transposed), name, index)

    def values(self, name: str, *shape: int) -> NDArray[np.float32]:
        """A small tensor (norm, bias, table, router) as float32."""
        return self.checkpoint.tensor(name, shape).float32()

    def rows(self, name: str, ids: NDArray[np.int32], width: int) -> NDArray[np.float32]:
        """Rows of an embedding table as float32 [len(ids), width]."""
        tensor = self.checkpoint.tensor(name, (self.checkpoint.config.text.vocab, width))
        if f"{name}.scale" in self._pack:
            scale = self._pack[f"{name}.scale"].data[ids].astype(np.float32)
            return self._pack[name].data[ids].astype(np.float32) * scale
        return to_float32(np.asarray(tensor.data[ids]), tensor.dtype)

    def release(self, name: str | None = None) -> None:
        """Give mapped pages back, all or those of the table `name`: for kernels that have copies of their own."""
        if name is None:
            self.checkpoint.release()
            release_pages(self._maps)
        else:
            table = self._pack[name] if f"{name}.scale" in self._pack else self.checkpoint.tensors[name]
            release_pages([table.data])

    def is_lossless(self, name: str) -> bool:
        """Whether the matrix `name` comes in 12 bits; its `rows` are still read as they are stored."""
        return f"{name}.rest" in self._pack

    def is_scanned(self, name: str) -> bool:
        """Whether the pack has a copy in 4 bits of the output head `name`."""
        return scan_name(name) in self._pack

    def _packed(self, stored: Weight, name: str, index: int | None = None) -> Weight:
        """What the pack has in place of a stored matrix, or of one of the experts of `name`."""
        if name not in self._pack:
            return stored
        lossless = self.is_lossless(name)
        data, other = self._pack[name].data, self._pack[f"{name}.rest" if lossless else f"{name}.scale"].data
        if index is not None:
            data, other = data[index], other[index]
        if lossless:
            return Weight(data, stored.shape, stored.dtype, bits=12, rest=other, stored=stored)
        return Weight(data, stored.shape, bits=8 if data.dtype == np.int8 else 4, scale=other)


def head_name(checkpoint: Checkpoint) -> str:
    """The output head: the embedding table when tied, or when an untied checkpoint ships none (some 8B exports)."""
    untied = not checkpoint.config.tied and "lm_head.weight" in checkpoint.tensors
    return "lm_head.weight" if untied else EMBEDDING


def scan_name(name: str) -> str:
    """What a pack calls the copy in 4 bits of the output head `name`."""
    return f"{name}.scan"


def experts_are_transposed(checkpoint: Checkpoint, name: str) -> bool:
    """Whether a layer's experts lie as [in, out], as releases before 5.x wrote them; `name` is either of its tensors.

    The two tensors are looked at together: one of them alone can be square and tell nothing, never both.
    """
    text, layer = checkpoint.config.text, name.rpartition(".")[0]
    wide = 2 * text.expert_intermediate
    legacy = {"gate_up_proj": (text.hidden, wide), "down_proj": (text.expert_intermediate, text.hidden)}
    for kind, shape in legacy.items():
        tensor = checkpoint.tensors.get(f"{layer}.{kind}")
        if tensor is not None and shape[0] != shape[1]:
            return tensor.shape[1:] == shape
    return False
