"""Promises of loading: every precision answers with the kernels it stands on, and a wrong checkpoint is named."""

from __future__ import annotations

import shutil
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from own_kernels import needs_own
from sightline.errors import CheckpointError
from sightline.model import language as language_module
from sightline.model import layers, quantize
from sightline.model.checkpoint import Checkpoint
from sightline.model.config import ModelConfig
from sightline.model.kernels import choose
from sightline.model.language import LanguageModel, Slice, StepResult
from sightline.model.load import load
from sightline.model.machine import read_machine
from sightline.model.positions import token_positions
from sightline.model.quantize import open_weights
from sightline.settings import EngineSettings
from sightline.types import Precision
from small_checkpoints import DEMO, EMBEDDING, FIXTURES, LAYER, Stored, change_json, change_tensors, copy, wide_experts

UP, DOWN = LAYER + "mlp.up_proj.weight", LAYER + "mlp.experts.down_proj"
GATE_UP = LAYER + "mlp.experts.gate_up_proj"
needs_int8 = pytest.mark.skipif(not read_machine().multiplies_int8, reason="this CPU has no sums of 8-bit products")


def settings(cache: Path, precision: Precision = "exact", **more: Any) -> EngineSettings:
    return EngineSettings(**{"threads": 1, "kv_bytes": 8 << 20, "cache_dir": cache, "precision": precision, **more})


@needs_int8
@pytest.mark.parametrize("precision", ["int8", "int4"])
def test_the_demo_model_loads_quantised_with_no_slow_path(tmp_path: Path, precision: Precision):
    model = load(DEMO, settings(tmp_path, precision))
    assert model.slow_paths == ()
    assert model.kernels.precision == precision


def test_a_second_start_packs_nothing_and_computes_the_same(tmp_path: Path):
    folder, told = copy("dense-tied", tmp_path / "model"), []
    first = load(folder, settings(tmp_path, "int8"), lambda what, _share: told.append(what))
    assert list(dict.fromkeys(told)) == ["reading checkpoint", "packing weights", "compiling", "warming up", "ready"]
    told.clear()
    second = load(folder, settings(tmp_path, "int8"), lambda what, _share: told.append(what))
    assert "packing weights" not in told
    np.testing.assert_array_equal(*(read(model.language).logits for model in (first, second)))


def read(language: LanguageModel, ids: np.ndarray | None = None) -> StepResult:
    """One prompt of some ordinary tokens, with logits behind each."""
    ids = np.arange(100, 124, dtype=np.int32) if ids is None else ids
    language.allocate(4)
    positions, _ = token_positions(len(ids), ())
    return language.step([Slice(ids, positions, 0, [1], logits=range(len(ids)))])


def language_of(folder: Path, cache: Path, precision: Precision = "exact") -> LanguageModel:
    checkpoint = Checkpoint.open(folder)
    weights = open_weights(checkpoint, precision, cache)
    return LanguageModel(checkpoint.config, weights, choose(precision, 1, checkpoint.config))


def test_a_tied_checkpoint_ignores_a_head_that_some_tool_stored(tmp_path: Path):
    folder = copy("dense-tied", tmp_path / "model")
    stored = np.ones((1024, 32), np.float32)
    change_tensors(folder, lambda t: t.update({"lm_head.weight": ("F32", (1024, 32), stored.tobytes())}))
    expected = read(language_of(FIXTURES / "dense-tied" / "checkpoint", tmp_path)).logits
    np.testing.assert_array_equal(read(language_of(folder, tmp_path)).logits, expected)


def test_an_untied_checkpoint_without_a_head_uses_its_embeddings(tmp_path: Path):
    folder = copy("dense-tied", tmp_path / "model")
    change_json(folder / "config.json", lambda config: config.update(tie_word_embeddings=False))
    expected = read(language_of(FIXTURES / "dense-tied" / "checkpoint", tmp_path)).logits
    np.testing.assert_array_equal(read(language_of(folder, tmp_path)).logits, expected)


def test_an_untied_checkpoint_uses_its_own_head(tmp_path: Path):
    folder = copy("dense-tied", tmp_path / "model")
    change_json(folder / "config.json", lambda config: config.update(tie_word_embeddings=False))
    zeros = bytes(1024 * 32 * 4)
    change_tensors(folder, lambda t: t.update({"lm_head.weight": ("F32", (1024, 32), zeros)}))
    assert not read(language_of(folder, tmp_path)).logits.any()


@pytest.mark.parametrize(("layout", "width"), [("moe", None), ("moe-legacy", 160)])
def test_a_mixture_of_experts_stays_close_to_exact_and_mostly_chooses_the_same_experts(
    tmp_path: Path, layout: str, width: int | None
):
    """A golden checkpoint as it is, and a wider one whose experts take int4."""
    golden = FIXTURES / layout / "checkpoint"
    folder = wide_experts(tmp_path / "model", layout, width) if width else golden
    exact = read(language_of(folder, tmp_path))
    for precision, closeness, same in (("int8", 0.99, 0.9), ("int4", 0.9, 0.7)):
        found = read(language_of(folder, tmp_path, precision))
        assert cosine(exact.logits, found.logits) > closeness
        assert agreement(exact, found) > same


def cosine(a: np.ndarray, b: np.ndarray) -> float:
    """Of the middle row: another expert chosen on a hair moves a row far."""
    return float(np.median((a * b).sum(-1) / np.linalg.norm(a, axis=-1) / np.linalg.norm(b, axis=-1)))


def agreement(a: StepResult, b: StepResult) -> float:
    """Share of choices, over layers, tokens and places, that are the same."""
    assert a.experts is not None
    assert b.experts is not None
    return float(np.equal(*(np.sort(result.experts, -1) for result in (a, b))).mean())


@needs_int8
def test_a_mixture_of_experts_loads_with_compressed_experts(tmp_path: Path):
    model = load(wide_experts(tmp_path / "model", "moe"), settings(tmp_path, "int4"))
    assert not [said for said in model.slow_paths if said.startswith("language model")]
    assert np.isfinite(read(model.language).logits).all()


@pytest.mark.parametrize("precision", ["exact", "int8"])
def test_shards_load_whole(tmp_path: Path, precision: Precision):
    model = load(copy("dense-untied", tmp_path / "model"), settings(tmp_path, precision))
    assert np.isfinite(read(model.language).logits).all()
    features = model.vision.encode(np.full((1, 64, 96, 3), 200, np.uint8))
    assert features.main.shape == (6, 32)
    assert np.isfinite(features.deep).all()


def without(name: str) -> Callable[[dict[str, Stored]], object]:
    return lambda tensors: tensors.pop(name)


def shaped(name: str, *shape: int) -> Callable[[dict[str, Stored]], object]:
    """`name` with another shape, and as many values of its own as that takes."""

    def change(tensors: dict[str, Stored]) -> None:
        dtype, before, raw = tensors[name]
        size = len(raw) // int(np.prod(before)) * int(np.prod(shape))
        tensors[name] = dtype, shape, (raw * 8)[:size]

    return change


def of_bytes(name: str) -> Callable[[dict[str, Stored]], object]:
    return lambda tensors: tensors.update({name: ("I8", tensors[name][1], bytes(int(np.prod(tensors[name][1]))))})


WRONG_WEIGHTS = [
    ("dense-tied", without(UP), rf"'{UP}' is missing from the weight files"),
    ("dense-tied", without(EMBEDDING), rf"'{EMBEDDING}' is missing"),
    ("dense-tied", shaped(UP, 32, 48), r"has shape \[32, 48\], config\.json asks for \[48, 32\]"),
    ("dense-tied", shaped(UP, 64, 32), r"has shape \[64, 32\]"),
    ("dense-tied", shaped(UP, 48, 0), r"has shape \[48, 0\]"),
    ("dense-tied", shaped(EMBEDDING, 512, 32), r"has shape \[512, 32\], config\.json asks for \[1024, 32\]"),
    ("dense-tied", shaped("model.visual.patch_embed.proj.weight", 16, 1536), r"asks for \[16, 3, 2, 16, 16\]"),
    ("dense-tied", of_bytes(UP), "is I8; stored weights must be BF16, F16 or F32"),
    ("moe", without(GATE_UP), rf"'{GATE_UP}' is missing"),
    ("moe", without(LAYER + "mlp.gate.weight"), "mlp.gate.weight' is missing"),
    ("moe", without(EMBEDDING), rf"'{EMBEDDING}' is missing"),
    ("moe", shaped(GATE_UP, 4, 24, 32), r"\[4, 24, 32\], config\.json asks for \[8, 24, 32\] or \[8, 32, 24\]"),
    ("moe", shaped(GATE_UP, 8, 20, 32), r"has shape \[8, 20, 32\]"),
    ("moe", shaped(GATE_UP, 24, 32), r"has shape \[24, 32\]"),
    ("moe", of_bytes(DOWN), "is I8; stored weights must be"),
]


@pytest.mark.parametrize("precision", ["exact", "int8"])
@pytest.mark.parametrize(("variant", "change", "says"), WRONG_WEIGHTS)
def test_weights_that_do_not_fit_the_config_are_named_as_stored_and_when_packed(
    tmp_path: Path, variant: str, change: Callable[[dict[str, Stored]], object], says: str, precision: Precision
):
    folder = copy(variant, tmp_path / "model")
    change_tensors(folder, change)
    with pytest.raises(CheckpointError, match=says) as caught:
        load(folder, settings(tmp_path, precision))
    assert str(folder) in caught.value.message


def test_a_tokenizer_larger_than_the_vocabulary_belongs_to_another_checkpoint(tmp_path: Path):
    folder = copy("dense-tied", tmp_path / "model")
    one_more = {"id": 5000, "content": "<|one_more|>", "special": True}
    change_json(folder / "tokenizer.json", lambda tokenizer: tokenizer["added_tokens"].append(one_more))
    with pytest.raises(CheckpointError, match=r"tokenizer\.json: has 5001 tokens, the model only 1024; .* another"):
        load(folder, settings(tmp_path))


@pytest.mark.parametrize("precision", ["exact", pytest.param("int8", marks=needs_int8)])
def test_a_model_that_has_rested_computes_the_same(tmp_path: Path, precision: Precision):
    model = load(DEMO, settings(tmp_path, precision))
    pixels = np.random.default_rng(0).integers(0, 256, (1, 128, 96, 3), dtype=np.uint8)
    before = model.vision.encode(pixels).main, read(model.language).logits
    model.rest()
    after = model.vision.encode(pixels).main, read(model.language).logits
    for found, expected in zip(after, before, strict=True):
        np.testing.assert_array_equal(found, expected)


@needs_own
def test_a_scanned_head_gives_the_best_tokens_the_logits_of_the_whole_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    """The demo model's head is too short for a scan; here it is not."""
    whole = read(load(DEMO, settings(tmp_path / "whole", "int4")).language).logits
    monkeypatch.setattr(quantize, "SCANNED_ROWS", 1000)
    monkeypatch.setattr(layers, "SCORED_AGAIN", 16)
    monkeypatch.setattr(language_module, "MAPPED_ROWS", 1)  # the table's pages are given back after each step
    language = load(DEMO, settings(tmp_path / "scanned", "int4")).language
    for _ in range(2):
        found = read(language).logits
        best = np.argsort(whole)[:, -8:]
        expected, size = np.take_along_axis(whole, best, 1), np.abs(whole).max()
        assert np.abs(np.take_along_axis(found, best, 1) - expected).max() <= 1e-3 * size
        assert 1e-3 * size < np.abs(found - whole).max() < 0.2 * size  # the others are told by 4 bits


@needs_own
def test_weights_leave_their_file_for_pages_of_our_own_and_answers_stay(tmp_path: Path):
    folder = Path(shutil.copytree(DEMO, tmp_path / "model"))
    model = load(folder, settings(tmp_path))
    before = read(model.language).logits
    deadline = time.monotonic() + 30
    while mapped_bytes(folder / "model.safetensors") >= 4 << 20:  # less than a huge page at either end
        assert time.monotonic() < deadline
        time.sleep(0.01)
    np.testing.assert_array_equal(read(model.language).logits, before)


def mapped_bytes(path: Path) -> int:
    """How many bytes of this process's memory are a file's."""
    lines = (line.split() for line in Path("/proc/self/maps").read_text(encoding="utf-8").splitlines())
    spans = [words[0].split("-") for words in lines if words[-1] == str(path)]
    return sum(int(end, 16) - int(start, 16) for start, end in spans)


def test_the_smallest_picture_can_be_encoded_after_a_rest(tmp_path: Path):
    vision = load(DEMO, settings(tmp_path)).vision
    cell = np.full((1, 32, 32, 3), 100, np.uint8)
    before = vision.encode(cell).main
    for _ in range(2):
        vision.rest()
        np.testing.assert_array_equal(vision.encode(cell).main, before)


def test_the_kv_pools_take_what_they_are_given(tmp_path: Path):
    folder = copy("dense-tied", tmp_path / "model")
    language = load(folder, settings(tmp_path, kv_bytes=1 << 20)).language
    text = ModelConfig.load(folder).text
    assert language.kv_block_bytes == 2 * text.layers * text.kv_heads * text.head_dim * language.block * 4
    assert language.blocks == (1 << 20) // language.kv_block_bytes


def test_the_kv_pools_never_grow_past_what_all_requests_could_use(tmp_path: Path):
    folder = copy("dense-tied", tmp_path / "model")
    language = load(folder, settings(tmp_path, kv_bytes=1 << 40, max_running=2, max_context=96)).language
    assert language.blocks == 2 * 2 * 3 + 2


def test_a_quantised_model_keeps_its_keys_and_values_in_half_the_bytes(tmp_path: Path):
    folder = FIXTURES / "dense-tied" / "checkpoint"
    exact, quantised = (language_of(folder, tmp_path, p).kv_block_bytes for p in ("exact", "int8"))
    assert exact == 2 * quantised


def test_too_little_memory_for_the_kv_pools_is_a_clear_error(tmp_path: Path):
    with pytest.raises(CheckpointError, match=r"may use 0 MiB, one block .* takes 48 KiB; .* SIGHTLINE_KV_CACHE_MB"):
        load(copy("dense-tied", tmp_path / "model"), settings(tmp_path, kv_bytes=100 << 10))
