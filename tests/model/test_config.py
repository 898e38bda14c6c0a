"""Promises of a checkpoint's JSON files: both dialects read alike, and every complaint names file, key and value."""

from __future__ import annotations

import copy
import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from sightline.errors import CheckpointError
from sightline.model.config import GenerationConfig, ModelConfig
from small_checkpoints import FIXTURES, change_json

FILES = ("config.json", "preprocessor_config.json", "video_preprocessor_config.json", "generation_config.json")
MISFITS = (None, True, -1, 10**30, 1.5, float("inf"), "x", [], ["a"], {"a": 1})


@pytest.fixture(params=["dense-tied"])
def folder(tmp_path: Path, request: pytest.FixtureRequest) -> Path:
    """The JSON files of a golden checkpoint, written in transformers 4.57's dialect."""
    for name in FILES:
        (tmp_path / name).write_bytes((FIXTURES / request.param / "checkpoint" / name).read_bytes())
    return tmp_path


def rewritten_in_the_5x_dialect(folder: Path) -> ModelConfig:
    def change(config: dict[str, Any]) -> None:
        text = config["text_config"]
        text["rope_parameters"] = {**text.pop("rope_scaling"), "rope_theta": text.pop("rope_theta")}
        if "num_experts" in text:
            text["num_local_experts"] = text.pop("num_experts")

    change_json(folder / "config.json", change)
    legacy = {"image_processor": "preprocessor_config.json", "video_processor": "video_preprocessor_config.json"}
    nested = {part: json.loads((folder / name).read_text()) for part, name in legacy.items()}
    for name in legacy.values():
        (folder / name).unlink()
    (folder / "processor_config.json").write_text(json.dumps(nested))
    return ModelConfig.load(folder)


@pytest.mark.parametrize("folder", ["dense-tied", "moe-legacy"], indirect=True)
def test_both_dialects_of_one_model_read_as_the_same_value(folder: Path):
    older = ModelConfig.load(folder)
    assert rewritten_in_the_5x_dialect(folder) == older


def test_the_shape_of_a_model_is_read_as_written(folder: Path):
    config = ModelConfig.load(folder)
    text, vision = config.text, config.vision
    assert (text.hidden, text.layers, text.heads, text.kv_heads, text.head_dim) == (32, 3, 4, 2, 32)
    assert (text.rope_theta, text.mrope_section, text.vocab) == (5e6, (6, 5, 5), 1024)
    assert (vision.depth, vision.hidden, vision.heads, vision.positions, vision.deepstack) == (4, 16, 2, 6, (0, 2))
    assert (vision.head_dim, vision.patch_values) == (8, 1536)
    assert (config.tied, config.image_token, config.video_token) == (True, 991, 992)


@pytest.mark.parametrize("folder", ["moe"], indirect=True)
def test_the_top_level_decides_about_tied_embeddings(folder: Path):
    assert json.loads((folder / "config.json").read_text())["text_config"]["tie_word_embeddings"] is True
    assert ModelConfig.load(folder).tied is False


@pytest.mark.parametrize("folder", ["moe"], indirect=True)
def test_sparse_step_and_dense_layers_say_where_the_experts_are(folder: Path):
    text = ModelConfig.load(folder).text
    assert [text.is_moe_layer(i) for i in range(3)] == [True, True, True]
    alternating = replace(text, sparse_step=2, dense_layers=frozenset({3}))
    assert [alternating.is_moe_layer(i) for i in range(6)] == [False, True, False, False, False, True]


def test_a_nested_processor_config_wins_over_the_older_file(folder: Path):
    size = {"shortest_edge": 1024, "longest_edge": 2048}
    (folder / "processor_config.json").write_text(json.dumps({"image_processor": {"size": size}}))
    pixels = ModelConfig.load(folder).pixels
    assert (pixels.min_pixels, pixels.max_pixels) == (1024, 2048)


def test_a_processor_config_that_says_nothing_of_pictures_leaves_them_to_the_older_file(folder: Path):
    before = ModelConfig.load(folder).pixels
    (folder / "processor_config.json").write_text('{"processor_class": "Qwen3VLProcessor"}')
    assert ModelConfig.load(folder).pixels == before


def test_pixel_limits_may_stand_beside_size_as_min_and_max_pixels(folder: Path):
    change_json(folder / "preprocessor_config.json", lambda p: p.update(size=None, min_pixels=4096, max_pixels=8192))
    pixels = ModelConfig.load(folder).pixels
    assert (pixels.min_pixels, pixels.max_pixels) == (4096, 8192)


def test_sampling_advice_comes_from_the_generation_config(folder: Path):
    advice = {"eos_token_id": [5, 6], "temperature": 0.7, "top_p": 0.8, "top_k": 20, "do_sample": True}
    (folder / "generation_config.json").write_text(json.dumps(advice))
    assert ModelConfig.load(folder).generation == GenerationConfig(
        eos=(5, 6), temperature=0.7, top_p=0.8, top_k=20, greedy=False
    )
    (folder / "generation_config.json").write_text('{"do_sample": false, "eos_token_id": 7}')
    assert ModelConfig.load(folder).generation == GenerationConfig(eos=(7,), greedy=True)


def test_without_a_generation_config_the_end_token_is_the_text_models(folder: Path):
    (folder / "generation_config.json").unlink()
    assert ModelConfig.load(folder).generation == GenerationConfig(eos=(981,))


@pytest.mark.parametrize("name", ["config.json", "preprocessor_config.json"])
def test_a_missing_file_is_named_in_the_error(folder: Path, name: str):
    (folder / name).unlink()
    with pytest.raises(CheckpointError, match=rf"{name}: file is missing; a Qwen3-VL checkpoint folder needs it"):
        ModelConfig.load(folder)


@pytest.mark.parametrize("name", FILES)
@pytest.mark.parametrize("content", [b"", b"{", b"\xff\xfe", b"[" * 100_000, b"[]", b'"text"'])
def test_a_file_that_is_not_a_json_object_is_named_in_the_error(folder: Path, name: str, content: bytes):
    (folder / name).write_bytes(content)
    with pytest.raises(CheckpointError, match=rf"{name}: (cannot be read as JSON|holds \w+, expected a JSON object)"):
        ModelConfig.load(folder)


WRONG = [
    ("model_type", "qwen2_5_vl", "model_type is 'qwen2_5_vl'; Sightline serves qwen3_vl and qwen3_vl_moe"),
    ("model_type", None, "model_type is None"),
    ("text_config", None, "'text_config' is None, expected an object"),
    ("text_config.hidden_size", None, "text_config: 'hidden_size' is None, expected a whole number of at least 1"),
    ("text_config.num_hidden_layers", "3", "'num_hidden_layers' is '3', expected a whole number"),
    ("text_config.vocab_size", True, "'vocab_size' is True, expected a whole number"),
    ("text_config.num_key_value_heads", 3, "4 attention heads cannot share 3 key/value heads evenly"),
    ("text_config.rope_scaling.mrope_section", [6, 5, 4], r"is \[6, 5, 4\].*add up to head_dim / 2 = 16"),
    ("text_config.rope_scaling.mrope_section", [16], r"is \[16\], expected three whole numbers"),
    ("text_config.rope_scaling.rope_type", "yarn", "'rope_type' is 'yarn'; only 'default' is served"),
    ("text_config.rope_theta", -1, "'rope_theta' is -1, expected a number above 0"),
    ("text_config.hidden_act", "gelu", "'hidden_act' is 'gelu'; only 'silu' is served"),
    ("text_config.attention_bias", True, "'attention_bias' is True; only False is served"),
    ("vision_config.hidden_act", "silu", "'hidden_act' is 'silu'; only 'gelu_pytorch_tanh' is served"),
    ("vision_config.num_position_embeddings", 35, "num_position_embeddings is 35, expected a square number"),
    ("vision_config.deepstack_visual_indexes", [2, 0], r"deepstack_visual_indexes \(2, 0\) must ascend within 0..3"),
    ("vision_config.deepstack_visual_indexes", [0, 4], "must ascend within 0..3"),
    ("vision_config.num_heads", 3, "hidden_size 16 over 3 heads"),
    ("vision_config.out_hidden_size", 64, "out_hidden_size is 64, but text_config.hidden_size is 32"),
    ("image_token_id", None, "'image_token_id' is None"),
]


@pytest.mark.parametrize(("place", "value", "says"), WRONG)
def test_a_value_that_cannot_be_served_is_named_with_its_place_and_the_way_out(
    folder: Path, place: str, value: object, says: str
):
    change_json(folder / "config.json", lambda config: put(config, place.split("."), value))
    with pytest.raises(CheckpointError, match=rf"config\.json: .*{says}"):
        ModelConfig.load(folder)


@pytest.mark.parametrize("folder", ["moe"], indirect=True)
@pytest.mark.parametrize(
    ("key", "value", "says"),
    [
        ("num_local_experts", None, "'num_experts' is None"),
        ("num_experts_per_tok", 9, "a token cannot choose 9 of 8 experts"),
        ("moe_intermediate_size", None, "'moe_intermediate_size' is None"),
    ],
)
def test_experts_that_make_no_sense_are_named(folder: Path, key: str, value: object, says: str):
    change_json(folder / "config.json", lambda config: put(config, ["text_config", key], value))
    with pytest.raises(CheckpointError, match=says):
        ModelConfig.load(folder)


@pytest.mark.parametrize(
    ("key", "value", "says"),
    [
        ("size", {}, "'size' is {}, expected shortest_edge and longest_edge as pixel counts"),
        ("size", {"shortest_edge": 9, "longest_edge": 4}, "expected shortest_edge and longest_edge"),
        ("patch_size", 14, "patch_size is 14, but config.json says 16"),
        ("merge_size", 4, "merge_size is 4, but config.json says 2"),
        ("image_mean", [0.5], r"'image_mean' is \[0.5\], expected three numbers"),
        ("image_std", "1", "'image_std' is '1', expected three numbers"),
    ],
)
def test_a_processor_config_of_another_model_is_refused(folder: Path, key: str, value: object, says: str):
    change_json(folder / "preprocessor_config.json", lambda config: config.update({key: value}))
    with pytest.raises(CheckpointError, match=rf"preprocessor_config\.json: .*{says}"):
        ModelConfig.load(folder)


@pytest.mark.parametrize(
    ("key", "value"), [("eos_token_id", "x"), ("eos_token_id", []), ("temperature", "hot"), ("top_k", 1.5)]
)
def test_advice_that_is_no_number_is_named(folder: Path, key: str, value: object):
    change_json(folder / "generation_config.json", lambda config: config.update({key: value}))
    with pytest.raises(CheckpointError, match=rf"generation_config\.json: .*{key}"):
        ModelConfig.load(folder)


@pytest.mark.parametrize("folder", ["moe"], indirect=True)
@pytest.mark.parametrize("name", FILES)
def test_whatever_stands_in_a_key_the_file_is_read_or_named(folder: Path, name: str):
    """Every key of every file holds, in turn, every misfit: the answer is a value or a CheckpointError, no accident."""
    original = json.loads((folder / name).read_text())
    for path in places(original):
        for misfit in MISFITS:
            changed = copy.deepcopy(original)
            put(changed, path, misfit)
            (folder / name).write_text(json.dumps(changed))
            try:
                ModelConfig.load(folder)
            except CheckpointError as error:
                assert str(folder) in error.message


def places(values: dict[str, Any], above: tuple[str, ...] = ()) -> Iterator[tuple[str, ...]]:
    """The path of every key, however deep."""
    for key, value in values.items():
        yield (*above, key)
        if isinstance(value, dict):
            yield from places(value, (*above, key))


def put(values: dict[str, Any], path: list[str] | tuple[str, ...], value: object) -> None:
    for key in path[:-1]:
        values = values[key]
    values[path[-1]] = value
