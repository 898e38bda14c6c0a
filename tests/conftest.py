"""What several test folders share: the demo model, loaded once, and questions to it that have known answers."""

from __future__ import annotations

import json
import secrets
from collections.abc import Iterator
from importlib.resources import files
from pathlib import Path

import pytest

from sightline.media.decoders import Decoders
from sightline.model.load import Model, load
from sightline.settings import EngineSettings, MediaSettings

SAMPLES = Path(__file__).parent / "golden" / "samples"


@pytest.fixture(scope="session")
def demo_folder() -> Path:
    return Path(str(files("sightline") / "demo_model"))


@pytest.fixture(scope="session")
def demo_model(demo_folder: Path) -> Model:
    """The demo model in `exact`, on one thread. Engines may share it in turn, one at a time."""
    return load(demo_folder, EngineSettings(threads=1, kv_bytes=64 << 20))


@pytest.fixture(scope="session")
def samples() -> list[dict[str, str]]:
    """Pictures, questions and the demo model's greedy answers: keys image, question, model."""
    return json.loads((SAMPLES / "answers.json").read_text(encoding="utf-8"))


@pytest.fixture(scope="module")  # not longer: other modules count child processes
def workers() -> Iterator[Decoders]:
    pool = Decoders(MediaSettings(workers=1))
    yield pool
    pool.close()


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


@pytest.fixture(autouse=True)
def private_folders(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Nothing a test writes lands in the user's own folders; a data folder belongs to one server, so to one test."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.getbasetemp() / "cache"))
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path_factory.getbasetemp() / "data" / secrets.token_hex(8)))
    yield
