"""The promise of calibrating: what it computes in numpy is what the engine computes."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from sightline.model import calibrate
from sightline.model.calibrate import Walk
from sightline.model.checkpoint import Checkpoint
from sightline.model.kernels import choose
from sightline.model.language import LanguageModel, Slice, VisualRows
from sightline.model.weights import Weights
from small_checkpoints import DEMO, EMBEDDING, wide_experts


@pytest.mark.parametrize("kind", ["dense", "moe", "moe-legacy"])
def test_prompts_walk_through_the_layers_as_they_do_in_the_exact_engine(tmp_path: Path, kind: str):
    checkpoint = Checkpoint.open(DEMO if kind == "dense" else wide_experts(tmp_path / "model", kind))
    text = checkpoint.config.text
    shown, *_, written = calibrate._prompts(checkpoint, 1)
    assert shown.picture is not None
    assert written.picture is None
    walk = Walk(Weights(checkpoint), [written, shown])
    for layer in range(text.layers):
        walk.layer(layer)
    last = walk._states[[len(written.ids) - 1, -1]]
    last = last / np.sqrt(np.square(last).mean(-1, keepdims=True) + text.eps)
    head = checkpoint.tensors.get("lm_head.weight", checkpoint.tensors[EMBEDDING]).float32()
    found = last * checkpoint.tensors["model.language_model.norm.weight"].float32() @ head.T

    engine = LanguageModel(checkpoint.config, Weights(checkpoint), choose("exact", 1, checkpoint.config))
    engine.allocate(40)
    features = VisualRows(shown.start, shown.picture.main, shown.picture.deep)
    for prompt, visual, logits in ((written, [], found[0]), (shown, [features], found[1])):
        blocks = range(1, 2 + len(prompt.ids) // engine.block)
        step = Slice(prompt.ids, prompt.positions, 0, blocks, visual, [len(prompt.ids) - 1])
        expected = engine.step([step]).logits[0]
        assert np.abs(logits - expected).max() <= 1e-3 * np.abs(expected).max()
