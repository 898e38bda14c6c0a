"""Promises of `sightline doctor`: true figures, a next step for every problem, and an exit code to rely on."""

from __future__ import annotations

import json
import re
import tomllib
from dataclasses import replace
from pathlib import Path

import pytest
import typer
from typer.testing import CliRunner

from own_kernels import needs_own
from sightline.cli import doctor as doctor_module
from sightline.cli.doctor import DEMO, OPENVINO, Finding, Measured, Report, doctor, examine
from sightline.cli.models import human
from sightline.model import own
from sightline.model.config import ModelConfig
from sightline.model.machine import Machine, memory_need, read_machine
from sightline.model.own import TILES, NoOwnKernels
from sightline.settings import Settings, load_settings
from sightline.types import Precision

GB = 10**9
LAPTOP = Machine(
    cpu="Test CPU",
    architecture="x86_64",
    features=("avx2", "avx_vnni"),
    flags=frozenset({"avx2", "avx_vnni"}),
    cores=8,
    physical_cores=4,
    cgroup_cores=None,
    memory_total=16 * GB,
    memory_available=7 * GB,
    cgroup_memory=None,
)
SPEED = Measured(read_gb_s=20.0, product_gflops=100.0)
app = typer.Typer()
app.command()(doctor)


@pytest.fixture(autouse=True)
def quick(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SIGHTLINE_CACHE_DIR", str(tmp_path / "cache"))
    monkeypatch.setenv("COLUMNS", "200")
    monkeypatch.setattr(doctor_module, "measure", lambda machine: SPEED)


@pytest.fixture
def settings() -> Settings:
    return load_settings()


def need(precision: Precision) -> int:
    """Bytes the demo model needs at its full context."""
    return memory_need(ModelConfig.load(DEMO), precision, 4096, bf16=read_machine().multiplies_bf16).total


def worst(report: Report) -> list[Finding]:
    return [finding for finding in report.findings if finding.level != "good"]


def test_this_machine_runs_the_demo_model():
    result = CliRunner().invoke(app, [])
    assert result.exit_code == 0, result.stdout
    for words in (
        "cores",
        "measured now",
        "Qwen3-VL-30B-A3B",
        "USE_ONNX_RUNTIME is accepted",
        "BATCH_SIZE is accepted",
        "It will run.",
    ):
        assert words in result.stdout


def test_the_report_is_one_json_object_on_request():
    report = json.loads(CliRunner().invoke(app, ["--json"]).stdout)
    assert report["runs"] is True
    assert report["measured"] == {"read_gb_s": 20.0, "product_gflops": 100.0}
    assert {fit["precision"] for fit in report["fits"]} == {"exact", "int8", "int4"}
    assert report["machine"]["cores"] >= 1
    assert set(report["machine"]["features"]) <= set(report["machine"]["flags"])


def test_each_model_of_the_family_fits_or_not_by_its_need(settings: Settings):
    fits = {(f.model, f.precision): f.fits for f in examine(None, settings, LAPTOP, SPEED).fits}
    assert fits["Qwen3-VL-2B", "int8"]
    assert not fits["Qwen3-VL-2B", "exact"]
    assert fits["Qwen3-VL-4B", "int4"]
    assert not fits["Qwen3-VL-30B-A3B", "int4"]


def test_expected_speed_is_the_measured_read_speed_over_the_bytes_of_a_token(settings: Settings):
    report = examine(None, settings, LAPTOP, SPEED)
    assert next(f.tokens_per_s for f in report.fits if (f.model, f.precision) == ("Qwen3-VL-2B", "exact")) == 5.8


def test_no_speed_is_expected_without_a_measurement_or_for_a_model_that_fits_the_caches(settings: Settings):
    assert {f.tokens_per_s for f in examine(None, settings, LAPTOP, None).fits} == {None}
    assert {f.tokens_per_s for f in examine(str(DEMO), settings, LAPTOP, SPEED).fits} == {None}


def test_too_little_memory_is_a_problem_with_both_numbers(settings: Settings):
    report = examine(None, settings, replace(LAPTOP, memory_available=100_000_000), SPEED)
    (problem,) = worst(report)
    assert problem.level == "problem"
    assert problem.text == f"the demo model needs {human(need('exact'))} at exact, 100 MB are available"
    assert "smaller model" in problem.next_step
    assert not report.runs


def test_a_precision_that_would_fit_is_offered(settings: Settings):
    report = examine(str(DEMO), settings, replace(LAPTOP, memory_available=need("int8")), SPEED)
    assert worst(report)[0].next_step == "set SIGHTLINE_PRECISION=int8"


def test_an_unknown_model_is_a_problem_and_the_exit_code_says_so():
    result = CliRunner().invoke(app, ["no/such-model"])
    assert result.exit_code == 1
    assert "'no/such-model' is neither a folder nor a pulled model" in result.stdout
    assert "It will not run" in result.stdout


def test_a_cpu_without_avx2_is_a_warning_and_a_foreign_one_a_problem(settings: Settings):
    (old,) = worst(examine(None, settings, replace(LAPTOP, features=()), SPEED))
    assert (old.level, "no AVX2" in old.text) == ("warning", True)
    (foreign,) = worst(examine(None, settings, replace(LAPTOP, architecture="riscv64"), SPEED))
    assert (foreign.level, "riscv64" in foreign.text) == ("problem", True)


def test_less_than_one_core_is_a_warning(settings: Settings):
    (slow,) = worst(examine(None, settings, replace(LAPTOP, cgroup_cores=0.2, cores=1), SPEED))
    assert "0.2 cores; 1 threads" in slow.text


def test_the_advice_follows_the_processor(settings: Settings):
    fast = "\n".join(examine(None, settings, LAPTOP, SPEED).advice)
    slow = "\n".join(examine(None, settings, replace(LAPTOP, features=("avx2",)), SPEED).advice)
    amx = "\n".join(examine(None, settings, replace(LAPTOP, features=("amx_int8", "amx_bf16")), SPEED).advice)
    assert "multiplies 8-bit numbers natively" in fast
    assert "no 8-bit products" in slow
    assert "bf16" in amx
    assert "bf16" not in fast


def test_whether_our_own_kernels_compute_is_said_in_a_line(settings: Settings, monkeypatch: pytest.MonkeyPatch):
    def said(machine: Machine, settings: Settings) -> Finding:
        found = examine(None, settings, machine, SPEED).findings
        return next(finding for finding in found if finding.text.startswith("our own kernels"))

    tiles = replace(LAPTOP, flags=TILES)
    assert said(LAPTOP, settings) == Finding(
        "good",
        "our own kernels are not used, OpenVINO's compute: "
        "they are for processors with tile instructions (AMX), or with AVX2 and nothing above it",
    )
    off = said(tiles, load_settings(own_kernels=False))
    assert (off.level, "turned off by SIGHTLINE_OWN_KERNELS" in off.text) == ("good", True)
    monkeypatch.setattr(own, "why_not", lambda *_: NoOwnKernels("not built", "make kernels"))
    missing = said(tiles, settings)
    assert (missing.level, missing.next_step) == ("warning", "make kernels")


@needs_own
def test_a_processor_with_tiles_computes_with_our_own_kernels_and_needs_less_memory(settings: Settings):
    tiles = replace(LAPTOP, flags=TILES, features=("amx_bf16",))
    with_own, without = (examine(None, each, tiles, SPEED) for each in (settings, load_settings(own_kernels=False)))
    said = [finding.text for finding in with_own.findings]
    assert "our own kernels compute, with this processor's tile instructions (AMX)" in said
    exact = [next(f.need_bytes for f in report.fits if f.precision == "exact") for report in (with_own, without)]
    assert exact[0] < exact[1]


def test_a_cache_folder_that_cannot_be_written_is_a_warning_with_its_setting(tmp_path: Path):
    (tmp_path / "file").write_text("")
    report = examine(None, load_settings(cache_dir=tmp_path / "file"), LAPTOP, SPEED)
    (warning,) = worst(report)
    assert "cannot be written" in warning.text
    assert "SIGHTLINE_CACHE_DIR" in warning.next_step
    assert report.runs


def test_looking_creates_nothing(settings: Settings):
    examine(None, settings, LAPTOP, SPEED)
    assert not settings.cache_dir.exists()


def test_missing_packages_are_named_with_the_command_that_installs_them(
    settings: Settings, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setitem(doctor_module._SERVER_MODULES, "no_such_module", "no-such-package")
    report = examine(None, settings, LAPTOP, SPEED)
    (problem,) = worst(report)
    assert problem == Finding("problem", "not installed: no-such-package", 'pip install "sightline[server]"')


def test_every_package_of_the_server_is_looked_for():
    project = tomllib.loads((Path(__file__).parents[2] / "pyproject.toml").read_text())
    listed = project["project"]["optional-dependencies"]["server"]
    assert set(doctor_module._SERVER_MODULES.values()) == {re.split("[<>=]", package)[0] for package in listed}


def test_another_openvino_than_the_pinned_one_is_a_warning(settings: Settings, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(doctor_module.metadata, "version", lambda name: "2030.1.0")
    (warning,) = worst(examine(None, settings, LAPTOP, SPEED))
    assert warning.next_step == f"pip install openvino=={OPENVINO}"


def test_the_openvino_release_is_the_one_the_project_pins():
    project = tomllib.loads((Path(__file__).parents[2] / "pyproject.toml").read_text())
    assert f"openvino=={OPENVINO}" in project["project"]["optional-dependencies"]["server"]
