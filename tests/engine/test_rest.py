"""With nothing to do for a while the engine lets the model give its memory back, once, and goes on as before."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from sightline.engine import engine
from sightline.engine.engine import Engine
from sightline.engine.prompt import Prompt
from sightline.model.load import Model, load
from sightline.model.positions import token_positions
from sightline.settings import EngineSettings
from sightline.types import Sampling
from small_checkpoints import copy


@pytest.fixture
def rests(monkeypatch: pytest.MonkeyPatch) -> Iterator[threading.Semaphore]:
    """Counts a model's rests, which come as soon as there is nothing to do."""
    done, rest = threading.Semaphore(0), Model.rest

    def counted(model: Model) -> None:
        rest(model)
        done.release()

    monkeypatch.setattr(Model, "rest", counted)
    monkeypatch.setattr(engine, "REST_AFTER_S", 0.0)
    yield done


def answer(built: Engine) -> tuple[int, ...]:
    ids = np.arange(100, 140, dtype=np.int32)
    positions, following = token_positions(len(ids), ())
    stream = built.submit(Prompt(ids, positions, following, (), 100), Sampling(temperature=0, max_tokens=5))
    return tuple(token for delta in stream for token in delta.tokens)


def test_an_idle_engine_lets_the_model_rest_once_and_answers_the_same_after(rests: threading.Semaphore, tmp_path: Path):
    model = load(copy("dense-tied", tmp_path / "model"), EngineSettings(threads=1, kv_bytes=8 << 20))
    built = Engine(model, EngineSettings())
    first = answer(built)
    assert rests.acquire(timeout=30)
    assert answer(built) == first
    assert rests.acquire(timeout=30)
    built.close()
    assert not rests.acquire(blocking=False)
    assert built.stats.problem is None
