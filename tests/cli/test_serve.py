"""`sightline serve` hands its settings to the server and its answer to the shell."""

import sys

import pytest

from fake_backend import FakeBackend
from sightline.cli import main
from sightline.errors import CheckpointError


@pytest.fixture
def serve(monkeypatch, capsys):
    """Runs `sightline serve`; returns (exit code, stderr)."""

    def run(*words, backend):
        monkeypatch.setattr("sightline.backends.lighter.LocalBackend", backend)
        monkeypatch.setattr(sys, "argv", ["sightline", "serve", *words])
        with pytest.raises(SystemExit) as stopped:
            main()
        return stopped.value.code, capsys.readouterr().err

    return run


def failing(settings):
    """A backend that cannot load: the server starts, says so and stops."""
    backend = FakeBackend()
    backend.state, backend.failure = "failed", CheckpointError(f"{settings.model} at {settings.precision} is damaged")
    return backend


def test_a_server_says_where_it_listens_and_that_its_model_failed(serve):
    code, err = serve("some-model", "--port", "0", "--precision", "int8", backend=failing)
    listening, failed = [line for line in err.splitlines() if not line.startswith("loading")]
    assert code == 1
    assert listening.startswith("API server running on http://127.0.0.1:")
    assert failed == "error: model sightline-demo cannot be loaded: some-model at int8 is damaged"


def test_a_server_for_everyone_warns_that_it_has_no_keys(serve):
    _, err = serve("--host", "0.0.0.0", "--port", "0", backend=failing)
    assert "warning: no keys are configured: everyone who can reach 0.0.0.0 can use this server" in err


def test_the_demo_model_says_that_it_is_one(serve):
    _, err = serve("--port", "0", backend=failing)
    assert err.startswith("demo model: serve a real one with: sightline serve FOLDER_OR_ID")


def test_a_checkpoint_that_is_not_there_is_one_line(serve):
    def missing(settings):
        raise CheckpointError(f"{settings.model}: no such folder")

    assert serve("nowhere", "--port", "0", backend=missing) == (1, "sightline: nowhere: no such folder\n")


def test_a_misspelt_setting_is_one_line_and_exit_code_2(serve, monkeypatch):
    monkeypatch.setenv("SIGHTLINE_PRECISON", "int8")
    code, err = serve(backend=failing)
    assert code == 2
    assert err.startswith("sightline: environment variable SIGHTLINE_PRECISON is not a Sightline setting")
    assert err.endswith("did you mean SIGHTLINE_PRECISION?\n")
