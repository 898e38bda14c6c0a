"""Promises of the arithmetic: every precision gets its kernels, and a slow path never stays unnamed."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import cache
from pathlib import Path

import numpy as np
import openvino as ov
import pytest
from openvino import opset15 as op

from own_kernels import WAYS, needs_own
from sightline.model import graph as g
from sightline.model import kernels as k
from sightline.model.checkpoint import Checkpoint
from sightline.model.config import ModelConfig
from sightline.model.kernels import Kernels, activation_group, choose, slow_paths, weight_group
from sightline.model.language import LanguageModel
from sightline.model.machine import read_machine
from sightline.model.quantize import open_weights
from sightline.model.vision import VisionTower
from sightline.model.weights import Weights
from sightline.types import Precision
from small_checkpoints import DEMO, FIXTURES, wide_experts

GROUP = "DYNAMIC_QUANTIZATION_GROUP_SIZE"
needs_int8 = pytest.mark.skipif(not read_machine().multiplies_int8, reason="this CPU has no sums of 8-bit products")
QUANTISED: tuple[Precision, ...] = ("int8", "int4")


Towers = tuple[ov.CompiledModel, ov.CompiledModel]  # language, vision


@cache
def demo() -> ModelConfig:
    return ModelConfig.load(DEMO)


@pytest.fixture(scope="module")
def towers(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Towers]:
    """Both compiled towers of a checkpoint in a precision, made once each."""
    packs = tmp_path_factory.mktemp("packs")

    @cache
    def compiled(precision: Precision, folder: Path = DEMO, own: bool = False) -> Towers:
        checkpoint = Checkpoint.open(folder)
        kernels = choose(precision, 1, checkpoint.config, own)
        weights = open_weights(checkpoint, precision, packs, stored_vision=kernels.stored_vision)
        made = [tower(checkpoint.config, weights, kernels) for tower in (LanguageModel, VisionTower)]
        return made[0].compiled, made[1].compiled

    return compiled


def plugin(precision: Precision, config: ModelConfig | None = None) -> Kernels:
    return choose(precision, 1, config or demo(), own=False)


def named(kernels: Kernels, towers: Towers, config: ModelConfig | None = None) -> list[str]:
    return list(slow_paths(kernels, config or demo(), *towers))


@pytest.mark.parametrize(
    ("width", "group"), [(2048, 128), (192, 64), (96, 32), (48, 48), (12, 12), (9728, 128), (6144, 128)]
)
def test_int4_weights_share_scales_in_the_widest_group_that_divides_a_row(width: int, group: int):
    assert weight_group(width, "int4") == group
    assert weight_group(width, "int8") == width


@pytest.mark.parametrize(
    ("groups", "most", "group"),
    [([128, 128], 128, 128), ([2048, 6144], 128, 128), ([192, 512], 128, 64), ([128, 32], 128, 32), ([12, 32], 128, 4)],
)
def test_activations_share_scales_in_a_power_of_two_that_divides_every_weight_group(
    groups: list[int], most: int, group: int
):
    assert activation_group(groups, most) == group


@pytest.mark.parametrize("own", WAYS)
def test_exact_computes_in_float32_and_quantises_nothing(own: bool):
    kernels = choose("exact", 1, demo(), own)
    for properties in (kernels.language, kernels.vision):
        assert properties["INFERENCE_PRECISION_HINT"] == "f32"
        assert properties[GROUP] == "0"
    assert kernels.language["KV_CACHE_PRECISION"] == "f32"
    assert not kernels.bf16_attention


@pytest.mark.parametrize("own", WAYS)
@pytest.mark.parametrize("precision", QUANTISED)
def test_quantised_precisions_keep_a_float32_stream_and_shrink_the_kv_cache(precision: Precision, own: bool):
    kernels = choose(precision, 1, demo(), own)
    assert kernels.language["INFERENCE_PRECISION_HINT"] == "f32"
    assert kernels.language["KV_CACHE_PRECISION"] in {"int8": ("bf16", "f16"), "int4": ("u8",)}[precision]
    assert int(kernels.language[GROUP]) >= 16


def test_exact_has_its_fused_kernels_too(towers: Callable[..., Towers]):
    assert named(plugin("exact"), towers("exact")) == []


@needs_own
@pytest.mark.parametrize("precision", ["exact", *QUANTISED])
def test_the_canary_is_silent_where_our_own_kernels_read_every_matrix(
    precision: Precision, towers: Callable[..., Towers]
):
    kernels = choose(precision, 1, demo())
    assert kernels.own
    assert str(kernels) == f"{precision}, 1 threads, our own kernels ({kernels.own.units})"
    assert named(kernels, towers(precision, own=True)) == []


@needs_own
def test_the_canary_counts_the_matrices_that_our_own_kernels_leave_to_the_plugin(towers: Callable[..., Towers]):
    folder = FIXTURES / "dense-tied" / "checkpoint"  # stored as float32, with a vision tower of 31 matrices
    config = ModelConfig.load(folder)
    said = named(choose("exact", 1, config), towers("exact", folder, own=True), config)
    language = 7 * config.text.layers + 1
    assert said == [
        f"{tower}: {count} matrices have shapes or types that our own kernels do not read"
        for tower, count in (("language model", language), ("vision tower", 31))
    ]


@needs_own
def test_the_canary_notices_when_our_own_kernels_compute_nothing(towers: Callable[..., Towers]):
    said = named(choose("exact", 1, demo()), towers("exact"))
    assert said[0].startswith(f"language model: {7 * demo().text.layers + 1} matrices")


@needs_own
def test_a_mixture_of_experts_leaves_only_its_routers_to_the_plugin(tmp_path: Path, towers: Callable[..., Towers]):
    folder = wide_experts(tmp_path / "model", "moe")
    config = ModelConfig.load(folder)
    said = named(choose("int8", 1, config), towers("int8", folder, own=True), config)
    assert not [line for line in said if line.startswith("language model")]


def test_kernels_say_in_the_log_why_they_are_not_our_own():
    assert str(plugin("int8")) == (
        "int8, 1 threads, the plugin's kernels (our own: turned off by SIGHTLINE_OWN_KERNELS)"
    )


@needs_int8
@pytest.mark.parametrize("precision", QUANTISED)
def test_the_canary_is_silent_where_the_kernels_are_the_right_ones(precision: Precision, towers: Callable[..., Towers]):
    assert named(plugin(precision), towers(precision)) == []


@needs_int8
@pytest.mark.parametrize(("precision", "group"), [("int8", "0"), ("int8", "7"), ("int4", "0"), ("int4", "256")])
def test_the_canary_names_activations_that_are_not_quantised(
    precision: Precision, group: str, towers: Callable[..., Towers]
):
    right = plugin(precision)
    wrong = replace(right, language={**right.language, GROUP: group})
    (complaint,) = named(wrong, towers(precision))
    widths = ", ".join(map(str, sorted({demo().text.hidden, demo().text.intermediate})))
    assert complaint.startswith(f"language model: activations of {widths} values are not quantised to int8")


def test_the_canary_names_matrices_that_run_uncompressed(towers: Callable[..., Towers]):
    said = named(plugin("int8"), towers("exact"))
    count = 7 * demo().text.layers + 1
    assert f"language model: 0 of {count} matrices run with i8 weights" in said
    assert any(line.startswith("vision tower: 0 of ") for line in named(plugin("int4"), towers("exact")))


def test_int8_computes_the_vision_tower_from_stored_weights_where_the_cpu_has_bf16(towers: Callable[..., Towers]):
    kernels = plugin("int8")
    assert kernels.stored_vision == (kernels.vision["INFERENCE_PRECISION_HINT"] == "bf16")
    packed = replace(kernels, stored_vision=not kernels.stored_vision)
    assert any(line.startswith("vision tower: ") for line in named(packed, towers("int8")))


def test_the_canary_knows_how_many_matrices_a_mixture_of_experts_has(towers: Callable[..., Towers]):
    folder = FIXTURES / "moe" / "checkpoint"
    config = ModelConfig.load(folder)
    said = named(plugin("int8", config), towers("int8", folder), config)
    assert not any(line.startswith("language model") and "matrices" in line for line in said)


def test_the_canary_counts_the_fused_kernels_of_the_language_model(
    towers: Callable[..., Towers], monkeypatch: pytest.MonkeyPatch
):
    """A norm of absolute values computes the same and does not fuse."""
    checkpoint = Checkpoint.open(FIXTURES / "dense-tied" / "checkpoint")
    monkeypatch.setattr(g, "rms_norm", unfused_norm)
    config, kernels = checkpoint.config, plugin("exact", checkpoint.config)
    language = LanguageModel(config, Weights(checkpoint), kernels).compiled
    vision = towers("exact", checkpoint.folder)[1]
    assert f"language model: 0 RMS kernels, expected {4 * config.text.layers + 1}" in named(
        kernels, (language, vision), config
    )


def unfused_norm(x: g.Node, gain: np.ndarray, eps: float) -> g.Node:
    mean = op.reduce_mean(op.abs(op.multiply(x, x)), g.i32(-1), keep_dims=True)
    return op.multiply(op.divide(x, op.sqrt(op.add(mean, g.f32(eps)))), g.f32(gain))


def heavy() -> tuple[k.Kernels, ov.InferRequest]:
    """Seconds of work in many small pieces."""
    x = y = g.parameter("x", ov.Type.f32, (-1, 1024))
    weight = g.f32(np.eye(1024, dtype=np.float32))
    for _ in range(64):
        y = op.relu(op.matmul(y, weight, False, True))
    exact: Mapping[str, str] = {"INFERENCE_PRECISION_HINT": "f32"}
    model = ov.Model([g.result(y, "y")], [x], "heavy")
    kernels = choose("exact", 1, demo())
    request = kernels.compile(model, exact).create_infer_request()
    request.set_tensor("x", ov.Tensor(np.ones((2048, 1024), np.float32)))
    return kernels, request


def test_an_inference_nobody_wants_any_more_stops_before_its_end():
    kernels, request = heavy()
    with pytest.raises(k.Cancelled):
        kernels.run(request, cancelled=lambda: True)
