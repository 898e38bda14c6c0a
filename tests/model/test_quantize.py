"""Promises of quantising: bounded errors, the right tensors only, and a pack that is made once and then mapped."""

from __future__ import annotations

import errno
import os
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from threading import Barrier

import numpy as np
import pytest

from sightline.errors import CheckpointError
from sightline.model import packs as packs_module
from sightline.model import quantize
from sightline.model.calibrate import layer_inputs
from sightline.model.checkpoint import Checkpoint
from sightline.model.quantize import open_weights, plan
from sightline.model.rounding import Feedback, feedback, int4, int8
from sightline.model.weights import Weight, Weights, head_name
from sightline.types import Precision
from small_checkpoints import DEMO, EMBEDDING, FIXTURES, LAYER, Stored, change_tensors, copy, wide_experts

VARIANTS = ("dense-tied", "dense-untied", "moe-legacy", "moe")
QUANTISED: tuple[Precision, ...] = ("int8", "int4")
GATE_UP, DOWN = (f"model.language_model.layers.1.mlp.experts.{name}_proj" for name in ("gate_up", "down"))


def normal(seed: int, *shape: int) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)


def unpacked(packed: np.ndarray, scale: np.ndarray) -> np.ndarray:
    """int4 back to numbers by the documented order: the first value of a pair lies in the low half of its byte."""
    levels = np.stack([packed & 15, packed >> 4], -1).astype(np.int8)
    levels = np.where(levels > 7, levels - 16, levels).reshape(*packed.shape[:-1], -1)
    return (levels * scale.astype(np.float32)).reshape(*packed.shape[:-2], -1)


def values_of(weight: Weight) -> np.ndarray:
    if weight.scale is None:
        return weight.data.T if weight.transposed else weight.data
    if weight.bits == 4:
        return unpacked(weight.data, weight.scale)
    return weight.data.astype(np.float32) * weight.scale.astype(np.float32)


def packs(cache: Path) -> list[Path]:
    return sorted((cache / "packed").iterdir())


def test_int8_is_off_by_at_most_half_a_scale_and_uses_its_whole_range():
    values = normal(1, 64, 300) * np.logspace(-1, 2, 64, dtype=np.float32)[:, None]
    integers, scale = int8(values)
    assert integers.dtype == np.int8
    assert (integers.shape, scale.shape, scale.dtype) == ((64, 300), (64, 1), np.float16)
    wide = scale.astype(np.float32)
    assert np.all(np.abs(integers * wide - values) <= 0.5001 * wide)
    assert np.all(np.abs(integers.astype(int)).max(1) == 127)


@pytest.mark.parametrize("group", [32, 64, 128])
def test_int4_is_off_by_at_most_half_a_scale_and_a_whole_one_opposite_the_largest_value(group: int):
    values = normal(2, 16, 256)
    packed, scale = int4(values, group)
    assert (packed.shape, scale.shape) == ((16, 256 // group, group // 2), (16, 256 // group, 1))
    error = np.abs(unpacked(packed, scale) - values).reshape(16, -1, group)
    wide = scale.astype(np.float32)
    opposite = values.reshape(16, -1, group) / wide > 7.5
    assert np.all(error <= np.abs(wide) * np.where(opposite, 1.01, 0.501))
    assert opposite.mean() < 0.05


def correlated(seed: int, n: int, width: int) -> np.ndarray:
    """Rows as a layer has them: a few shared directions, noise, and two inputs thirty times larger than the others."""
    rng = np.random.default_rng(seed)
    rows = rng.standard_normal((n, 12)) @ rng.standard_normal((12, width)) + 0.5 * rng.standard_normal((n, width))
    rows[:, [7, width - 9]] *= 30
    return rows.astype(np.float32)


def cost(rows: np.ndarray, values: np.ndarray, share: Feedback | None) -> float:
    """What rounding `values` to 4 bits does to their product with `rows`."""
    return float(np.linalg.norm(rows @ (unpacked(*int4(values, 64, share)) - values).T))


@pytest.mark.parametrize("width", [256, 640])
def test_with_feedback_int4_does_much_less_to_products_than_plain_rounding_and_no_harm_to_unlike_ones(width: int):
    values, rows, other = normal(4, 96, width), correlated(5, 1800, width), correlated(6, 300, width)
    share = feedback(rows[:1500])
    assert cost(rows[1500:], values, share) <= 0.7 * cost(rows[1500:], values, None)
    assert cost(other, values, share) <= 1.15 * cost(other, values, None)


def test_feedback_from_rows_that_say_nothing_is_plain_rounding():
    values = normal(6, 32, 640)
    plain = int4(values, 128)
    nothing = np.zeros((9, 640), np.float32)
    for rows in (nothing[:0], nothing, nothing + np.nan):
        for found, expected in zip(int4(values, 128, feedback(rows)), plain, strict=True):
            np.testing.assert_array_equal(found, expected)


def test_feedback_survives_an_input_that_never_fires_and_one_that_dwarfs_all_others():
    rows = correlated(7, 400, 256)
    rows[:, 3] = 0
    rows[0, 11] = 1e6
    values = normal(8, 16, 256)
    plain, found = (unpacked(*int4(values, 64, share)) for share in (None, feedback(rows)))
    assert np.linalg.norm(found - values) <= 2 * np.linalg.norm(plain - values)


def test_int4_puts_the_first_value_of_a_pair_in_the_low_half_of_its_byte():
    packed, scale = int4(np.array([[-8, 1, 7, -1]], np.float32), 4)
    assert scale.item() == 1
    assert packed.tolist() == [[[0x18, 0xF7]]]


def test_rows_of_zeros_stay_zeros():
    for integers, scale in (int8(np.zeros((3, 64), np.float32)), int4(np.zeros((3, 64), np.float32), 32)):
        assert not integers.any()
        assert np.all(np.isfinite(scale) & (scale > 0))


@pytest.mark.parametrize("size", [1e-38, 1e-8, 1e-6, 1e-4])
def test_tiny_values_lose_less_than_the_smallest_scale_and_never_become_nan(size: float):
    values = normal(3, 8, 64) * np.float32(size)
    for found in (values_of_pair(int8(values)), unpacked(*int4(values, 32))):
        assert np.all(np.isfinite(found))
        assert np.abs(found - values).max() <= 2.0**-14


def values_of_pair(pair: tuple[np.ndarray, np.ndarray]) -> np.ndarray:
    return pair[0].astype(np.float32) * pair[1].astype(np.float32)


@pytest.mark.parametrize("precision", QUANTISED)
@pytest.mark.parametrize("variant", VARIANTS)
def test_norms_biases_position_tables_routers_and_the_patch_embedding_are_never_quantised(
    variant: str, precision: Precision
):
    checkpoint = Checkpoint.open(FIXTURES / variant / "checkpoint")
    packed = {item.tensor.name for item in plan(checkpoint, precision)}
    kept = set(checkpoint.tensors) - packed
    spared = ("norm.weight", "norm1.weight", "norm2.weight", "layernorm.weight", ".bias", "patch_embed.proj.weight")
    for name in kept:
        assert name.endswith((*spared, "pos_embed.weight", ".mlp.gate.weight")), name
    routers = {name for name in kept if name.endswith(".mlp.gate.weight")}
    assert len(routers) == (checkpoint.config.text.layers if checkpoint.config.text.experts else 0)
    assert "model.visual.pos_embed.weight" in kept
    for name in packed:
        assert "norm" not in name
        assert len(checkpoint.tensors[name].shape) >= 2


def test_int4_is_for_the_language_models_layers_but_the_first_and_their_value_matrices_in_the_widest_group_that_fits():
    items = plan(Checkpoint.open(DEMO), "int4")
    for item in items:
        width, name = item.shape[-1], item.tensor.name
        layers = name.startswith("model.language_model.layers.") and not name.startswith(LAYER)
        if layers and not name.endswith("v_proj.weight"):
            assert (item.bits, item.group) == (4, next(g for g in (128, 64, 32) if width % g == 0))
        else:
            assert (item.bits, item.group) == (8, width)
    assert {item.bits for item in items} == {4, 8}


@pytest.mark.parametrize("variant", ["dense-tied", "dense-untied"])
def test_only_a_long_output_head_gets_a_copy_in_4_bits_and_only_in_int4(
    tmp_path: Path, variant: str, monkeypatch: pytest.MonkeyPatch
):
    checkpoint = Checkpoint.open(copy(variant, tmp_path / "model"))
    name, vocab, width = head_name(checkpoint), checkpoint.config.text.vocab, checkpoint.config.text.hidden
    monkeypatch.setattr(quantize, "weight_group", lambda width, kind: width // 2 if kind == "int4" else width)
    assert not any(item.tensor.name.endswith(".scan") for item in plan(checkpoint, "int4"))
    monkeypatch.setattr(quantize, "SCANNED_ROWS", vocab)
    assert not any(item.tensor.name.endswith(".scan") for item in plan(checkpoint, "int8"))
    weights = open_weights(checkpoint, "int4", tmp_path)
    scan = weights.scan(name, vocab, width)
    assert scan and weights.is_scanned(name)
    stored = checkpoint.tensors[name].float32()
    assert weights.matrix(name, vocab, width).bits == 8
    assert np.linalg.norm(values_of(scan) - stored) <= 0.15 * np.linalg.norm(stored)


def turn_experts(tensors: dict[str, Stored]) -> None:
    """From 5.x's layout [E, out, in] to 4.57's [E, in, out]."""
    for name, (dtype, shape, raw) in list(tensors.items()):
        if ".experts." in name:
            turned = np.frombuffer(raw, np.float32).reshape(shape).transpose(0, 2, 1)
            tensors[name] = (dtype, turned.shape, np.ascontiguousarray(turned).tobytes())


@pytest.mark.parametrize(
    ("precision", "inner"), [("exact", 96), ("exact", 48), ("int8", 96), ("int8", 48), ("int4", 160)]
)
def test_the_same_experts_in_either_layout_are_the_same_numbers_even_where_one_tensor_is_square(
    tmp_path: Path, precision: Precision, inner: int
):
    new = open_weights(Checkpoint.open(wide_experts(tmp_path / "new", "moe", inner)), precision, tmp_path)
    change_tensors(wide_experts(tmp_path / "old", "moe", inner), turn_experts)
    old = open_weights(Checkpoint.open(tmp_path / "old"), precision, tmp_path)
    for name, out, width in ((GATE_UP, 2 * inner, 96), (DOWN, 96, inner)):
        for expert in range(8):
            mine, theirs = (values_of(w.expert(name, expert, out, width)) for w in (new, old))
            np.testing.assert_array_equal(mine, theirs)
            stored = new.checkpoint.tensors[name].data[expert]
            assert np.linalg.norm(mine - stored) <= 0.15 * np.linalg.norm(stored)


@pytest.mark.parametrize("precision", QUANTISED)
def test_what_is_mapped_from_a_pack_is_close_to_the_stored_weight(tmp_path: Path, precision: Precision):
    exact, packed = Weights(Checkpoint.open(DEMO)), open_weights(Checkpoint.open(DEMO), precision, tmp_path)
    for item in plan(exact.checkpoint, precision):
        stored = item.tensor.float32()
        found = values_of(packed.matrix(item.tensor.name, *item.shape))
        assert np.linalg.norm(found - stored) <= (0.02 if item.bits == 8 else 0.15) * np.linalg.norm(stored)
    ids = np.array([0, 5, 1023], np.int32)
    width = exact.checkpoint.config.text.hidden
    rows = exact.rows(EMBEDDING, ids, width)
    assert np.abs(packed.rows(EMBEDDING, ids, width) - rows).max() <= 0.005 * np.abs(rows).max()


def test_an_int4_pack_does_half_of_what_plain_rounding_does_to_what_the_demo_models_matrices_multiply(tmp_path: Path):
    checkpoint = Checkpoint.open(DEMO)
    packed = open_weights(checkpoint, "int4", tmp_path)
    groups = {item.tensor.name: item.group for item in plan(checkpoint, "int4") if item.bits == 4}
    found = plain = 0.0
    for inputs in layer_inputs(checkpoint, 1):
        for name, (rows,) in inputs.items():
            if name not in groups:
                continue
            stored = checkpoint.tensors[name].float32()
            rounded = values_of(packed.matrix(name, *stored.shape)), unpacked(*int4(stored, groups[name]))
            ours, theirs = (np.linalg.norm(rows @ (each - stored).T) for each in rounded)
            assert ours <= theirs, name
            size = np.linalg.norm(rows @ stored.T)
            found, plain = found + (ours / size) ** 2, plain + (theirs / size) ** 2
    assert 0 < found <= 0.5 * plain


def test_exact_takes_the_weights_as_stored_and_writes_nothing(tmp_path: Path):
    weights = open_weights(Checkpoint.open(DEMO), "exact", tmp_path)
    matrix = weights.matrix(EMBEDDING, weights.checkpoint.config.text.vocab, weights.checkpoint.config.text.hidden)
    assert matrix.scale is None
    assert np.shares_memory(matrix.data, weights.checkpoint.maps[0])
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("precision", QUANTISED)
def test_a_second_start_maps_the_pack_and_writes_nothing(tmp_path: Path, precision: Precision):
    checkpoint = Checkpoint.open(DEMO)
    heard: list[float] = []
    open_weights(checkpoint, precision, tmp_path, progress=lambda _what, share: heard.append(share))
    (path,) = packs(tmp_path)
    assert path.name == f"{checkpoint.digest()}-{precision}-r{quantize.RECIPE[precision]}.safetensors"
    assert heard == sorted(heard)
    assert heard[-1] == 1.0
    before = path.stat()
    heard.clear()
    again = open_weights(Checkpoint.open(DEMO), precision, tmp_path, progress=lambda _what, share: heard.append(share))
    after = path.stat()
    assert (before.st_ino, before.st_mtime_ns) == (after.st_ino, after.st_mtime_ns)
    assert heard == []
    assert packs(tmp_path) == [path]
    width = checkpoint.config.text.hidden
    assert isinstance(again.matrix(EMBEDDING, checkpoint.config.text.vocab, width).data, np.memmap)


def test_a_vision_tower_that_stays_as_stored_is_neither_packed_nor_taken_from_a_fuller_pack(tmp_path: Path):
    checkpoint, name = Checkpoint.open(DEMO), "model.visual.blocks.0.attn.proj.weight"
    width = checkpoint.config.vision.hidden
    slim = open_weights(checkpoint, "int8", tmp_path / "slim", stored_vision=True)
    full = open_weights(checkpoint, "int8", tmp_path / "full")
    assert packs(tmp_path / "slim")[0].stat().st_size < packs(tmp_path / "full")[0].stat().st_size
    again = open_weights(checkpoint, "int8", tmp_path / "full", stored_vision=True)
    assert [w.matrix(name, width, width).dtype for w in (slim, full, again)] == ["BF16", "", "BF16"]
    assert slim.matrix(EMBEDDING, checkpoint.config.text.vocab, checkpoint.config.text.hidden).bits == 8


def test_packing_again_gives_the_same_bytes_whatever_the_threads(tmp_path: Path):
    checkpoint = Checkpoint.open(DEMO)
    for name, threads in (("one", 1), ("four", 4)):
        open_weights(checkpoint, "int4", tmp_path / name, threads)
    (one,), (four,) = packs(tmp_path / "one"), packs(tmp_path / "four")
    assert one.read_bytes() == four.read_bytes()


def test_a_changed_weight_gets_a_pack_of_its_own(tmp_path: Path):
    folder = copy("dense-tied", tmp_path / "model")
    open_weights(Checkpoint.open(folder), "int8", tmp_path)
    change_tensors(folder, lambda t: t.update({EMBEDDING: (t[EMBEDDING][0], t[EMBEDDING][1], bytes(1024 * 32 * 4))}))
    changed = open_weights(Checkpoint.open(folder), "int8", tmp_path)
    assert len(packs(tmp_path)) == 2
    assert not changed.rows(EMBEDDING, np.arange(1024, dtype=np.int32), 32).any()


def cut(path: Path) -> None:
    os.truncate(path, path.stat().st_size // 2)


def empty(path: Path) -> None:
    os.truncate(path, 0)


def foreign(path: Path) -> None:
    path.write_bytes((DEMO / "model.safetensors").read_bytes())


def scribbled(path: Path) -> None:
    path.write_bytes(b"\xff" * 100_000)


@pytest.mark.parametrize("damage", [cut, empty, foreign, scribbled])
def test_a_damaged_or_foreign_pack_is_made_anew(tmp_path: Path, damage):
    checkpoint = Checkpoint.open(FIXTURES / "dense-tied" / "checkpoint")
    open_weights(checkpoint, "int8", tmp_path)
    (path,) = packs(tmp_path)
    whole = path.read_bytes()
    damage(path)
    open_weights(checkpoint, "int8", tmp_path)
    assert path.read_bytes() == whole
    assert packs(tmp_path) == [path]


def test_a_full_disk_is_one_clear_error_and_leaves_nothing_behind(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(packs_module.os, "posix_fallocate", full)
    with pytest.raises(CheckpointError, match=r"GB\): No space left on device; free some space or .* elsewhere"):
        open_weights(Checkpoint.open(DEMO), "int8", tmp_path)
    assert packs(tmp_path) == []


def test_a_cache_folder_that_cannot_be_made_is_one_clear_error(tmp_path: Path):
    (tmp_path / "cache").write_text("a file")
    with pytest.raises(CheckpointError, match=r"cannot keep the packed weights .* SIGHTLINE_CACHE_DIR"):
        open_weights(Checkpoint.open(DEMO), "int8", tmp_path / "cache")


def test_two_starts_that_pack_at_once_both_get_whole_weights(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    both_have_begun = Barrier(2, timeout=10)
    fill = quantize._fill

    def fill_together(*arguments: object) -> None:
        both_have_begun.wait()
        fill(*arguments)

    monkeypatch.setattr(quantize, "_fill", fill_together)

    def start(_: int) -> np.ndarray:
        weights = open_weights(Checkpoint.open(FIXTURES / "dense-tied" / "checkpoint"), "int8", tmp_path)
        return weights.rows(EMBEDDING, np.arange(1024, dtype=np.int32), 32)

    with ThreadPoolExecutor(2) as pool:
        first, second = pool.map(start, range(2))
    np.testing.assert_array_equal(first, second)
    assert first.any()
    assert len(packs(tmp_path)) == 1


def test_a_new_recipe_leaves_old_packs_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    checkpoint = Checkpoint.open(FIXTURES / "dense-tied" / "checkpoint")
    open_weights(checkpoint, "int8", tmp_path)
    monkeypatch.setitem(quantize.RECIPE, "int8", quantize.RECIPE["int8"] + 1)
    open_weights(checkpoint, "int8", tmp_path)
    assert len(packs(tmp_path)) == 2
