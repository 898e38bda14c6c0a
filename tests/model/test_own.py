"""Promises of our own kernels, against float64: right for every format, shape and count, alone or in a batch.

A processor with tiles computes everything in both ways, with them and in AVX2.
"""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable, Sequence
from functools import cache
from pathlib import Path
from typing import Any, Literal

import numpy as np
import openvino as ov
import pytest
from numpy.typing import NDArray

from own_kernels import TILES_OR_NOT, needs_own
from sightline.model import graph as g
from sightline.model.checkpoint import to_float32
from sightline.model.kernels import weight_group
from sightline.model.own import AVX2, TILES, Act, NoOwnKernels, Norm, OwnKernels, open_own
from sightline.model.weights import Weight

Parts = Literal[1, 3]
Format = Literal["bf16", "int8", "int4"]
FORMATS: tuple[Format, ...] = ("bf16", "int8", "int4")
F32 = NDArray[np.float32]
F64 = NDArray[np.float64]

COUNTS = (1, 2, 3, 4, 5, 8, 9, 16, 17, 32, 33, 70, 200)  # by rows, then tiles or strips: one, odd ones, with a rest
TOLERANCE: dict[Parts, float] = {3: 2e-6, 1: 1e-2}  # of the largest value
BYTES_GATE = 1.5e-2  # where AVX2 rounds x to bytes for int4, the product of two such sums
EPS = 1e-6


@cache
def opened(parts: Parts, tiles: bool) -> tuple[ov.Core, OwnKernels]:
    core = ov.Core()
    return core, OwnKernels(core, parts, tiles=tiles)


class Used:
    """What the test at hand computes with."""

    tiles = False


@pytest.fixture(params=TILES_OR_NOT, ids=lambda tiles: "tiles" if tiles else "avx2", autouse=True)
def units(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Used, "tiles", request.param)


def kernels(parts: Parts) -> tuple[ov.Core, OwnKernels]:
    return opened(parts, Used.tiles)


def random(*shape: int, seed: int = 0) -> F32:
    return np.random.default_rng([seed, *shape]).standard_normal(shape, dtype=np.float32)


def weight(kind: Format, rows: int, width: int, seed: int = 0) -> tuple[Weight, F64]:
    """A matrix as it is stored, and what it means."""
    values = random(rows, width, seed=seed) * np.float32(0.05)
    if kind == "bf16":
        stored = (values.view(np.uint32) >> 16).astype(np.uint16)
        return Weight(stored, (rows, width), "BF16"), to_float32(stored, "BF16").astype(np.float64)
    bits, most = (8, 127) if kind == "int8" else (4, 7)
    groups = values.reshape(rows, -1, weight_group(width, kind if kind == "int4" else "int8"))
    largest = np.take_along_axis(groups, np.abs(groups).argmax(-1, keepdims=True), -1)
    scale = (largest / (most if bits == 8 else -8)).astype(np.float16)  # of either sign
    levels = np.clip(np.rint(groups / scale.astype(np.float32)), -most - 1, most).astype(np.int8)
    means = (levels * scale.astype(np.float64)).reshape(rows, width)
    if bits == 8:
        return Weight(levels.reshape(rows, width), (rows, width), bits=8, scale=scale.reshape(rows, 1)), means
    nibbles = levels.view(np.uint8).reshape(rows, width) & 15
    packed = nibbles[:, 0::2] | nibbles[:, 1::2] << 4
    return Weight(packed, (rows, width), bits=4, scale=scale), means


def linear(parts: Parts, weights: Sequence[Weight], residual: bool = False, **more: Any) -> Callable[..., list[F32]]:
    """What the operation puts out for rows x [.., K] and, where wanted, what is added [.., N]."""
    core, own = kernels(parts)
    inputs = [g.parameter("x", ov.Type.f32, (-1, weights[0].shape[1]))]
    if residual:
        inputs.append(g.parameter("residual", ov.Type.f32, (-1, weights[0].shape[0])))
        more["residual"] = inputs[1]
    outputs = own.linear(inputs[0], weights, **more)
    named = [g.result(each, f"y{i}") for i, each in enumerate(outputs)]
    model = core.compile_model(ov.Model(named, inputs, "linear"), "CPU", {"INFERENCE_PRECISION_HINT": "f32"})

    def compute(*arrays: F32) -> list[F32]:
        found = model(arrays)
        return [np.array(found[f"y{i}"]) for i in range(len(named))]

    return compute


def close(found: F32, expected: F64, parts: Parts, within: float | None = None) -> None:
    assert found.shape == expected.shape
    assert np.isfinite(found).all()
    assert np.abs(found - expected).max() <= (within or TOLERANCE[parts]) * np.abs(expected).max()


def normal(x: F32, norm: Norm) -> F64:
    wide = x.astype(np.float64)
    if norm.shift is None:
        return wide / np.sqrt((wide**2).mean(-1, keepdims=True) + norm.eps) * norm.gain
    return (wide - wide.mean(-1, keepdims=True)) / np.sqrt(wide.var(-1, keepdims=True) + norm.eps) * norm.gain + (
        norm.shift
    )


def silu(x: F64) -> F64:
    return x / (1 + np.exp(-x))


def gelu(x: F64) -> F64:
    return x * 0.5 * (1 + np.tanh(np.sqrt(2 / np.pi) * (x + 0.044715 * x**3)))


# exact reads weights as stored, in three parts; packed ones are read in one pass at the precision of int8 and int4
every_way = pytest.mark.parametrize(("kind", "parts"), [("bf16", 3), ("bf16", 1), ("int8", 1), ("int4", 1)])
every_parts = pytest.mark.parametrize("parts", [1, 3])


@needs_own
@every_way
@pytest.mark.parametrize(("rows", "width"), [(48, 64), (16, 96), (80, 544), (272, 1056)])
def test_a_product_is_right_for_every_format_and_number_of_rows(kind: Format, parts: Parts, rows: int, width: int):
    stored, means = weight(kind, rows, width)
    compute = linear(parts, [stored])
    for count in COUNTS:
        x = random(count, width)
        close(compute(x)[0], x @ means.T, parts)


@needs_own
@pytest.mark.parametrize("kind", ["int8", "int4"])
@pytest.mark.parametrize("width", [64, 96, 128, 192, 1152, 1344])  # groups of 64, 32, 128, 64, 128 and 64 for int4
def test_rows_that_need_no_rounding_meet_integers_exactly(kind: Format, width: int):
    """Whole numbers up to 127, which is among each eight: then bytes with a scale for each eight hold all of x."""
    stored, means = weight(kind, 64, width)
    compute = linear(1, [stored])
    for count in COUNTS:
        x = np.rint(random(count, width) * 40).clip(-127, 127)
        x[:, ::8] = 127
        x *= np.float32(128 / 127)  # 15 bits hold them, too
        found, expected = compute(x)[0], x.astype(np.float64) @ means.T
        assert np.abs(found - expected).max() <= 3e-6 * np.abs(expected).max()


@needs_own
@pytest.mark.parametrize(("kind", "parts"), [("bf16", 3), ("bf16", 1), ("int8", 1)])
@pytest.mark.parametrize("width", [16, 48, 80, 528])
def test_a_width_that_is_no_multiple_of_a_tiles_depth_is_read_to_its_end(kind: Format, parts: Parts, width: int):
    stored, means = weight(kind, 32, width)
    compute = linear(parts, [stored])
    for count in (1, 4, 5, 33):
        x = random(count, width)
        close(compute(x)[0], x @ means.T, parts)


@needs_own
@every_way
def test_rows_as_long_as_those_of_the_largest_model_are_read_once(kind: Format, parts: Parts):
    stored, means = weight(kind, 32, 12288)
    compute = linear(parts, [stored])
    for count in range(1, 9):
        x = random(count, 12288)
        close(compute(x)[0], x @ means.T, parts)


@needs_own
@every_way
def test_several_matrices_read_the_same_normalised_rows(kind: Format, parts: Parts):
    stored, means = zip(*(weight(kind, rows, 96, rows) for rows in (48, 16, 32)), strict=True)
    norm = Norm(1 + random(96, seed=1), EPS)
    compute = linear(parts, stored, norm=norm)
    for count in COUNTS:
        x = 3 * random(count, 96) + 1
        for found, meant in zip(compute(x), means, strict=True):
            close(found, normal(x, norm) @ meant.T, parts)


@needs_own
@every_way
def test_a_gate_is_one_output(kind: Format, parts: Parts):
    (gate, gate_means), (up, up_means) = (weight(kind, 48, 64, seed) for seed in (1, 2))
    norm = Norm(1 + random(64, seed=1), EPS)
    compute = linear(parts, [gate, up], norm=norm, act="silu_gate")
    for count in COUNTS:
        x = random(count, 64) * 20
        rows = normal(x, norm)
        (found,) = compute(x)
        within = BYTES_GATE if kind == "int4" and not Used.tiles else None
        close(found, silu(rows @ gate_means.T) * (rows @ up_means.T), parts, within)


@needs_own
@every_way
@pytest.mark.parametrize("act", ["", "gelu_tanh"])
def test_layer_norm_bias_activation_and_residual_stand_around_one_matrix(kind: Format, parts: Parts, act: Act):
    stored, means = weight(kind, 80, 160)
    norm = Norm(1 + random(160, seed=1), EPS, random(160, seed=2))
    bias = random(80, seed=3)
    compute = linear(parts, [stored], residual=True, norm=norm, act=act, bias=bias)
    for count in COUNTS:
        x, residual = random(count, 160) * 2 + 5, random(count, 80, seed=4)
        expected = normal(x, norm) @ means.T + bias
        close(compute(x, residual)[0], (gelu(expected) if act else expected) + residual, parts)


@needs_own
@every_way
def test_a_row_gets_the_same_numbers_alone_and_in_a_batch(kind: Format, parts: Parts):
    stored, _ = weight(kind, 64, 544)
    x = random(70, 544)
    compute = linear(parts, [stored], norm=Norm(1 + random(544, seed=1), EPS))
    (together,) = compute(x)
    for count in (1, 3, 5, 17):
        (alone,) = compute(x[:count])
        assert np.abs(alone - together[:count]).max() <= 2e-6 * np.abs(together).max()


@needs_own
@every_way
def test_zero_tiny_and_huge_rows_stay_finite_and_right(kind: Format, parts: Parts):
    stored, means = weight(kind, 32, 128)
    compute = linear(parts, [stored])
    for count in (2, 33):
        for size in (0.0, 1e-30, 1e15):
            x = random(count, 128) * np.float32(size)
            close(compute(x)[0], x.astype(np.float64) @ means.T, parts)
    x = random(33, 128) * 1e4  # far into the flat parts
    close(linear(parts, [stored], act="gelu_tanh")(x)[0], gelu(x.astype(np.float64) @ means.T), parts)


@needs_own
@every_way
def test_rows_of_very_different_size_do_not_share_their_rounding(kind: Format, parts: Parts):
    stored, means = weight(kind, 32, 128)
    x = random(33, 128) * np.float32(10) ** np.arange(-16, 17, dtype=np.float32)[:, None]
    (found,), expected = linear(parts, [stored])(x), x.astype(np.float64) @ means.T
    for row, right in zip(found, expected, strict=True):
        close(row, right, parts)


def attention(parts: Parts, qkv: F32, angles: F32, heads: int) -> tuple[F32, F64]:
    """Attention over qkv [F, n, 3, heads, d] with rotations by `angles` [n, d/2], as found and as expected."""
    core, own = kernels(parts)
    frames, count, _, _, size = qkv.shape
    cos, sin = (np.tile(turn(angles), (1, 2)).astype(np.float32) for turn in (np.cos, np.sin))
    sizes = {"qkv": 3 * heads * size, "cos": size, "sin": size}
    inputs = [g.parameter(name, ov.Type.f32, (-1, 1, -1, width)) for name, width in sizes.items()]
    model = ov.Model([g.result(own.frame_attention(*inputs, heads), "y")], inputs, "attention")
    compiled = core.compile_model(model, "CPU", {"INFERENCE_PRECISION_HINT": "f32"})
    arrays = {"qkv": qkv.reshape(frames, 1, count, -1), "cos": cos[None, None], "sin": sin[None, None]}
    found = compiled(arrays)["y"]

    def turned(x: F64) -> F64:
        halves = np.concatenate([-x[..., size // 2 :], x[..., : size // 2]], -1)
        return x * cos[:, None] + halves * sin[:, None]

    query, key, value = turned(qkv[:, :, 0].astype(np.float64)), turned(qkv[:, :, 1].astype(np.float64)), qkv[:, :, 2]
    scores = np.einsum("fqhd,fkhd->fhqk", query, key) / np.sqrt(size)
    shares = np.exp(scores - scores.max(-1, keepdims=True))
    shares /= shares.sum(-1, keepdims=True)
    return found, np.einsum("fhqk,fkhd->fqhd", shares, value).reshape(frames, 1, count, heads * size)


@needs_own
@every_parts
@pytest.mark.parametrize(
    ("frames", "count", "heads", "size"),
    [
        (1, 16, 2, 32),
        (2, 40, 2, 64),
        (1, 300, 1, 64),
        (1, 133, 5, 72),
        (3, 260, 1, 48),
        (1, 130, 6, 16),
        (2, 129, 2, 96),
    ],
)
def test_patches_of_a_frame_attend_to_all_of_it_and_to_no_other(
    frames: int, count: int, heads: int, size: int, parts: Parts
):
    close(*attention(parts, random(frames, count, 3, heads, size) * 1.5, random(count, size // 2), heads), parts)


@needs_own
@every_parts
@pytest.mark.parametrize("size", [8, 24])
def test_heads_narrower_than_a_tile_work_too(size: int, parts: Parts):
    close(*attention(parts, random(2, 37, 3, 2, size), random(37, size // 2), 2), parts)


def head(tokens: int, width: int, best: int) -> tuple[Callable[[F32], F32], F64, F64]:
    """The operation with its gain, and what its two matrices mean."""
    core, own = kernels(1)
    (whole, means), (scan, coarse) = stored = [weight(kind, tokens, width) for kind in ("int8", "int4")]
    x = g.parameter("x", ov.Type.f32, (-1, width))
    y = own.head(x, scan, whole, Norm(1 + random(width) * np.float32(0.1), EPS), best)
    model = core.compile_model(ov.Model([g.result(y, "y")], [x], "head"), "CPU")

    def compute(rows: F32) -> F32:
        assert stored  # they are read where they lie
        return np.array(model([rows])["y"])

    return compute, means, coarse


@needs_own
@pytest.mark.parametrize("width", [64, 384])
def test_a_scanned_head_scores_the_best_tokens_by_all_bits_and_the_others_by_few(width: int):
    tokens, best = 8192, 64
    compute, means, coarse = head(tokens, width, best)
    for count in COUNTS:
        x = random(count, width)
        rows = normal(x, Norm(1 + random(width) * np.float32(0.1), EPS))
        found, whole = compute(x), rows @ means.T
        exactly = np.abs(found - whole) <= 1e-5 * np.abs(whole).max()
        assert np.array_equal(found.argmax(1), whole.argmax(1))
        assert exactly[np.arange(count)[:, None], np.argsort(whole)[:, -best // 4 :]].all()
        assert np.all((best <= exactly.sum(1)) & (exactly.sum(1) < 3 * best))
        close(np.where(exactly, 0, found), np.where(exactly, 0, rows @ coarse.T), 1)


@needs_own
def test_a_scanned_head_scores_all_of_a_few_tokens_by_all_bits_whatever_they_are():
    compute, means, _ = head(1024, 64, best=64)
    x = random(3, 64)
    x[1] = 0
    x[2] = np.nan
    found = compute(x)
    expected = normal(x, Norm(1 + random(64) * np.float32(0.1), EPS)) @ means.T
    assert np.abs(found - expected)[:2].max() <= 1e-5 * np.abs(expected[0]).max()
    assert np.isnan(found[2]).all()
    assert compute(random(0, 64)).shape == (0, 1024)  # a chunk of a prompt wants no logits


@needs_own
@pytest.mark.parametrize("operation", ["linear", "attention", "head"])
def test_operations_leave_at_once_when_told_to_and_compute_again_afterwards(operation: str):
    core, own = kernels(1)
    width = 3 * 64 if operation == "attention" else 64
    x = g.parameter("x", ov.Type.f32, (1, 1, 200, width))
    angles = g.f32(np.ones((1, 1, 200, 32), np.float32))
    if operation == "linear":
        (y,) = own.linear(x, [weight("int8", 64, 64)[0]])
    elif operation == "head":
        scan, whole = weight("int4", 64, 64)[0], weight("int8", 64, 64)[0]
        y = own.head(x, scan, whole, Norm(np.ones(64), EPS), 1)
    else:
        y = own.frame_attention(x, angles, angles, 2)
    request = core.compile_model(ov.Model([g.result(y, "y")], [x], operation), "CPU").create_infer_request()
    request.set_tensor("x", ov.Tensor(random(1, 1, 200, width)))

    def untouched() -> bool:
        out = np.full((1, 1, 200, 64), 7, np.float32)
        request.set_output_tensor(ov.Tensor(out, shared_memory=True))
        request.infer()
        return bool((out == 7).all())

    with own.leaving():
        assert untouched()
    assert not untouched()


@needs_own
@every_parts
def test_one_key_gets_all_the_attention(parts: Parts):
    qkv = random(4, 1, 3, 2, 32)
    found, expected = attention(parts, qkv, random(1, 16), 2)
    close(found, expected, parts)
    close(found, qkv[:, :, 2].reshape(4, 1, 1, 64).astype(np.float64), parts)


@needs_own
@every_parts
def test_equal_scores_share_attention_equally(parts: Parts):
    qkv = random(1, 200, 3, 1, 64)
    qkv[:, :, 0] = 0
    close(*attention(parts, qkv, random(200, 32), 1), parts)


@needs_own
def test_scores_in_the_thousands_leave_one_key_and_no_overflow():
    """Rounded to bf16 such scores are off by more than one, so only the exact way can be compared."""
    qkv = random(1, 300, 3, 2, 64)
    qkv[:, :, :2] *= 20
    found, expected = attention(3, qkv, random(300, 32), 2)
    assert np.abs(found - expected).max() <= 2e-3 * np.abs(expected).max()  # float32 scores of 3000 are known to 2e-4
    found, _ = attention(1, qkv * 100, random(300, 32), 2)
    assert np.isfinite(found).all()


@needs_own
@every_way
@pytest.mark.parametrize(("hidden", "inner"), [(64, 32), (96, 160)])
def test_the_answers_of_a_tokens_experts_are_weighed_and_added(kind: Format, parts: Parts, hidden: int, inner: int):
    """Of eight experts one is chosen by nobody and one by every token."""
    core, own = kernels(parts)
    gates = [weight(kind, 2 * inner, hidden, seed) for seed in range(8)]
    downs = [weight(kind, hidden, inner, 100 + seed) for seed in range(8)]
    pairs = [(gate, down) for (gate, _), (down, _) in zip(gates, downs, strict=True)]
    x, ids, shares = (
        g.parameter(name, dtype, (-1, width))
        for name, dtype, width in (("x", ov.Type.f32, hidden), ("ids", ov.Type.i32, 3), ("shares", ov.Type.f32, 3))
    )
    answer = g.result(own.experts(x, ids, shares, pairs), "y")
    compute = core.compile_model(
        ov.Model([answer], [x, ids, shares], "experts"), "CPU", {"INFERENCE_PRECISION_HINT": "f32"}
    )
    rng = np.random.default_rng(0)
    for count in COUNTS:
        rows = random(count, hidden) * 3
        chosen = np.array([[7, *rng.choice(6, 2, replace=False)] for _ in range(count)], np.int32)
        weights = rng.random((count, 3), np.float32)
        expected = np.zeros((count, hidden))
        for token, choice in np.ndindex(chosen.shape):
            (_, gate), (_, down) = gates[chosen[token, choice]], downs[chosen[token, choice]]
            first, second = np.split(rows[token].astype(np.float64) @ gate.T, 2)
            expected[token] += weights[token, choice] * (silu(first) * second @ down.T)
        close(compute([rows, chosen, weights])["y"], expected, parts)


def unfit(**change: Any) -> Weight:
    stored, _ = weight("bf16", 32, 64)
    shape: dict[str, Any] = {"data": stored.data, "shape": stored.shape, "dtype": "BF16"}
    return Weight(**shape | change)


def test_only_matrices_that_can_be_read_where_they_lie_fit():
    assert OwnKernels.fit([weight(kind, 32, 64)[0] for kind in FORMATS])
    wide = np.zeros((32, 128), np.uint16)
    for wrong in (
        unfit(dtype="F16"),
        unfit(transposed=True),
        unfit(shape=(24, 64), data=np.zeros((24, 64), np.uint16)),
        unfit(shape=(32, 72), data=np.zeros((32, 72), np.uint16)),
        unfit(data=wide[:, ::2]),
    ):
        assert not OwnKernels.fit([weight("bf16", 32, 64)[0], wrong])
    odd = Weight(np.zeros((32, 24), np.uint8), (32, 48), bits=4, scale=np.zeros((32, 1, 1), np.float16))
    assert not OwnKernels.fit([odd])  # a group of 48 does not end where 32 values do


def test_where_our_own_kernels_do_not_run_the_reason_is_said(tmp_path: Path):
    def reason(**more: Any) -> NoOwnKernels:
        with pytest.raises(NoOwnKernels) as caught:
            open_own(ov.Core(), 3, **{"flags": TILES, "library": tmp_path / "own_kernels.so"} | more)
        return caught.value

    assert reason(wanted=False).reason == "turned off by SIGHTLINE_OWN_KERNELS"
    for flags in (TILES - {"amx_tile"}, AVX2 - {"fma"}, AVX2 | {"avx_vnni"}, frozenset[str]()):
        assert "AVX2 and nothing above it" in reason(flags=flags).reason
    assert reason(flags=AVX2).reason == "not built"
    missing = reason()
    assert (missing.reason, "apt install g++" in missing.way_out) == ("not built", True)
    (tmp_path / "own_kernels.so").write_bytes(b"built for something else")
    assert reason().reason == "own_kernels.so cannot be loaded here"


def test_without_a_compiler_the_build_says_so_in_a_line_and_leaves_no_old_library(tmp_path: Path):
    library = tmp_path / "own_kernels.so"
    library.write_bytes(b"of older sources")
    build = Path(__file__).parents[2] / "native" / "build.sh"
    result = subprocess.run(
        [build, sys.executable, library], env={**os.environ, "CXX": "no-such-compiler"}, capture_output=True, text=True
    )
    assert result.returncode == 0
    (line,) = result.stderr.splitlines()
    assert line.startswith("Our own kernels are not built: ")
    assert not library.exists()
