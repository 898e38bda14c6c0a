"""Promises of `sightline models`: what it prints, where, and with which exit code."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

import sightline
from fake_hub import COMMIT, MODEL, FakeHub, serving
from sightline.cli.models import app, find, human, look_into
from sightline.errors import DownloadError, ModelNotFound

DEMO = Path(sightline.__file__).parent / "demo_model"


@pytest.fixture(autouse=True)
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SIGHTLINE_CACHE_DIR", str(tmp_path / "cache"))
    monkeypatch.setenv("NO_PROXY", "*")
    monkeypatch.setenv("COLUMNS", "200")


@pytest.fixture
def hub() -> Iterator[FakeHub]:
    with serving(FakeHub({path.name: path.read_bytes() for path in DEMO.iterdir() if path.is_file()})) as hub:
        yield hub


@pytest.fixture
def checkpoint(tmp_path: Path) -> Path:
    return shutil.copytree(DEMO, tmp_path / "checkpoint")


def run(*words: str) -> Result:
    return CliRunner().invoke(app, list(words))


def edit(path: Path, **values: object) -> None:
    path.write_text(json.dumps(json.loads(path.read_text()) | values))


def test_pull_prints_the_folder_on_standard_output_and_progress_on_standard_error(hub: FakeHub, tmp_path: Path):
    result = run("pull", MODEL, "--endpoint", hub.url)
    assert result.exit_code == 0
    folder = tmp_path / "cache" / "models" / "Qwen--Tiny-VL" / COMMIT
    assert result.stdout.strip() == str(folder)
    assert (folder / "model.safetensors").read_bytes() == (DEMO / "model.safetensors").read_bytes()
    assert "model.safetensors 50 % of 12 MB" in result.stderr
    assert len(result.stderr.splitlines()) < 50


def test_pull_takes_modelscope_as_source(hub: FakeHub):
    assert run("pull", MODEL, "--source", "modelscope", "--endpoint", hub.url).exit_code == 0
    assert "modelscope" in run("list").stdout


def test_pull_with_an_unknown_source_is_a_usage_error():
    assert run("pull", MODEL, "--source", "elsewhere").exit_code == 2


def test_a_failed_pull_is_our_error_for_the_program_to_print(hub: FakeHub):
    result = run("pull", "Qwen/Unknown", "--endpoint", hub.url)
    assert isinstance(result.exception, DownloadError)


def test_list_says_how_to_get_a_model_when_there_is_none():
    assert "sightline models pull" in run("list").stdout


def test_list_shows_id_kind_and_size_of_what_was_pulled(hub: FakeHub):
    run("pull", MODEL, "--endpoint", hub.url)
    line = next(line for line in run("list").stdout.splitlines() if MODEL in line)
    assert line.split() == [MODEL, "dense", "12", "MB", "huggingface", "main", COMMIT[:8]]


def test_list_names_the_file_a_damaged_model_lacks(hub: FakeHub):
    folder = Path(run("pull", MODEL, "--endpoint", hub.url).stdout.strip())
    (folder / "tokenizer.json").unlink()
    assert "damaged (tokenizer.json): pull it again" in run("list").stdout


def test_inspect_tells_the_shape_of_a_folder():
    result = run("inspect", str(DEMO))
    assert result.exit_code == 0
    for words in (
        "dense",
        "5 layers of 192",
        "6 blocks of 160",
        "[1, 3, 5]",
        "5,923,872 in 150",
        "BF16 100%",
        "instruct",
    ):
        assert words in result.stdout


def test_inspect_finds_a_pulled_model_by_its_id_in_any_case(hub: FakeHub):
    run("pull", MODEL, "--endpoint", hub.url)
    assert "5 layers of 192" in run("inspect", "tiny-vl").stdout


def test_inspect_of_something_unknown_says_how_to_fetch_it():
    with pytest.raises(ModelNotFound, match=r"'nothing' is neither a folder nor a pulled model.*models pull"):
        find("nothing")


def test_inspect_reports_a_cut_weight_file_and_still_tells_the_shape(checkpoint: Path):
    weights = checkpoint / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1000])
    result = run("inspect", str(checkpoint))
    assert result.exit_code == 1
    assert "5 layers of 192" in result.stdout
    assert "Problem:" in result.stdout
    assert "truncated" in result.stdout


def test_inspect_reports_weights_that_do_not_belong_to_the_config(checkpoint: Path):
    config = json.loads((checkpoint / "config.json").read_text())
    edit(checkpoint / "config.json", text_config=config["text_config"] | {"num_hidden_layers": 4})
    (problem,) = look_into(checkpoint).problems
    assert "hold 5,923,872 parameters, config.json describes 5,481,056" in problem


def test_inspect_accepts_an_untied_config_whose_head_is_missing(checkpoint: Path):
    edit(checkpoint / "config.json", tie_word_embeddings=False)
    assert look_into(checkpoint).problems == []


def test_inspect_names_a_missing_tokenizer(checkpoint: Path):
    (checkpoint / "tokenizer.json").unlink()
    (problem,) = look_into(checkpoint).problems
    assert "tokenizer.json: file is missing" in problem


def test_inspect_of_another_family_says_which_is_served(checkpoint: Path):
    edit(checkpoint / "config.json", model_type="llama")
    (problem,) = look_into(checkpoint).problems
    assert "model_type is 'llama'" in problem


@pytest.mark.parametrize(("size", "text"), [(4_255_064_064, "4.3 GB"), (11_323_976, "12 MB"), (1, "1 MB")])
def test_sizes_are_shown_in_decimal_units(size: int, text: str):
    assert human(size) == text
