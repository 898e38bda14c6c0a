"""The mixture-of-experts block: router, and the chosen experts by our own kernel, or else one plain matrix chain per
expert over the tokens that chose it.

Of the plugin's ways the chain was 2-6 times faster from eight tokens on than its own fusion, which runs one
matrix-vector product per token and expert.
"""

from __future__ import annotations

import numpy as np
from openvino import opset11, opset15
from openvino import opset15 as op

from sightline.model import graph as g
from sightline.model.config import TextConfig
from sightline.model.layers import Layers
from sightline.model.weights import Weight, Weights


def expert_mlp(x: g.Node, prefix: str, text: TextConfig, weights: Weights, layers: Layers) -> tuple[g.Node, g.Node]:
    """x [T, hidden] -> (sum of the chosen experts' answers [T, hidden], chosen expert ids [T, k] i32).

    Router: softmax over all experts in float32, the k best, their shares scaled to one.
    """
    k = text.experts_per_token
    router = g.f32(weights.values(prefix + "gate.weight", text.experts, text.hidden))
    shares = op.softmax(op.matmul(x, router, False, True), -1)
    best = opset11.topk(shares, op.constant(np.int32(k)), -1, "max", "value", "i32")
    share = op.divide(best.output(0), op.reduce_sum(best.output(0), g.i64(-1), keep_dims=True))
    pairs = [_matrices(index, prefix, text, weights) for index in range(text.experts)]
    own = layers.experts(x, best.output(1), share, pairs)
    if own is not None:
        return own, best.output(1)

    chosen = g.reshape(best.output(1), -1)  # [T*k]: token-major pairs (token, expert)
    count = op.squeeze(op.shape_of(chosen, "i32"), g.i64(0))
    by_expert = opset11.topk(chosen, count, 0, "min", "value", "i32", stable=True)
    sorted_ids, order = by_expert.output(0), by_expert.output(1)
    ids = op.constant(np.arange(text.experts, dtype=np.int32))
    upper = opset15.search_sorted(sorted_ids, ids, True, "i32")
    lower = opset15.search_sorted(sorted_ids, ids, False, "i32")
    axis0 = op.constant(np.int32(0))
    token_of_pair = op.divide(order, op.constant(np.int32(k)))
    shares_of_tokens = op.variadic_split(op.gather(x, token_of_pair, axis0), axis0, op.subtract(upper, lower))

    answers = [_expert(shares_of_tokens.output(e), *pair) for e, pair in enumerate(pairs)]
    weighted = op.multiply(op.concat(answers, 0), op.gather(g.reshape(share, -1, 1), order, axis0))
    back = opset11.topk(order, count, 0, "min", "value", "i32", stable=True).output(1)
    per_token = g.reshape(op.gather(weighted, back, axis0), -1, k, text.hidden)
    return op.reduce_sum(per_token, g.i64(1), keep_dims=False), best.output(1)


def _matrices(index: int, prefix: str, text: TextConfig, weights: Weights) -> tuple[Weight, Weight]:
    """An expert's gate and up in one matrix, and its down."""
    width = text.expert_intermediate
    both = weights.expert(prefix + "experts.gate_up_proj", index, 2 * width, text.hidden)
    return both, weights.expert(prefix + "experts.down_proj", index, text.hidden, width)


def _expert(x: g.Node, both: Weight, down: Weight) -> g.Node:
    halves = op.split(g.linear(x, both), g.scalar(1), 2)
    return g.linear(op.multiply(op.swish(halves.output(0)), halves.output(1)), down)
