"""Which arithmetic each precision uses on this CPU, and proof that the plugin really does. Knows no requests."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import openvino as ov

from sightline.model import graph as g
from sightline.model.config import ModelConfig
from sightline.model.weights import Weight
from sightline.types import Precision

_POLL_MS = 50


class Cancelled(Exception):
    """The caller of a running inference no longer wants its result."""


@dataclass(frozen=True, slots=True)
class Kernels:
    """Compile-time choices: plugin properties per tower, and whether attention computes in bf16."""

    precision: Precision
    threads: int
    language: Mapping[str, str]
    vision: Mapping[str, str]
    bf16_attention: bool
    core: ov.Core

    def compile(self, model: ov.Model, properties: Mapping[str, str]) -> ov.CompiledModel:
        return self.core.compile_model(model, "CPU", {"INFERENCE_NUM_THREADS": self.threads, **properties})


def choose(precision: Precision, threads: int, config: ModelConfig) -> Kernels:
    """The fastest arithmetic this CPU has for `precision`.

    exact: float32 throughout. int8, int4: a float32 stream with integer matrices and, where the CPU has it, bf16
    attention; the vision tower wholly in bf16. Measured on AVX512-VNNI and on AMX machines: a float32 stream decodes
    1.4 times faster than a bf16 one, and a bf16 vision tower encodes 1.5 times faster than a float32 one.
    """
    core = ov.Core()
    has_bf16 = "BF16" in core.get_property("CPU", "OPTIMIZATION_CAPABILITIES")
    latency = {"PERFORMANCE_HINT": "LATENCY", "NUM_STREAMS": "1"}
    exact = {**latency, "INFERENCE_PRECISION_HINT": "f32", "DYNAMIC_QUANTIZATION_GROUP_SIZE": "0"}
    if precision == "exact":
        language = {**exact, "KV_CACHE_PRECISION": "f32"}
        return Kernels(precision, threads, language, exact, bf16_attention=False, core=core)
    t, v = config.text, config.vision
    inner = t.expert_intermediate if t.experts else t.intermediate
    groups = [g for w in (t.hidden, inner, t.heads * t.head_dim) if (g := weight_group(w, precision))]
    language = {
        **exact,
        "DYNAMIC_QUANTIZATION_GROUP_SIZE": str(activation_group(groups, most=128)),
        "KV_CACHE_PRECISION": "bf16" if has_bf16 else "f16",
    }
    widths = [v.hidden, v.intermediate, v.hidden * v.merge**2]
    vision = {
        **latency,
        "INFERENCE_PRECISION_HINT": "bf16" if has_bf16 else "f32",
        "DYNAMIC_QUANTIZATION_GROUP_SIZE": str(activation_group(widths, most=1024)),
    }
    return Kernels(precision, threads, language, vision, bf16_attention=has_bf16, core=core)


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


def run(request: Any, cancelled: Callable[[], bool] | None = None) -> None:
    """Infer with the interpreter lock released; stop within one kernel when `cancelled` turns true."""
    request.start_async()
    if cancelled is None:
        request.wait()
        return
    while not request.wait_for(_POLL_MS):
        if cancelled():
            request.cancel()
            try:
                request.wait()
            except RuntimeError:
                raise Cancelled from None
            return  # it finished before the cancel arrived


def slow_paths(
    kernels: Kernels, config: ModelConfig, language: ov.CompiledModel, vision: ov.CompiledModel
) -> Iterator[str]:
    """The canary: names what the plugin did not turn into the kernels this precision stands on."""
    text = config.text
    expected = {"PagedAttention": text.layers, "RoPE": 2 * text.layers, "RMS": 4 * text.layers + 1}
    nodes = list(_runtime_nodes(language))
    for kind, count in expected.items():
        found = sum(1 for layer, _ in nodes if layer == kind)
        if found != count:
            yield f"language model: {found} {kind} kernels, expected {count}"
    if kernels.precision == "exact":
        return
    allowed = {"int8": {"i8"}, "int4": {"i8", "i4"}}[kernels.precision]
    for name, compiled, spared in (("language model", nodes, 0), ("vision tower", list(_runtime_nodes(vision)), 1)):
        wide = [weights for layer, weights in compiled if layer == "FullyConnected" and weights not in allowed]
        if len(wide) > spared + (text.layers if text.experts else 0):  # routers and the patch embedding stay floats
            yield f"{name}: {len(wide)} matrices run uncompressed ({', '.join(sorted(set(wide)))})"
    if not _quantizes_activations(kernels):
        yield "language model: activations are not quantised to int8 (no VNNI on this CPU, or the group does not fit)"


def _runtime_nodes(compiled: ov.CompiledModel) -> Iterator[tuple[str, str]]:
    """(kernel type, precision it runs in) of every node after all of the plugin's fusions; for matrices the latter is
    the type of their weights."""
    for node in compiled.get_runtime_model().get_ordered_ops():
        info = node.get_rt_info()
        yield info["layerType"].astype(str), info["runtimePrecision"].astype(str)


def _quantizes_activations(kernels: Kernels) -> bool:
    """Whether a small int8 matrix under the language model's properties shows the rounding of quantised activations.

    The plugin never says; without quantised activations the product would equal the float32 one to about 1e-6.
    """
    rng = np.random.default_rng(0)
    width = 4 * int(kernels.language["DYNAMIC_QUANTIZATION_GROUP_SIZE"])
    integers = rng.integers(-127, 128, (64, width), dtype=np.int8)
    scale = np.full((64, 1), 0.01, np.float16)
    x = rng.standard_normal((16, width), dtype=np.float32)
    source = g.parameter("x", ov.Type.f32, (-1, width))
    y = g.linear(source, Weight(integers, (64, width), bits=8, scale=scale))
    compiled = kernels.compile(ov.Model([g.result(y, "y")], [source], "probe"), kernels.language)
    exact = x @ (integers.astype(np.float32) * np.float32(scale)).T
    error = np.abs(compiled({"x": x})["y"] - exact).max() / np.abs(exact).max()
    return bool(error > 1e-4)
