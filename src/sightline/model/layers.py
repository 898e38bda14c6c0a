"""The pieces both towers are built of, spelled for our own kernels where they fit, else for the plugin's."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from openvino import opset15 as op

from sightline.model import graph as g
from sightline.model.machine import SCORED_AGAIN
from sightline.model.own import Act, Norm, OwnKernels
from sightline.model.weights import Weight


class Layers:
    """Matrices with what stands around them. Activations are float32 [.., width]."""

    def __init__(self, own: OwnKernels | None):
        self._own = own

    def linears(self, x: g.Node, weights: Sequence[Weight], norm: Norm | None = None) -> list[g.Node]:
        """norm(x) @ W.T for each of `weights`."""
        if self._own is not None and self._own.fit(weights):
            return self._own.linear(x, weights, norm)
        x = _normal(x, norm)
        return [g.linear(x, weight) for weight in weights]

    def linear(
        self,
        x: g.Node,
        weight: Weight,
        norm: Norm | None = None,
        act: Act = "",
        bias: Any = None,
        residual: g.Node | None = None,
    ) -> g.Node:
        """act(norm(x) @ W.T + bias) + residual."""
        if self._own is not None and self._own.fit([weight]):
            return self._own.linear(x, [weight], norm, act, bias, residual)[0]
        y = g.linear(_normal(x, norm), weight, bias)
        if act == "gelu_tanh":
            y = op.gelu(y, "tanh")
        return y if residual is None else op.add(residual, y)

    def frame_attention(
        self, x: g.Node, stacked: Weight, bias: Any, norm: Norm, rotation: tuple[g.Node, g.Node], heads: int
    ) -> g.Node | None:
        """Attention over norm(x) within frames, with queries, keys and values from one matrix; None where only the
        plugin's kernels can."""
        if self._own is None or not self._own.fit([stacked]):
            return None
        (qkv,) = self._own.linear(x, [stacked], norm, bias=bias)
        return self._own.frame_attention(qkv, *rotation, heads)

    def experts(self, x: g.Node, ids: g.Node, shares: g.Node, pairs: Sequence[tuple[Weight, Weight]]) -> g.Node | None:
        """The chosen experts' answers, times their shares, added up; None where only the plugin's kernels can."""
        if self._own is None or not self._own.fit([weight for pair in pairs for weight in pair]):
            return None
        if pairs[0][0].shape[0] % 32:  # gate and up must each be whole tiles
            return None
        return self._own.experts(x, ids, shares, pairs)

    def head(self, x: g.Node, weight: Weight, scan: Weight | None, norm: Norm) -> g.Node:
        """norm(x) @ W.T; where our kernels read W's `scan`, so for the highest of all, and nearly so for the others."""
        if self._own is None or scan is None or not self._own.fit([weight, scan]):
            return self.linear(x, weight, norm)
        return self._own.head(x, scan, weight, norm, SCORED_AGAIN)

    def gated(self, x: g.Node, gate: Weight, up: Weight, norm: Norm) -> g.Node:
        """silu(norm(x) @ gate.T) * (norm(x) @ up.T)."""
        if self._own is not None and self._own.fit([gate, up]):
            return self._own.linear(x, [gate, up], norm, "silu_gate")[0]
        x = _normal(x, norm)
        return op.multiply(op.swish(g.linear(x, gate)), g.linear(x, up))


def _normal(x: g.Node, norm: Norm | None) -> g.Node:
    if norm is None:
        return x
    if norm.shift is None:
        return g.rms_norm(x, norm.gain, norm.eps)
    return g.layer_norm(x, norm.gain, norm.shift, norm.eps)
