"""The vision tower: pixels of one picture in, its features out. Knows no prompts and no caches."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import openvino as ov
from numpy.typing import NDArray
from openvino import Model, Type
from openvino import opset15 as op

from sightline.model import graph as g
from sightline.model.config import ModelConfig, PixelConfig, VisionConfig
from sightline.model.kernels import Kernels
from sightline.model.layers import Layers
from sightline.model.own import Norm
from sightline.model.positions import Grid, position_embedding, vision_rotary
from sightline.model.weights import Weight, Weights

F32 = NDArray[np.float32]

_PREFIX = "model.visual."
_POS = _PREFIX + "pos_embed.weight"
_EPS = 1e-6


@dataclass(frozen=True, slots=True)
class Features:
    """What the language model sees of one picture: `main` [tokens, hidden] and, per deepstack level, `deep`
    [levels, tokens, hidden]; both in token order."""

    main: F32
    deep: F32

    @property
    def nbytes(self) -> int:
        return self.main.nbytes + self.deep.nbytes


def grid_of(frames: int, height: int, width: int, config: VisionConfig) -> Grid:
    """The patch grid of `frames` pictures of height x width pixels (multiples of patch * merge)."""
    return Grid(-(-frames // config.temporal_patch), height // config.patch, width // config.patch)


def patch_rows(pixels: NDArray[np.uint8], vision: VisionConfig, config: PixelConfig) -> F32:
    """Normalised patches [patches, channels*temporal*patch*patch] of pixels [frames, H, W, 3], in block order.

    A still picture is one frame; a missing last frame repeats the one before, as the reference processor does.
    The arithmetic is the reference's, step by step, so the numbers are equal to the last bit.
    """
    frames, height, width, channels = pixels.shape
    grid = grid_of(frames, height, width, vision)
    p, m, tp = vision.patch, vision.merge, vision.temporal_patch
    mean, std = (np.array(each, np.float32)[:, None, None] for each in (config.mean, config.std))
    rows = np.empty((grid.t, grid.h // m, grid.w // m, m, m, channels, tp, p, p), np.float32)
    for t, i, k in np.ndindex(grid.t, grid.h // m, tp):  # strip by strip: what is worked on stays in a core's cache
        frame = t * tp + k
        if frame >= frames:
            rows[t, i, ..., k, :, :] = rows[t, i, ..., k - 1, :, :]
            continue
        strip = pixels[frame, i * m * p : (i + 1) * m * p].transpose(2, 0, 1).astype(np.float32, order="C")
        strip /= np.float32(255)  # for all 256 levels what the reference's product with 1/255 in float64 rounds to
        strip -= mean
        strip /= std
        rows[t, i, ..., k, :, :] = strip.reshape(channels, m, p, -1, m, p).transpose(3, 1, 4, 0, 2, 5)
    return rows.reshape(grid.patches, -1)


class VisionTower:
    """The compiled vision graph. One thread may use it at a time, and never while the language model computes:
    both use all the threads there are."""

    def __init__(self, config: ModelConfig, weights: Weights, kernels: Kernels):
        self.config = config.vision
        self._pixels = config.pixels
        self._weights, self._kernels = weights, kernels  # the graph reads what they hold where it lies
        self._table = weights.values(_POS, self.config.positions**2, self.config.hidden)
        self.compiled = kernels.compile(build(config, weights, kernels), kernels.vision)
        self._request = self.compiled.create_infer_request()
        self._latest: Grid | None = None  # computed last

    def rest(self) -> None:
        """Give back what the states of pictures took, 60 KB a patch (2B); the next picture takes it anew."""
        self.compiled.release_memory()
        # The plugin takes memory anew only where sizes change, and fails where they do not: so one cell right now.
        cell = self.config.patch * self.config.merge
        cells = 2 if self._latest == grid_of(1, cell, cell, self.config) else 1
        self.encode(np.zeros((1, cell, cells * cell, self.config.channels), np.uint8))

    def encode(self, pixels: NDArray[np.uint8], cancelled: Callable[[], bool] | None = None) -> Features:
        """Features of pixels [frames, H, W, 3]. Raises kernels.Cancelled when `cancelled` turned true meanwhile."""
        frames, height, width, _ = pixels.shape
        self._latest = grid = grid_of(frames, height, width, self.config)
        cos, sin = vision_rotary(grid.h, grid.w, self.config.head_dim, self.config.merge)
        inputs = {
            "patches": patch_rows(pixels, self.config, self._pixels).reshape(grid.t, 1, grid.h * grid.w, -1),
            "positions": position_embedding(self._table, grid.h, grid.w, self.config.merge)[None, None],
            "cos": cos[None, None],
            "sin": sin[None, None],
        }
        for name, array in inputs.items():
            self._request.set_tensor(name, ov.Tensor(np.ascontiguousarray(array)))
        self._kernels.run(self._request, cancelled)
        hidden = self.config.out_hidden
        main = np.array(self._request.get_tensor("main").data, np.float32).reshape(-1, hidden)
        levels = range(len(self.config.deepstack))
        deep = [np.array(self._request.get_tensor(f"deep.{j}").data, np.float32).reshape(-1, hidden) for j in levels]
        return Features(main, np.stack(deep) if deep else np.zeros((0, *main.shape), np.float32))


def build(config: ModelConfig, weights: Weights, kernels: Kernels) -> Model:
    """The graph over equal frames of n patches: attention stays inside a frame, so frames are the batch.

    States are [frames, 1, n, hidden]. With three axes the plugin would run the smaller float32 matrices as 1x1
    convolutions, with a packed copy of the weights for every new picture size: 0.9 GB more on 2B (measured).
    """
    v, layers = config.vision, Layers(kernels.own)
    patches = g.parameter("patches", Type.f32, (-1, 1, -1, v.patch_values))
    positions = g.parameter("positions", Type.f32, (1, 1, -1, v.hidden))
    cos = g.parameter("cos", Type.f32, (1, 1, -1, v.head_dim))
    sin = g.parameter("sin", Type.f32, (1, 1, -1, v.head_dim))
    kernel = (v.hidden, v.channels, v.temporal_patch, v.patch, v.patch)  # a convolution whose stride is its size
    embed = weights.matrix(_PREFIX + "patch_embed.proj.weight", v.hidden, v.patch_values, stored=kernel)
    bias = weights.values(_PREFIX + "patch_embed.proj.bias", v.hidden)
    x = op.add(layers.linear(patches, embed, bias=bias), positions)
    outputs = []
    for block in range(v.depth):
        x = _block(x, f"{_PREFIX}blocks.{block}.", v, weights, layers, (cos, sin))
        g.named(x, f"block.{block}")
        if block in v.deepstack:
            level = v.deepstack.index(block)
            prefix = f"{_PREFIX}deepstack_merger_list.{level}."
            outputs.append(g.result(_merger(x, prefix, v, weights, layers, merge_first=True), f"deep.{level}"))
    outputs.append(g.result(_merger(x, _PREFIX + "merger.", v, weights, layers, merge_first=False), "main"))
    return Model(outputs, [patches, positions, cos, sin], "vision")


def _block(
    x: g.Node, prefix: str, v: VisionConfig, weights: Weights, layers: Layers, rotation: tuple[g.Node, g.Node]
) -> g.Node:
    def bias(name: str, out: int) -> NDArray[np.float32]:
        return weights.values(f"{prefix}{name}.bias", out)

    def matrix(name: str, out: int, width: int) -> Weight:
        return weights.matrix(f"{prefix}{name}.weight", out, width)

    def norm(name: str) -> Norm:
        gain, shift = (weights.values(f"{prefix}{name}.{part}", v.hidden) for part in ("weight", "bias"))
        return Norm(gain, _EPS, shift)

    stacked = matrix("attn.qkv", 3 * v.hidden, v.hidden)
    y = _attention(x, stacked, bias("attn.qkv", 3 * v.hidden), norm("norm1"), v, layers, rotation)
    x = layers.linear(y, matrix("attn.proj", v.hidden, v.hidden), bias=bias("attn.proj", v.hidden), residual=x)
    inner, width = "mlp.linear_fc1", v.intermediate
    y = layers.linear(x, matrix(inner, width, v.hidden), norm("norm2"), "gelu_tanh", bias(inner, width))
    outer = "mlp.linear_fc2"
    return layers.linear(y, matrix(outer, v.hidden, width), bias=bias(outer, v.hidden), residual=x)


def _attention(
    x: g.Node,
    stacked: Weight,
    bias: NDArray[np.float32],
    norm: Norm,
    v: VisionConfig,
    layers: Layers,
    rotation: tuple[g.Node, g.Node],
) -> g.Node:
    """Every patch of a frame looks at all of them: [frames, 1, n, hidden] -> the same, before the projection."""
    own = layers.frame_attention(x, stacked, bias, norm, rotation, v.heads)
    if own is not None:
        return own
    # Three matrices instead of one, so that nothing needs to be cut apart, and the kernels of rotation and attention
    # turn the axes themselves: 2.79 instead of 2.85 s for a picture of 1024x768 (2B).
    y = g.layer_norm(x, norm.gain, norm.shift, norm.eps)
    parts = zip(stacked.split(3), np.split(bias, 3), strict=True)
    query, key, value = (_heads(g.linear(y, weight, each), v) for weight, each in parts)
    query, key = (g.rotary(each, *rotation, v.head_dim, axis=3) for each in (query, key))
    y = op.scaled_dot_product_attention(query, key, value, causal=False)
    return op.reshape(op.transpose(y, g.i64(0, 2, 1, 3)), g.i64(0, 1, -1, v.hidden), special_zero=True)


def _heads(x: g.Node, v: VisionConfig) -> g.Node:
    """[frames, 1, n, hidden] -> [frames, heads, n, head_dim]."""
    return op.transpose(op.reshape(x, g.i64(0, -1, v.heads, v.head_dim), special_zero=True), g.i64(0, 2, 1, 3))


def _merger(x: g.Node, prefix: str, v: VisionConfig, weights: Weights, layers: Layers, merge_first: bool) -> g.Node:
    """Four patches become one token. The main merger normalises patches, the deepstack mergers the merged rows."""
    wide = v.hidden * v.merge**2
    size = wide if merge_first else v.hidden
    gain, shift = (weights.values(f"{prefix}norm.{part}", size) for part in ("weight", "bias"))

    def join(y: g.Node) -> g.Node:
        return op.reshape(y, g.i64(0, 1, -1, wide), special_zero=True)

    y = g.layer_norm(join(x), gain, shift, _EPS) if merge_first else join(g.layer_norm(x, gain, shift, _EPS))
    for name, out in (("linear_fc1", wide), ("linear_fc2", v.out_hidden)):
        bias = weights.values(f"{prefix}{name}.bias", out)
        y = layers.linear(y, weights.matrix(f"{prefix}{name}.weight", out, wide), bias=bias)
        if name == "linear_fc1":
            y = op.gelu(y, "erf")
    return y
