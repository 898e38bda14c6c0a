"""Our own kernels (native/ in the repository) as operations of a graph. Knows how to load and call them, not when to.

They need the tile instructions of Intel's AMX, or AVX2 on a processor that has nothing above it, and a library built
for this very OpenVINO (`make kernels`); without either there are none, and the plugin's kernels do the work.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import openvino as ov
from numpy.typing import NDArray
from openvino.op import Constant
from openvino.utils.node_factory import NodeFactory

from sightline.model.pages import HugePages
from sightline.model.weights import Weight

Node = Any
Act = Literal["", "gelu_tanh", "silu_gate"]

LIBRARY = Path(__file__).with_name("own_kernels.so")
TILES = frozenset(
    {"avx512f", "avx512bw", "avx512dq", "avx512vl", "avx512_vnni", "avx512_bf16", "amx_tile", "amx_bf16", "amx_int8"}
)
AVX2 = frozenset({"avx2", "fma", "f16c"})
_ABOVE_AVX2 = frozenset({"avx512f", "avx_vnni"})  # with these the plugin multiplies faster than AVX2 can
_TILE = 16  # rows of a matrix and values of its rows come in multiples of this


@dataclass(frozen=True, slots=True)
class Norm:
    """What happens to rows before a matrix reads them: RMSNorm, or LayerNorm with a `shift`, over the last axis."""

    gain: Any
    eps: float
    shift: Any = None


class NoOwnKernels(Exception):
    """Why our own kernels do not run here: `reason`, and `way_out` where people can do something about it."""

    def __init__(self, reason: str, way_out: str = ""):
        super().__init__(reason)
        self.reason, self.way_out = reason, way_out


def open_own(
    core: ov.Core,
    parts: Literal[1, 3],
    flags: Collection[str],
    wanted: bool = True,
    library: Path = LIBRARY,
    room: int = 0,
) -> OwnKernels:
    """Our kernels for a processor with these `flags`, with `room` for weights in huge pages. Raises NoOwnKernels."""
    if not wanted:
        raise NoOwnKernels("turned off by SIGHTLINE_OWN_KERNELS")
    tiles = TILES.issubset(flags)
    if not tiles and (not AVX2.issubset(flags) or not _ABOVE_AVX2.isdisjoint(flags)):
        raise NoOwnKernels("they are for processors with tile instructions (AMX), or with AVX2 and nothing above it")
    if not library.exists():
        raise NoOwnKernels("not built", "in a clone, install a C++ compiler (apt install g++) and run make kernels")
    try:
        return OwnKernels(core, parts, library, room, tiles)
    except RuntimeError:  # built for another OpenVINO, or for a newer system, or this one refuses the use of tiles
        raise NoOwnKernels(
            f"{library.name} cannot be loaded here", "in a clone, delete it and run make kernels"
        ) from None


def why_not(flags: Collection[str], wanted: bool = True) -> NoOwnKernels | None:
    """Why our own kernels will not run on a processor with these `flags`, or None: they will."""
    try:
        open_own(ov.Core(), 1, flags, wanted)
    except NoOwnKernels as reason:
        return reason
    return None


class OwnKernels:
    """The library's operations. Raises RuntimeError when it cannot be loaded into this OpenVINO."""

    def __init__(
        self, core: ov.Core, parts: Literal[1, 3], library: Path = LIBRARY, room: int = 0, tiles: bool = False
    ):
        """`room`: most bytes of weights to hold in memory of our own, for the sake of speed.

        `tiles`: compute with AMX; without, or where the system refuses its use, AVX2 does.
        """
        self._pages = HugePages(room)
        core.add_extension(str(library))
        self._factory = NodeFactory()
        self._factory.add_extension(str(library))
        # parts: bf16 numbers that stand for one float32 in tiles: three keep all of its bits
        self._stop = np.zeros(1, np.uint8)  # while it is set, the operations leave without a result
        self._common = {"tiles": tiles, "parts": parts, "stop": self._stop.ctypes.data}
        self.units = "AMX" if tiles else "AVX2"

    @staticmethod
    def fit(weights: Sequence[Weight]) -> bool:
        """Whether the kernels can read matrices of these shapes and types as they lie."""
        return all(_fits(weight) for weight in weights)

    def move_weights(self) -> None:
        """Move the matrices handed over into huge pages, where they are read faster; steps may run meanwhile."""
        self._pages.move()

    @contextmanager
    def leaving(self) -> Iterator[None]:
        """Operations that compute now, or begin to, end at once; what they put out means nothing."""
        self._stop[0] = 1
        try:
            yield
        finally:
            self._stop[0] = 0

    def linear(
        self,
        x: Node,
        weights: Sequence[Weight],
        norm: Norm | None = None,
        act: Act = "",
        bias: Any = None,
        residual: Node | None = None,
    ) -> list[Node]:
        """act(norm(x) @ W.T + bias) + residual for each matrix; with `silu_gate` one product silu(first) * second."""
        inputs = [_output(x), *map(_floats, (norm and norm.gain, norm and norm.shift))]
        inputs += [_floats(None) if residual is None else _output(residual), _floats(bias)]
        kind = "" if norm is None else "rms" if norm.shift is None else "layer"
        attributes = {**self._common, "norm": kind, "act": act, "eps": norm.eps if norm else 0.0}
        return list(self._factory.create("Linear", inputs, attributes | self._matrices(weights)).outputs())

    def head(self, x: Node, scan: Weight, whole: Weight, norm: Norm, best: int) -> Node:
        """Logits of all tokens by `scan`, a copy of the head in few bits, and of the `best` ones by `whole`, in 8 bits.

        Of `whole` only the rows of such tokens are read, wherever they lie: it gets no huge pages.
        """
        first, second = self._matrices([scan]), _described([whole], lambda array: int(array.ctypes.data))
        flat = {key: first[key] + second[key] for key in first} | {"rows": whole.shape[0]}
        attributes = {**self._common, "eps": norm.eps, "best": best, **flat}
        return self._factory.create("Head", [_output(x), _floats(norm.gain)], attributes).output(0)

    def frame_attention(self, qkv: Node, cos: Node, sin: Node, heads: int) -> Node:
        """Attention of every patch of a frame to all of them: [F, 1, n, 3 * heads * d] -> [F, 1, n, heads * d]."""
        inputs = [_output(qkv), _output(cos), _output(sin)]
        return self._factory.create("FrameAttention", inputs, {**self._common, "heads": heads}).output(0)

    def experts(self, x: Node, ids: Node, shares: Node, pairs: Sequence[tuple[Weight, Weight]]) -> Node:
        """Sum over a token's experts of share * down(silu(gate(x)) * up(x)): x [T, hidden], ids and shares [T, k].

        `pairs` holds for each expert gate and up in one matrix [2 * inner, hidden], and down [hidden, inner].
        """
        flat = self._matrices([weight for pair in pairs for weight in pair])
        del flat["rows"]
        flat |= {"row_bytes": flat["row_bytes"][:2], "groups": flat["groups"][:2]}
        attributes = {**self._common, "inner": pairs[0][0].shape[0] // 2, **flat}
        return self._factory.create("Experts", [_output(x), _output(ids), _output(shares)], attributes).output(0)

    def _matrices(self, weights: Sequence[Weight]) -> dict[str, list[int]]:
        """What the operations are told of matrices that they read from end to end, best from huge pages."""
        return _described(weights, self._pages.add)


def _described(weights: Sequence[Weight], place: Callable[[NDArray[Any]], int]) -> dict[str, list[int]]:
    """Where the matrices lie. Whoever compiles the graph keeps the kernels and the weights as long as it runs."""
    scales = [np.zeros(0, np.float16) if weight.scale is None else weight.scale for weight in weights]
    beside = [scale if weight.rest is None else weight.rest for scale, weight in zip(scales, weights, strict=True)]
    return {
        "rows": [weight.shape[0] for weight in weights],
        "row_bytes": [weight.data.nbytes // weight.shape[0] for weight in weights],
        "data": [place(weight.data) for weight in weights],
        "groups": [scale.size // weight.shape[0] for scale, weight in zip(scales, weights, strict=True)],
        "scales": [place(array) for array in beside],
    }


def _fits(weight: Weight) -> bool:
    rows, width = weight.shape
    if weight.transposed or rows % _TILE or width % _TILE or weight.dtype not in ("BF16", ""):
        return False
    arrays = (weight.data, weight.scale, weight.rest)
    if not all(array is None or array.flags.c_contiguous for array in arrays):
        return False
    return weight.bits != 4 or weight.stored_shape[-1] % (2 * _TILE) == 0


def _output(node: Node) -> Node:
    return node.output(0) if hasattr(node, "output") else node


def _floats(values: Any) -> Node:
    array = np.zeros(0, np.float32) if values is None else np.ascontiguousarray(values, np.float32)
    return Constant(ov.Tensor(array.reshape(-1))).output(0)
