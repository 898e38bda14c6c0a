"""Which arithmetic each precision uses on this CPU, and proof that the plugin really does. Knows no requests."""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from typing import Any

import numpy as np
import openvino as ov

from sightline.model import graph as g
from sightline.model.config import ModelConfig, TextConfig, VisionConfig
from sightline.model.machine import read_machine
from sightline.model.own import NoOwnKernels, OwnKernels, open_own
from sightline.model.weights import Weight
from sightline.types import Precision

Nodes = Sequence[tuple[str, str]]  # (kernel type, precision it runs in), see `_runtime_nodes`

_POLL_MS = 10
_PACKED: Mapping[Precision, set[str]] = {"int8": {"i8"}, "int4": {"i8", "i4"}}  # types of packed weights


class Cancelled(Exception):
    """The caller of a running inference no longer wants its result."""


@dataclass(frozen=True, slots=True)
class Kernels:
    """Compile-time choices: plugin properties per tower, whether attention computes in bf16, whether the vision
    tower's matrices stay as stored though the language model's are packed, and our own kernels or why there are none.
    """

    precision: Precision
    threads: int
    language: Mapping[str, str]
    vision: Mapping[str, str]
    bf16_attention: bool
    stored_vision: bool
    core: ov.Core
    own: OwnKernels | None = None
    without_own: str = ""

    def __str__(self) -> str:
        theirs = f"the plugin's kernels (our own: {self.without_own})"
        whose = f"our own kernels ({self.own.units})" if self.own else theirs
        return f"{self.precision}, {self.threads} threads, {whose}"

    def compile(self, model: ov.Model, properties: Mapping[str, str]) -> ov.CompiledModel:
        return self.core.compile_model(model, "CPU", {"INFERENCE_NUM_THREADS": self.threads, **properties})

    def run(self, request: Any, cancelled: Callable[[], bool] | None = None) -> None:
        """Infer with the interpreter lock released. Raises Cancelled soon after `cancelled` turned true: operations of
        the plugin come to their end first, ours leave theirs."""
        request.start_async()
        if cancelled is None:
            request.wait()
            return
        while not request.wait_for(_POLL_MS):
            if cancelled():
                with self.own.leaving() if self.own else nullcontext():
                    request.cancel()
                    try:
                        request.wait()
                    except RuntimeError:
                        raise Cancelled from None
                if self.own:  # it came to its end, but not in earnest
                    raise Cancelled
                return


def choose(precision: Precision, threads: int, config: ModelConfig, own: bool = True) -> Kernels:
    """The fastest arithmetic this CPU has for `precision`; without our `own` kernels when told so.

    exact: float32 throughout. int8, int4: a float32 stream with integer matrices and, where the CPU has it, bf16
    attention; the vision tower wholly in bf16. Measured on AVX512-VNNI and on AMX machines: a float32 stream decodes
    1.4 times faster than a bf16 one, and a bf16 vision tower encodes 1.5 times faster than a float32 one. In int8 its
    matrices stay as stored where the CPU computes in bf16: a tenth faster again, for 0.4 GB on 2B.
    """
    core = ov.Core()
    ours, why_not = _own_kernels(core, precision, own)
    has_bf16 = "BF16" in core.get_property("CPU", "OPTIMIZATION_CAPABILITIES")
    latency = {"PERFORMANCE_HINT": "LATENCY", "NUM_STREAMS": "1"}
    exact = {**latency, "INFERENCE_PRECISION_HINT": "f32", "DYNAMIC_QUANTIZATION_GROUP_SIZE": "0"}
    if precision == "exact":
        language = {**exact, "KV_CACHE_PRECISION": "f32"}
        return Kernels(precision, threads, language, exact, False, False, core, ours, why_not)
    t, v = config.text, config.vision
    groups = [weight_group(width, precision) for width in _language_widths(t)]
    language = {
        **exact,
        "DYNAMIC_QUANTIZATION_GROUP_SIZE": str(activation_group(groups, most=128)),
        **_kept_as(precision, has_bf16),
    }
    if ours is not None:  # they read packed vision weights as fast as stored ones, and pass float32 to each other
        return Kernels(precision, threads, language, exact, has_bf16, False, core, ours)
    widths = [v.hidden, v.intermediate, v.hidden * v.merge**2]
    vision = {
        **latency,
        "INFERENCE_PRECISION_HINT": "bf16" if has_bf16 else "f32",
        # Rows quantised whole take any group. The 8B tower's widths share only 16: twice as slow as 128 (measured).
        "DYNAMIC_QUANTIZATION_GROUP_SIZE": str(max(128, activation_group(widths, most=1024))),
    }
    stored_vision = precision == "int8" and has_bf16
    return Kernels(precision, threads, language, vision, has_bf16, stored_vision, core, None, why_not)


def _own_kernels(core: ov.Core, precision: Precision, wanted: bool) -> tuple[OwnKernels | None, str]:
    """Our own kernels, or why there are none."""
    machine = read_machine()
    room = machine.memory_available * 3 // 5
    try:
        return open_own(core, 3 if precision == "exact" else 1, machine.flags, wanted, room=room), ""
    except NoOwnKernels as why_not:
        return None, why_not.reason


def _kept_as(precision: Precision, has_bf16: bool) -> dict[str, str]:
    """Properties that say how keys and values are kept.

    In int4 as bytes with a scale for each token and head: 0.2 GB less at 4,000 tokens of 2B, nothing lost in speed (2B,
    784 to 4,080 tokens) or agreement (demo model). By channel, a token would change those before it when it is written.
    """
    if precision == "int4":
        return {"KV_CACHE_PRECISION": "u8", "KEY_CACHE_QUANT_MODE": "BY_TOKEN"}
    return {"KV_CACHE_PRECISION": "bf16" if has_bf16 else "f16"}


def _language_widths(text: TextConfig) -> list[int]:
    """The different numbers of inputs that the language model's matrices have."""
    inner = {text.expert_intermediate} if text.experts else {text.intermediate}
    if text.experts and not all(map(text.is_moe_layer, range(text.layers))):
        inner.add(text.intermediate)
    return sorted({text.hidden, text.heads * text.head_dim} | inner)


def weight_group(width: int, precision: Precision) -> int:
    """Inputs of a language matrix that share one scale: for int4 the largest of 128, 64, 32 that divides its width,
    else (and where none does) the whole row."""
    if precision != "int4":
        return width
    return next((group for group in (128, 64, 32) if width % group == 0), width)


def activation_group(groups: Sequence[int], most: int) -> int:
    """Activations that share one scale: the largest power of two, at most `most`, that divides every weight group.

    A larger one, or one that does not divide, turns dynamic quantisation off without a word (several times slower).
    """
    common = math.gcd(*groups)
    return min(most, common & -common)


def slow_paths(
    kernels: Kernels, config: ModelConfig, language: ov.CompiledModel, vision: ov.CompiledModel
) -> Iterator[str]:
    """The canary: names what did not become the kernels that this precision stands on."""
    nodes, seen = list(_runtime_nodes(language)), list(_runtime_nodes(vision))
    if kernels.own is None:
        return _slow_in_plugin(kernels, config, nodes, seen)
    return _slow_beside_ours(config.text, nodes, seen)


def _slow_in_plugin(kernels: Kernels, config: ModelConfig, nodes: Nodes, seen: Nodes) -> Iterator[str]:
    text = config.text
    yield from _unfused(text, nodes, norms=4 * text.layers + 1)
    if kernels.precision == "exact":
        return
    packed = _PACKED[kernels.precision]
    yield from _unexpected("language model", nodes, packed, _language_matrices(text))
    if kernels.stored_vision:
        yield from _unexpected("vision tower", seen, {"bf16"}, _vision_matrices(config.vision) + 1)
    else:
        yield from _unexpected("vision tower", seen, packed, _vision_matrices(config.vision))
    yield from _unquantized(kernels, _language_widths(text))


def _slow_beside_ours(text: TextConfig, nodes: Nodes, seen: Nodes) -> Iterator[str]:
    """The plugin's share then: norms of queries and keys, and of mixtures the norm before and the router."""
    mixed = sum(map(text.is_moe_layer, range(text.layers)))
    left = _matrices(nodes) - mixed
    for tower, count in (("language model", left), ("vision tower", _matrices(seen))):
        if count:
            yield f"{tower}: {count} matrices have shapes or types that our own kernels do not read"
    if not left:  # else their norms are the plugin's too, and nobody can say how many there should be
        yield from _unfused(text, nodes, norms=2 * text.layers + mixed)


def _unfused(text: TextConfig, nodes: Nodes, norms: int) -> Iterator[str]:
    for kind, count in {"PagedAttention": text.layers, "RoPE": 2 * text.layers, "RMS": norms}.items():
        found = sum(1 for layer, _ in nodes if layer == kind)
        if found != count:
            yield f"language model: {found} {kind} kernels, expected {count}"


def _unquantized(kernels: Kernels, widths: Sequence[int]) -> Iterator[str]:
    plain = [width for width in widths if not _quantizes_activations(kernels, width)]
    if plain:
        yield (
            f"language model: activations of {', '.join(map(str, plain))} values are not quantised to int8 "
            "(no VNNI on this CPU, or the group does not fit)"
        )


def _matrices(nodes: Nodes) -> int:
    return sum(1 for layer, _ in nodes if layer == "FullyConnected")


def _language_matrices(text: TextConfig) -> int:
    """Matrices in the pack that a language model multiplies by: its routers are not among them."""
    mixed = sum(map(text.is_moe_layer, range(text.layers)))
    return 4 * text.layers + 2 * text.experts * mixed + 3 * (text.layers - mixed) + 1


def _vision_matrices(vision: VisionConfig) -> int:
    """Matrices that a vision tower multiplies by, but for the patch embedding, which is never packed."""
    return 6 * vision.depth + 2 * (1 + len(vision.deepstack))


def _unexpected(tower: str, nodes: Nodes, weights: Collection[str], count: int) -> Iterator[str]:
    """A complaint when not all `count` matrices of a tower have weights of the expected types."""
    found = sum(1 for layer, kind in nodes if layer == "FullyConnected" and kind in weights)
    if found != count:
        yield f"{tower}: {found} of {count} matrices run with {' or '.join(sorted(weights))} weights"


def _runtime_nodes(compiled: ov.CompiledModel) -> Iterator[tuple[str, str]]:
    """(kernel type, precision it runs in) of every node after all of the plugin's fusions; for matrices the latter is
    the type of their weights."""
    for node in compiled.get_runtime_model().get_ordered_ops():
        info = node.get_rt_info()
        yield info["layerType"].astype(str), info["runtimePrecision"].astype(str)


def _quantizes_activations(kernels: Kernels, width: int) -> bool:
    """Whether a small matrix, packed as the language model's of that width are, shows quantised activations.

    The plugin never says. Without them its product equals the float32 one, with them it is off by 1e-3 and more.
    """
    rng, out = np.random.default_rng(0), 64
    group = weight_group(width, kernels.precision)
    bits = 4 if group < width else 8
    packed = rng.integers(0, 256, (out, width * bits // 8), dtype=np.uint8)
    scale = np.full((out, width // group, 1) if bits == 4 else (out, 1), 0.01, np.float16)
    weight = Weight(packed if bits == 4 else packed.view(np.int8), (out, width), bits=bits, scale=scale)
    x = rng.standard_normal((16, width), dtype=np.float32)
    products = []
    for properties in (kernels.language, {**kernels.language, "DYNAMIC_QUANTIZATION_GROUP_SIZE": "0"}):
        source = g.parameter("x", ov.Type.f32, (-1, width))
        model = ov.Model([g.result(g.linear(source, weight), "y")], [source], "probe")
        products.append(kernels.compile(model, properties)({"x": x})["y"])
    found, exact = products
    return bool(np.abs(found - exact).max() > 1e-4 * np.abs(exact).max())
