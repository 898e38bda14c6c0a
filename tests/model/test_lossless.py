"""Promises of weights in 12 bits: every bit comes back, a product stays the same, and a pack that cannot be kept, or
cannot be trusted, costs nobody an answer."""

from __future__ import annotations

import errno
import os
from collections.abc import Callable
from pathlib import Path

import numpy as np
import openvino as ov
import pytest
from numpy.typing import NDArray

from own_kernels import TILES_OR_NOT, needs_own
from sightline.model import graph as g
from sightline.model import lossless, packs
from sightline.model.checkpoint import Checkpoint, to_float32
from sightline.model.kernels import choose
from sightline.model.language import LanguageModel, Slice
from sightline.model.load import load
from sightline.model.lossless import BLOCK, BLOCK_BYTES, open_lossless
from sightline.model.own import OwnKernels
from sightline.model.positions import token_positions
from sightline.model.weights import EMBEDDING, Weight, Weights
from sightline.settings import EngineSettings
from small_checkpoints import DEMO, LAYER, Stored, change_tensors, copy, read_stored, wide_experts, write_stored

GATE_UP, DOWN = LAYER + "mlp.experts.gate_up_proj", LAYER + "mlp.experts.down_proj"
Bits = NDArray[np.uint16]


def bf16(values: NDArray[np.float32]) -> Bits:
    return (values.view(np.uint32) >> 16).astype(np.uint16)


def gaussian(rows: int, width: int) -> Bits:
    return bf16(np.random.default_rng([rows, width]).standard_normal((rows, width), np.float32) * np.float32(0.05))


def with_oddities(rows: int, width: int) -> Bits:
    """Zeros of both signs, denormals, infinities, NaN and outliers among ordinary weights; the last at the ends."""
    bits, rng = gaussian(rows, width), np.random.default_rng(1)
    odd = np.array([0, 0x8000, 1, 0x807F, 0x7F80, 0xFF80, 0x7FC1, 0x4E80, 0x1234, 0xD00D], np.uint16)
    bits.reshape(-1)[rng.choice(bits.size, 3 * len(odd), replace=False)] = np.tile(odd, 3)
    bits[0, 0], bits[-1, -1], bits[rows // 2] = 0x5A5A, 0xDADA, 0
    return bits


def all_equal(rows: int, width: int) -> Bits:
    return np.full((rows, width), 0xBF81, np.uint16)


def with_outliers(rows: int, width: int) -> Bits:
    """Finite ones: six rows have some, one of them as many as fit in a block."""
    values, rng = gaussian(rows, width), np.random.default_rng(2)
    for row in rng.choice(rows, 5, replace=False):
        columns = rng.choice(width, 3, replace=False)
        values[row, columns] = bf16(np.float32(2.0) ** rng.integers(-90, 5, 3).astype(np.float32))
    values[rows - 1, ::50] = bf16(np.float32([1e-30]))
    return values


def coded(bits: Bits) -> Weight:
    """The matrix in 12 bits, by the code that packs a checkpoint."""
    rows, width = bits.shape
    counts = np.bincount(bits.reshape(-1) >> 8, minlength=256)
    book = np.argsort(-counts, kind="stable")[:16].astype(np.uint8)
    exceptions = np.count_nonzero(~np.isin(bits >> 8, book))
    out = np.zeros((rows, width // BLOCK * BLOCK_BYTES), np.uint8)
    rest = np.zeros(64 + 4 * (rows + 16) // 64 * 64 + 4 * exceptions, np.uint8)
    lossless.code_matrix(bits, book, out, rest)
    return Weight(out.reshape(rows, -1, BLOCK_BYTES), (rows, width), "BF16", bits=12, rest=rest)


def exceptions_of(weight: Weight) -> tuple[Bits, NDArray[np.int64], NDArray[np.int64]]:
    """The listed values, with their rows and columns, by the documented layout."""
    rows, _ = weight.shape
    starts = weight.rest[64 : 64 + 4 * (rows + 1)].view(np.int32)
    listed = weight.rest[64 + -(-(rows + 1) // 16) * 64 :][: 4 * starts[-1]].view(np.uint16).reshape(-1, 2)
    return listed[:, 1], np.repeat(np.arange(rows), np.diff(starts)), listed[:, 0].astype(np.int64)


def decoded(weight: Weight) -> Bits:
    """The stored bits again, weight by weight as the documented layout has them."""
    rows, width = weight.shape
    place = np.arange(64)  # of a byte within its half
    lane, step = np.divmod(place, 16)
    column = np.where(step < 8, 8 * lane + step, 32 + 8 * lane + step - 8)
    bits = np.zeros((rows, width // BLOCK, 2, 64), np.uint16)
    codes = weight.data[..., 128:]
    for half, code in enumerate((codes & 15, codes >> 4)):
        bits[:, :, half, column] = weight.rest[code].astype(np.uint16) << 8 | weight.data[..., 64 * half :][..., :64]
    bits = bits.reshape(rows, width)
    values, row, column = exceptions_of(weight)
    bits[row, column] = values
    return bits


def packed_in(cache: Path) -> list[Path]:
    return sorted((cache / "packed").iterdir())


every_matrix = pytest.mark.parametrize("make", [gaussian, with_oddities, all_equal, with_outliers])


@every_matrix
@pytest.mark.parametrize(("rows", "width"), [(16, 128), (48, 384), (272, 2176)])
def test_every_bit_of_every_weight_comes_back(make: Callable[[int, int], Bits], rows: int, width: int):
    bits = make(rows, width)
    weight = coded(bits)
    assert weight.data.nbytes == bits.size * 3 // 2
    np.testing.assert_array_equal(decoded(weight), bits)


def test_exceptions_are_exactly_the_weights_whose_high_byte_is_not_among_the_16_most_frequent():
    bits = with_oddities(48, 384)
    values, row, column = exceptions_of(coded(bits))
    counts = np.bincount(bits.reshape(-1) >> 8, minlength=256)
    rare = ~np.isin(bits >> 8, np.argsort(-counts, kind="stable")[:16])
    np.testing.assert_array_equal(np.stack([row, column]), np.nonzero(rare))
    np.testing.assert_array_equal(values, bits[rare])
    assert {0x5A5A, 0xDADA, 0x4E80, 0xFF80} <= set(values.tolist())
    assert not exceptions_of(coded(all_equal(48, 384)))[0].size


def test_the_language_models_matrices_come_in_12_bits_and_all_else_as_stored(tmp_path: Path):
    checkpoint, heard = Checkpoint.open(DEMO), list[float]()
    weights = open_lossless(checkpoint, tmp_path, 2, lambda _what, share: heard.append(share))
    names = [tensor.name for tensor in lossless.matrices(checkpoint)]
    assert names
    assert heard == sorted(heard)
    assert heard[-1] == 1.0
    for name, tensor in checkpoint.tensors.items():
        if len(tensor.shape) == 2 and name.endswith(".weight"):
            weight = weights.matrix(name, *tensor.shape)
            assert weight.bits == (12 if name in names else 0), name
            np.testing.assert_array_equal(decoded(weight) if weight.bits else weight.data, tensor.data)
    assert not [name for name in names if "visual" in name or "norm" in name]
    assert packed_in(tmp_path)[0].name == f"{checkpoint.digest()}-exact-r{lossless.RECIPE}.safetensors"


def test_rows_of_a_table_are_read_as_stored_though_as_a_head_it_comes_in_12_bits(tmp_path: Path):
    checkpoint, ids = wide_head(tmp_path / "model"), np.array([3, 1000], np.int32)
    weights = open_lossless(checkpoint, tmp_path)
    assert weights.is_lossless(EMBEDDING)
    np.testing.assert_array_equal(decoded(weights.matrix(EMBEDDING, 1024, 128)), checkpoint.tensors[EMBEDDING].data)
    rows = weights.rows(EMBEDDING, ids, 128)
    np.testing.assert_array_equal(rows, Weights(checkpoint).rows(EMBEDDING, ids, 128))
    weights.release(EMBEDDING)
    np.testing.assert_array_equal(weights.rows(EMBEDDING, ids, 128), rows)


def wide_head(folder: Path) -> Checkpoint:
    """Its tied table has rows of 128 values. Not a whole model: nothing else of it fits."""
    copy("dense-tied", folder)
    change_tensors(folder, lambda t: t.update({EMBEDDING: ("BF16", (1024, 128), gaussian(1024, 128).tobytes())}))
    return Checkpoint.open(folder)


def as_bf16(tensors: dict[str, Stored]) -> None:
    for name, (dtype, shape, raw) in list(tensors.items()):
        assert dtype == "F32"
        tensors[name] = "BF16", shape, bf16(np.frombuffer(raw, np.float32)).tobytes()


def experts(folder: Path) -> Checkpoint:
    """A mixture whose experts have rows of 96 values on the way in, which stay as stored, and 128 on the way out."""
    change_tensors(wide_experts(folder, "moe", 128), as_bf16)
    return Checkpoint.open(folder)


def test_every_expert_has_a_book_and_exceptions_of_its_own(tmp_path: Path):
    checkpoint = experts(tmp_path / "model")
    weights = open_lossless(checkpoint, tmp_path)
    for index in range(8):
        down, both = weights.expert(DOWN, index, 96, 128), weights.expert(GATE_UP, index, 256, 96)
        assert (down.bits, both.bits) == (12, 0)
        np.testing.assert_array_equal(decoded(down), checkpoint.tensors[DOWN].data[index])


def test_a_matrix_with_many_exceptions_stays_as_stored_and_is_not_counted_again(tmp_path: Path):
    name = LAYER + "self_attn.o_proj.weight"
    folder = copy("dense-tied", tmp_path / "model")
    shape = Checkpoint.open(folder).tensors[name].shape
    assert shape[1] % BLOCK == 0
    scattered = np.random.default_rng(0).integers(0, 1 << 16, shape, np.uint16)
    change_tensors(folder, lambda t: t.update({name: ("BF16", shape, scattered.tobytes())}))
    heard: list[float] = []
    for _ in range(2):
        weights = open_lossless(Checkpoint.open(folder), tmp_path, 1, lambda _what, share: heard.append(share))
        assert weights.matrix(name, *shape).bits == 0
    assert heard[-1] == 1.0
    assert heard.count(1.0) == 1


def cut(path: Path) -> None:
    os.truncate(path, path.stat().st_size // 2)


def foreign(path: Path) -> None:
    path.write_bytes((DEMO / "model.safetensors").read_bytes())


def change_rest(path: Path, at: int, value: int) -> None:
    tensors = read_stored(path)
    name = next(name for name in tensors if name.endswith(".rest"))
    dtype, shape, raw = tensors[name]
    tensors[name] = dtype, shape, raw[:at] + value.to_bytes(4, "little") + raw[at + 4 :]
    write_stored(path, tensors)


def exceptions_from_elsewhere(path: Path) -> None:
    change_rest(path, 64, 1 << 20)


def more_exceptions_than_there_are(path: Path) -> None:
    tensors = read_stored(path)
    rows = next(shape[0] for name, (_, shape, _) in tensors.items() if not name.endswith(".rest"))
    change_rest(path, 64 + 4 * rows, 1 << 20)


@pytest.mark.parametrize("damage", [cut, foreign, exceptions_from_elsewhere, more_exceptions_than_there_are])
def test_a_damaged_or_foreign_pack_is_made_anew(tmp_path: Path, damage: Callable[[Path], None]):
    open_lossless(Checkpoint.open(DEMO), tmp_path)
    (path,) = packed_in(tmp_path)
    whole = path.read_bytes()
    damage(path)
    assert path.read_bytes() != whole
    open_lossless(Checkpoint.open(DEMO), tmp_path)
    assert path.read_bytes() == whole
    assert packed_in(tmp_path) == [path]


def test_a_second_start_maps_the_pack_and_writes_nothing(tmp_path: Path):
    open_lossless(Checkpoint.open(DEMO), tmp_path)
    (path,) = packed_in(tmp_path)
    before, heard = path.stat().st_mtime_ns, list[float]()
    open_lossless(Checkpoint.open(DEMO), tmp_path, 1, lambda _what, share: heard.append(share))
    assert (path.stat().st_mtime_ns, heard, packed_in(tmp_path)) == (before, [], [path])


@needs_own
def test_a_full_disk_goes_on_with_the_stored_weights_and_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(packs.os, "posix_fallocate", full)
    (said,) = load(DEMO, EngineSettings(precision="exact", threads=1, cache_dir=tmp_path)).slow_paths
    assert said.startswith("weights are read in 16 bits instead of 12: ")
    assert said.endswith("No space left on device; free some space or point SIGHTLINE_CACHE_DIR elsewhere")
    assert packed_in(tmp_path) == []


@needs_own
def test_a_cache_folder_that_cannot_be_written_is_no_obstacle_either(tmp_path: Path):
    (tmp_path / "cache").write_text("a file")
    model = load(DEMO, EngineSettings(precision="exact", threads=1, cache_dir=tmp_path / "cache"))
    (said,) = model.slow_paths
    assert "SIGHTLINE_CACHE_DIR" in said


@needs_own
@pytest.mark.parametrize("make", [gaussian, with_outliers])
@pytest.mark.parametrize("width", [128, 384, 2176])
@pytest.mark.parametrize("tiles", TILES_OR_NOT)
def test_a_product_is_that_of_the_stored_matrix(make: Callable[[int, int], Bits], width: int, tiles: bool):
    core = ov.Core()
    own, bits = OwnKernels(core, 3, tiles=tiles), make(80, width)
    x = g.parameter("x", ov.Type.f32, (-1, width))
    both = [coded(bits), Weight(bits, bits.shape, "BF16")]
    assert own.fit(both)
    outputs = [g.result(own.linear(x, [weight])[0], f"y{i}") for i, weight in enumerate(both)]
    model = core.compile_model(ov.Model(outputs, [x], "products"), "CPU", {"INFERENCE_PRECISION_HINT": "f32"})
    for count in (1, 3, 5, 8, 40):
        rows = np.random.default_rng(count).standard_normal((count, width), np.float32)
        found, expected = (model([rows])[f"y{i}"] for i in range(2))
        assert np.abs(found - expected).max() <= 1e-6 * np.abs(expected).max()
        means = rows.astype(np.float64) @ to_float32(bits, "BF16").astype(np.float64).T
        assert np.abs(found - means).max() <= 2e-6 * np.abs(means).max()


def logits(checkpoint: Checkpoint, weights: Weights) -> NDArray[np.float32]:
    model = LanguageModel(checkpoint.config, weights, choose("exact", 1, checkpoint.config))
    model.allocate(4)
    ids = np.arange(100, 124, dtype=np.int32)
    return model.step([Slice(ids, token_positions(len(ids), ())[0], 0, [1], logits=range(len(ids)))]).logits


@needs_own
@pytest.mark.parametrize("kind", ["demo", "experts"])
def test_a_model_answers_as_with_its_stored_weights(tmp_path: Path, kind: str):
    checkpoint = Checkpoint.open(DEMO) if kind == "demo" else experts(tmp_path / "model")
    stored = logits(checkpoint, Weights(checkpoint))
    found = logits(checkpoint, open_lossless(checkpoint, tmp_path))
    assert np.abs(found - stored).max() <= 1e-5 * np.abs(stored).max()


def test_who_has_no_kernels_of_ours_multiplies_by_the_stored_matrix():
    bits = with_outliers(16, 128)
    weight = Weight(bits, bits.shape, "BF16")
    x = g.parameter("x", ov.Type.f32, (-1, 128))
    packed = coded(bits)
    packed = Weight(packed.data, packed.shape, "BF16", bits=12, rest=packed.rest, stored=weight)
    model = ov.Core().compile_model(ov.Model([g.result(g.linear(x, packed), "y")], [x], "plain"), "CPU")
    rows = np.eye(128, dtype=np.float32)
    np.testing.assert_allclose(model([rows])["y"], to_float32(bits, "BF16").T, rtol=1e-2)
