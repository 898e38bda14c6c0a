"""The small vocabulary of operations both towers are written in. Knows weights as the kernels want them, not models.

Every spelling here is one that OpenVINO's CPU plugin is known to fuse; `kernels.py` checks at load that it did.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import openvino as ov
from openvino import PartialShape, Type
from openvino import opset15 as op
from openvino.op import Constant, Parameter, _PagedAttentionExtension

from sightline.model.weights import Weight

BLOCK = 32  # tokens in one KV block: fixed by the CPU kernel, a different table would corrupt answers silently

Node = Any  # an ov.Node or ov.Output; OpenVINO's Python package carries no usable types for both

_STORED = {"BF16": Type.bf16, "F16": Type.f16, "F32": Type.f32}


def parameter(name: str, dtype: Type, shape: Sequence[int]) -> Node:
    """A graph input that can be set by `name`; -1 is a run-time size."""
    node = Parameter(dtype, PartialShape(list(shape)))
    node.set_friendly_name(name)
    node.output(0).get_tensor().set_names({name})
    return node


def result(node: Node, name: str) -> Node:
    """A graph output that can be read by `name`."""
    out = op.result(node)
    out.output(0).get_tensor().set_names({name})
    return out


def named(x: Node, name: str) -> Node:
    """x, under a name that tests find it by."""
    (x.get_node() if hasattr(x, "get_node") else x).set_friendly_name(name)
    return x


def f32(value: Any) -> Node:
    return op.constant(np.asarray(value, np.float32))


def i32(*values: int) -> Node:
    return op.constant(np.array(values, np.int32))


def i64(*values: int) -> Node:
    return op.constant(np.array(values, np.int64))


def scalar(value: int) -> Node:
    return op.constant(np.int64(value))


def reshape(x: Node, *shape: int) -> Node:
    return op.reshape(x, i64(*shape), special_zero=False)


def linear(x: Node, weight: Weight, bias: Any = None) -> Node:
    """x @ W.T + b for a weight [out, in], stored as floats or as quantised integers; arithmetic in float32."""
    weight = weight.stored or weight
    w = _float_weight(weight) if weight.scale is None else _integer_weight(weight)
    y = op.matmul(x, w, transpose_a=False, transpose_b=not weight.transposed)
    return y if bias is None else op.add(y, f32(bias))


def _float_weight(weight: Weight) -> Node:
    constant = _shared(weight.data, weight.stored_shape, _STORED[weight.dtype])
    if weight.dtype == "F32":
        return constant
    wide = op.convert(constant, "f32")
    # Without this mark the plugin unfolds the constant: three times the file in private memory (measured).
    wide.get_rt_info()["decompression_0"] = True
    return wide


def _integer_weight(weight: Weight) -> Node:
    """Constant -> f16 -> x scale -> f32: the pattern that becomes one FullyConnectedCompressed kernel."""
    dtype = Type.i8 if weight.bits == 8 else Type.i4
    w = op.convert(_shared(weight.data, weight.stored_shape, dtype), "f16")
    w = op.multiply(w, op.constant(np.ascontiguousarray(weight.scale)))
    if len(weight.stored_shape) == 3:
        w = reshape(w, *weight.shape)
    return op.convert(w, "f32")


def _shared(data: Any, shape: Sequence[int], dtype: Type) -> Node:
    """A constant that borrows `data`'s memory (a file map); the caller keeps it alive until the first inference."""
    flat = np.ascontiguousarray(data).reshape(-1).view(np.uint8)
    return Constant(ov.Tensor(flat, ov.Shape(list(shape)), dtype), shared_memory=True)


def rms_norm(x: Node, gain: Any, eps: float) -> Node:
    """RMSNorm over the last axis: x / sqrt(mean(x^2) + eps) * gain. Fuses into one RMS kernel."""
    variance = op.reduce_mean(op.power(x, f32(2.0)), i32(-1), keep_dims=True)
    return op.multiply(op.multiply(x, op.divide(f32(1.0), op.sqrt(op.add(variance, f32(eps))))), f32(gain))


def layer_norm(x: Node, gain: Any, bias: Any, eps: float) -> Node:
    """LayerNorm over the last axis."""
    normal = op.mvn(x, i64(-1), normalize_variance=True, eps=eps, eps_mode="inside_sqrt")
    return op.add(op.multiply(normal, f32(gain)), f32(bias))


def rotary(x: Node, cos: Node, sin: Node, head_dim: int, axis: int) -> Node:
    """x*cos + rotate_half(x)*sin over `axis`, counted from the front: not every release fuses a negative one."""
    half = head_dim // 2
    first = op.slice(x, i64(0), i64(half), i64(1), i64(axis))
    second = op.slice(x, i64(half), i64(2**31 - 1), i64(1), i64(axis))
    turned = op.concat([op.multiply(second, f32(-1.0)), first], -1)
    return op.add(op.multiply(x, cos), op.multiply(turned, sin))


def as_bf16(*nodes: Node) -> list[Node]:
    return [op.convert(node, "bf16") for node in nodes]


def paged_attention(
    query: Node, key: Node, value: Node, pools: tuple[Node, Node], control: Sequence[Node], kv_heads: int, head_dim: int
) -> Node:
    """Causal attention of a ragged step over paged keys and values: [T, heads*d], 2 x [T, kv_heads*d] -> [T, heads*d].

    `control` = past_lens [S], subsequence_begins [S+1], block_indices [..], block_indices_begins [S+1] and the scalar
    longest context, all i32. The op is private to OpenVINO: 28 inputs in this release, unused ones empty, and the
    head geometry in rt_info, which the kernel refuses to do without.
    """
    past, begins, blocks, block_begins, longest = control
    none_i, none_f, zero = i32(), f32([]), op.constant(np.int32(0))
    inputs = [
        *(query, key, value, *pools, past, begins, blocks, block_begins),
        f32(head_dim**-0.5),  # 9 softmax scale
        zero,  # 10 sliding window: off
        none_f,  # 11 ALiBi slopes
        longest,  # 12
        none_i,  # 13 score aggregation window
        *(none_i, none_i, none_f),  # 14-16 cache rotation
        *(none_f, zero, zero),  # 17-19 sparse attention
        f32(np.zeros((0, 0, 0, 0))),  # 20 attention sinks
        *(zero, none_i, none_i, none_i),  # 21-24 cache eviction
        none_i,  # 25 token types
        *(op.constant(np.zeros(0, np.uint8)), none_i),  # 26-27 query-query bias
    ]
    node = _PagedAttentionExtension([i.output(0) if hasattr(i, "output") else i for i in inputs])
    info = node.get_rt_info()
    info["num_k_heads"] = info["num_v_heads"] = kv_heads
    info["k_head_size"] = info["v_head_size"] = head_dim
    return node.output(0)
