"""The language model as one graph around paged attention: a ragged step in, logits out. Knows no requests.

This file and `graph.py` are the narrow seam to OpenVINO's private op; an upgrade that breaks it breaks here.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import openvino as ov
from numpy.typing import NDArray
from openvino import Model, Type
from openvino import opset15 as op

from sightline.model import graph as g
from sightline.model.config import ModelConfig, TextConfig
from sightline.model.experts import expert_mlp
from sightline.model.kernels import Kernels
from sightline.model.layers import Layers
from sightline.model.machine import MAPPED_ROWS, SCORED_AGAIN
from sightline.model.own import Norm
from sightline.model.positions import TextRotary
from sightline.model.weights import EMBEDDING, Weights, head_name

F32 = NDArray[np.float32]
I32 = NDArray[np.int32]

_PREFIX = "model.language_model."


@dataclass(frozen=True, slots=True)
class VisualRows:
    """Features that replace some of a slice's token embeddings.

    `at`: first row within the slice; `main` [n, hidden] goes in place of the embeddings, `deep` [levels, n, hidden]
    is added after the first layers, one level each.
    """

    at: int
    main: F32
    deep: F32


@dataclass(frozen=True, slots=True)
class Slice:
    """One sequence's share of a step: `token_ids` [n] with `positions` [3, n], behind `past` tokens in its `blocks`.

    `logits` lists the rows of the slice whose next-token logits are wanted.
    """

    token_ids: I32
    positions: I32
    past: int
    blocks: Sequence[int]
    visual: Sequence[VisualRows] = ()
    logits: Sequence[int] = ()


@dataclass(frozen=True, slots=True)
class StepResult:
    """`logits` [rows asked for, in slice order; vocab]; `experts` [MoE layers, T, k] chosen expert ids, or None."""

    logits: F32
    experts: I32 | None = field(default=None)


class LanguageModel:
    """The compiled text tower, its KV pools and the arrays of a step. One thread may use it at a time.

    Block 0 of the pools is scratch: padding rows write there. Callers hand out blocks from 1.
    """

    block = g.BLOCK

    def __init__(self, config: ModelConfig, weights: Weights, kernels: Kernels):
        text = config.text
        self.config = text
        self._levels = len(config.vision.deepstack)
        self._weights, self._kernels = weights, kernels
        self._rotary = TextRotary(text.head_dim, text.rope_theta, text.mrope_section)
        model = build(config, weights, kernels)
        self.compiled = kernels.compile(model, kernels.language)
        self._request = self.compiled.create_infer_request()
        self._pools: list[ov.Tensor] = []
        self._looked_up = _looked_up(weights)
        self._again = SCORED_AGAIN if weights.is_scanned(head_name(weights.checkpoint)) else 0
        self._rows_read = 0  # rows of the mapped tables since their pages were last given back
        self.blocks = 0

    @property
    def multiplied_by_plugin(self) -> bool:
        """Whether rows of a step meet matrices in the plugin's kernels: all of them, or the routers of a mixture."""
        return self._kernels.own is None or self.config.experts > 0

    @property
    def kv_block_bytes(self) -> int:
        """Bytes of one block over all layers."""
        return sum(self._pool_type(p).size * int(np.prod(self._pool_shape(p, 1))) for p in self._pool_inputs())

    def allocate(self, blocks: int) -> None:
        """Reserve pools for `blocks` blocks (one of them scratch). The system provides memory as they are written."""
        self.blocks, self._pools = blocks, []
        for port in self._pool_inputs():
            tensor = ov.Tensor(self._pool_type(port), ov.Shape(self._pool_shape(port, blocks)))
            self._request.set_tensor(port.get_any_name(), tensor)
            self._pools.append(tensor)

    def copy_block(self, source: int, target: int) -> None:
        """Copy keys and values of one block to another one, in all layers. Not while a step runs."""
        for pool in self._pools:
            pool.data[target] = pool.data[source]

    def step(self, slices: Sequence[Slice], cancelled: Callable[[], bool] | None = None) -> StepResult:
        """Compute all slices together. Raises kernels.Cancelled when `cancelled` turned true meanwhile."""
        for name, array in self._pack(slices).items():
            self._request.set_tensor(name, ov.Tensor(array))
        self._kernels.run(self._request, cancelled)
        tokens = sum(len(s.token_ids) for s in slices)
        self._rows_read += tokens + self._again * sum(len(s.logits) for s in slices)
        if self._rows_read >= MAPPED_ROWS:
            self._release()
            self._rows_read = 0
        logits = np.array(self._request.get_tensor("logits").data)  # .data is a view into the request
        if not self.config.experts:
            return StepResult(logits)
        chosen = self._request.get_tensor("experts").data[:, :tokens]
        return StepResult(logits, np.array(chosen))

    def rest(self) -> None:
        """Give back what the layers' states took; the next step takes it anew."""
        self.compiled.release_memory()

    def _release(self) -> None:
        if self._kernels.own is None:
            self._weights.release()
            return
        for table in self._looked_up:
            self._weights.release(table)

    def _pack(self, slices: Sequence[Slice]) -> dict[str, Any]:
        """The input arrays of a step, padded to a size the plugin's matrix kernels have met before."""
        counts = [len(s.token_ids) for s in slices]
        tokens = sum(counts)
        padded = padded_size(tokens) if self.multiplied_by_plugin else tokens
        pasts, tables = [s.past for s in slices], [s.blocks for s in slices]
        positions = np.zeros((3, padded), np.int32)
        positions[:, :tokens] = np.concatenate([s.positions for s in slices], 1)
        hidden = np.zeros((padded, self.config.hidden), np.float32)
        hidden[:tokens] = self._weights.rows(EMBEDDING, np.concatenate([s.token_ids for s in slices]), hidden.shape[1])
        if padded > tokens:  # one sequence of zeros in the scratch block
            counts.append(padded - tokens)
            pasts.append(0)
            tables.append([0] * -(-counts[-1] // g.BLOCK))
        begins = np.cumsum([0, *counts]).astype(np.int32)
        deep, deep_row = self._paste(slices, begins, hidden)
        cos, sin = self._rotary(positions)
        longest = max(past + count for past, count in zip(pasts, counts, strict=True))
        rows = [begins[i] + row for i, s in enumerate(slices) for row in s.logits]
        return {
            "hidden": hidden,
            "cos": cos[:, None],
            "sin": sin[:, None],
            "deepstack": deep,
            "deepstack_row": deep_row,
            "rows": np.array(rows, np.int32),
            "past_lens": np.array(pasts, np.int32),
            "subsequence_begins": begins,
            "block_indices": np.concatenate([np.asarray(t, np.int32) for t in tables]),
            "block_indices_begins": np.cumsum([0, *map(len, tables)]).astype(np.int32),
            "longest": np.array(longest, np.int32),
        }

    def _paste(self, slices: Sequence[Slice], begins: I32, hidden: F32) -> tuple[F32, I32]:
        """Put picture features into `hidden`; return the deepstack table [levels, n, hidden] and each row's index.

        Row entry 0 means: add nothing; 1 + i: add feature i.
        """
        deep: list[F32] = [np.zeros((self._levels, 0, hidden.shape[1]), np.float32)]
        entry = np.zeros(len(hidden), np.int32)
        used = 0
        for start, piece in zip(begins, slices, strict=False):
            for rows in piece.visual:
                at, count = start + rows.at, len(rows.main)
                hidden[at : at + count] = rows.main
                entry[at : at + count] = np.arange(1 + used, 1 + used + count)
                used += count
                deep.append(rows.deep)
        return (deep[-1] if len(deep) == 2 else np.concatenate(deep, 1)), entry

    def _pool_inputs(self) -> list[Any]:
        return [p for p in self.compiled.inputs if p.get_any_name().startswith(("keys.", "values."))]

    @staticmethod
    def _pool_type(port: Any) -> Type:
        return port.get_element_type()

    @staticmethod
    def _pool_shape(port: Any, blocks: int) -> list[int]:
        return [blocks, *(d.get_length() for d in list(port.get_partial_shape())[1:])]


def _looked_up(weights: Weights) -> set[str]:
    """Tables of which our own kernels' steps read single rows; the pages of one that is read in full have to stay."""
    head = head_name(weights.checkpoint)
    if weights.is_scanned(head):
        return {EMBEDDING, head}
    return set() if head == EMBEDDING and not weights.is_lossless(head) else {EMBEDDING}


def padded_size(tokens: int) -> int:
    """Every new token count costs the plugin 10-55 ms once, so sizes are few: powers of two, then multiples of 32."""
    if tokens >= g.BLOCK:
        return -(-tokens // g.BLOCK) * g.BLOCK
    return 1 << (tokens - 1).bit_length() if tokens else 0


def build(config: ModelConfig, weights: Weights, kernels: Kernels) -> Model:
    """The graph of one step over T tokens, S sequences and R wanted rows."""
    text, levels, layers = config.text, len(config.vision.deepstack), Layers(kernels.own)
    hidden = g.parameter("hidden", Type.f32, (-1, text.hidden))
    cos = g.parameter("cos", Type.f32, (-1, 1, text.head_dim))
    sin = g.parameter("sin", Type.f32, (-1, 1, text.head_dim))
    deep = g.parameter("deepstack", Type.f32, (levels, -1, text.hidden))
    deep_row = g.parameter("deepstack_row", Type.i32, (-1,))
    rows = g.parameter("rows", Type.i32, (-1,))
    names = ("past_lens", "subsequence_begins", "block_indices", "block_indices_begins")
    control = [g.parameter(n, Type.i32, (-1,)) for n in names] + [g.parameter("longest", Type.i32, ())]
    inputs = [hidden, cos, sin, deep, deep_row, rows, *control]

    x, experts = hidden, []
    # Behind the last attention only wanted rows matter: 3 % less work in a prompt. Not where all rows are read out.
    trimmed = text.layers - 1 if not text.experts and levels < text.layers else None
    for layer in range(text.layers):
        pools = tuple(g.parameter(f"{kind}.{layer}", Type.dynamic, (-1,) * 4) for kind in ("keys", "values"))
        inputs += pools
        wanted = rows if layer == trimmed else None
        x = _attention(x, layer, text, weights, kernels, pools, (cos, sin), control, wanted)
        x, chosen = _mlp(x, layer, text, weights, layers)
        experts += chosen
        if layer < levels:
            x = op.add(x, _deepstack(deep, deep_row, layer, text.hidden))
        g.named(x, f"layer.{layer}")
    last = x if trimmed is not None else _rows_of(x, rows)
    norm = Norm(weights.values(_PREFIX + "norm.weight", text.hidden), text.eps)
    head = weights.matrix(head_name(weights.checkpoint), text.vocab, text.hidden)
    scan = weights.scan(head_name(weights.checkpoint), text.vocab, text.hidden)
    outputs = [g.result(layers.head(last, head, scan, norm), "logits")]
    if experts:
        outputs.append(g.result(op.concat([op.unsqueeze(e, g.i64(0)) for e in experts], 0), "experts"))
    return Model(outputs, inputs, "language")


def _rows_of(x: g.Node, rows: g.Node) -> g.Node:
    return op.gather(x, rows, op.constant(np.int32(0)))


def _attention(
    x: g.Node,
    layer: int,
    text: TextConfig,
    weights: Weights,
    kernels: Kernels,
    pools: tuple[g.Node, ...],
    rotation: tuple[g.Node, g.Node],
    control: Sequence[g.Node],
    wanted: g.Node | None,
) -> g.Node:
    """x and the layer's attention: for all tokens, so that all keys and values are kept; the sum for `wanted` rows."""
    prefix, layers = f"{_PREFIX}layers.{layer}.", Layers(kernels.own)
    d, width, kv_width = text.head_dim, text.heads * text.head_dim, text.kv_heads * text.head_dim
    norm = Norm(weights.values(prefix + "input_layernorm.weight", text.hidden), text.eps)
    sizes = {"q": width, "k": kv_width, "v": kv_width}
    matrices = [weights.matrix(f"{prefix}self_attn.{n}_proj.weight", out, text.hidden) for n, out in sizes.items()]
    query, key, value = layers.linears(x, matrices, norm)

    def turn(y: g.Node, name: str, heads: int) -> g.Node:
        gain = weights.values(f"{prefix}self_attn.{name}_norm.weight", d)
        y = g.rms_norm(g.reshape(y, -1, heads, d), gain, text.eps)
        return g.reshape(g.rotary(y, *rotation, d, axis=2), -1, heads * d)

    query, key = turn(query, "q", text.heads), turn(key, "k", text.kv_heads)
    if kernels.bf16_attention:
        query, key, value = g.as_bf16(query, key, value)
    y = g.paged_attention(query, key, value, (pools[0], pools[1]), control, text.kv_heads, d)
    if kernels.bf16_attention:
        y = op.convert(y, "f32")
    if wanted is not None:
        x, y = _rows_of(x, wanted), _rows_of(y, wanted)
    return layers.linear(y, weights.matrix(prefix + "self_attn.o_proj.weight", text.hidden, width), residual=x)


def _mlp(x: g.Node, layer: int, text: TextConfig, weights: Weights, layers: Layers) -> tuple[g.Node, list[g.Node]]:
    """x and the layer's MLP, and, for a mixture of experts, the chosen expert ids [T, k]."""
    prefix = f"{_PREFIX}layers.{layer}."
    norm = Norm(weights.values(prefix + "post_attention_layernorm.weight", text.hidden), text.eps)
    if text.is_moe_layer(layer):
        y, chosen = expert_mlp(g.rms_norm(x, norm.gain, norm.eps), prefix + "mlp.", text, weights, layers)
        return op.add(x, y), [chosen]
    names = ("gate", "up")
    gate, up = (weights.matrix(f"{prefix}mlp.{n}_proj.weight", text.intermediate, text.hidden) for n in names)
    y = layers.gated(x, gate, up, norm)
    down = weights.matrix(prefix + "mlp.down_proj.weight", text.hidden, text.intermediate)
    return layers.linear(y, down, residual=x), []


def _deepstack(deep: g.Node, deep_row: g.Node, level: int, hidden: int) -> g.Node:
    """Each token's addition at this level: [T, hidden]; a zero row stands before the features."""
    features = op.squeeze(op.slice(deep, g.i64(level), g.i64(level + 1), g.i64(1), g.i64(0)), g.i64(0))
    table = op.concat([g.f32(np.zeros((1, hidden))), features], 0)
    return op.gather(table, deep_row, op.constant(np.int32(0)))
