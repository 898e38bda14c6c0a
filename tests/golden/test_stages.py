"""Every stage of both towers against Hugging Face transformers, on tiny checkpoints with random parameters."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from openvino import Model

from own_kernels import WAYS
from sightline.model import language, vision
from sightline.model.checkpoint import Checkpoint
from sightline.model.graph import result
from sightline.model.kernels import choose
from sightline.model.language import LanguageModel, Slice, VisualRows
from sightline.model.positions import Grid, TextRotary, position_embedding, token_positions, vision_rotary
from sightline.model.vision import Features, VisionTower, patch_rows
from sightline.model.weights import Weights

FIXTURES = Path(__file__).parent / "fixtures"
VARIANTS = ("dense-tied", "dense-untied", "moe-legacy", "moe")
CASES = ("text", "image_4x6", "two_images", "second_turn", "long")
EVERY = [(variant, case) for variant in VARIANTS for case in CASES]
FULL = [("dense-tied", case) for case in ("image_4x6", "image_2x6", "two_images", "long", "video")]
SEEN = [(v, c) for v, c in EVERY if c != "text"] + FULL[1::3]
TOLERANCE = 1e-4  # of the stage's largest value


both_ways = pytest.mark.parametrize("own", WAYS)  # our own kernels read what fits them, the plugin's the rest


class Case:
    """One fixture with its checkpoint, both towers compiled for `exact`, and every layer's output readable."""

    def __init__(self, variant: str, name: str, own: bool = False):
        self.checkpoint = Checkpoint.open(FIXTURES / variant / "checkpoint")
        self.config = self.checkpoint.config
        self.weights = Weights(self.checkpoint)
        self.kernels = choose("exact", 1, self.config, own)
        self.expected = dict(np.load(FIXTURES / variant / f"{name}.npz"))
        self.grids = [Grid(*map(int, row)) for row in self.expected.get("grid_thw", ())]

    def pictures(self) -> list[np.ndarray]:
        if "frames" in self.expected:
            return [self.expected["frames"]]
        return [self.expected[f"picture_{i}"][None] for i in range(len(self.grids))]

    def runs(self) -> list[tuple[int, int]]:
        """(first, end) of every run of visual tokens."""
        marks = np.diff(np.concatenate([[0], self.expected["mm_token_type_ids"] > 0, [0]]).astype(int))
        return list(zip(np.flatnonzero(marks == 1), np.flatnonzero(marks == -1), strict=True))

    def features(self) -> Features:
        main = self.expected["vision_merged"]
        return Features(
            main, np.stack([self.expected[f"deepstack_{j}"] for j in range(len(self.config.vision.deepstack))])
        )

    def slices(self, start: int, end: int, blocks: list[int]) -> Slice:
        """Tokens start..end of the case as one slice of a step."""
        rows, used = [], 0
        features = self.features() if self.grids else None
        for first, last in self.runs():
            low, high = max(first, start), min(last, end)
            if features and low < high:
                part = slice(used + low - first, used + high - first)
                rows.append(VisualRows(low - start, features.main[part], features.deep[:, part]))
            used += last - first
        return Slice(
            self.expected["token_ids"][start:end].astype(np.int32),
            self.expected["position_ids"][:, start:end].astype(np.int32),
            start,
            blocks,
            rows,
            [end - start - 1],
        )


def close(found: np.ndarray, expected: np.ndarray) -> None:
    assert found.shape == expected.shape
    assert np.abs(found - expected).max() <= TOLERANCE * np.abs(expected).max()


def tap(model: Model, prefix: str) -> Model:
    """Make every node named `prefix`.N an output of that name."""
    for node in model.get_ordered_ops():
        if node.get_friendly_name().startswith(prefix + "."):
            model.add_results([result(node, node.get_friendly_name())])
    return model


def tapped_language(case: Case, monkeypatch: pytest.MonkeyPatch) -> LanguageModel:
    build = language.build
    monkeypatch.setattr(language, "build", lambda *arguments: tap(build(*arguments), "layer"))
    model = LanguageModel(case.config, case.weights, case.kernels)
    model.allocate(16)
    return model


@pytest.mark.parametrize(("variant", "name"), FULL)
def test_pixel_rows_are_the_reference_processors_to_the_last_bit(variant: str, name: str):
    case = Case(variant, name)
    rows = [patch_rows(p, case.config.vision, case.config.pixels) for p in case.pictures()]
    np.testing.assert_array_equal(np.concatenate(rows), case.expected["pixel_rows"])


@pytest.mark.parametrize(("variant", "name"), FULL)
def test_the_position_embedding_is_interpolated_as_in_the_reference(variant: str, name: str):
    case = Case(variant, name)
    v = case.config.vision
    table = case.weights.values("model.visual.pos_embed.weight", v.positions**2, v.hidden)
    found = [np.tile(position_embedding(table, g.h, g.w), (g.t, 1)) for g in case.grids]
    close(np.concatenate(found), case.expected["position_embedding"])


@pytest.mark.parametrize(("variant", "name"), FULL)
def test_rotary_tables_of_both_towers_equal_the_references(variant: str, name: str):
    case = Case(variant, name)
    tables = [vision_rotary(g.h, g.w, case.config.vision.head_dim) for g in case.grids]
    for index, key in enumerate(("vision_cos", "vision_sin")):
        found = [np.tile(t[index], (g.t, 1)) for t, g in zip(tables, case.grids, strict=True)]
        close(np.concatenate(found), case.expected[key])
    text = case.config.text
    cos, sin = TextRotary(text.head_dim, text.rope_theta, text.mrope_section)(case.expected["position_ids"])
    close(cos, case.expected["text_cos"])
    close(sin, case.expected["text_sin"])


@pytest.mark.parametrize(("variant", "name"), [*EVERY, *FULL[1::3]])
def test_token_positions_equal_the_references(variant: str, name: str):
    case = Case(variant, name)
    frames = [Grid(1, g.h, g.w) for g in case.grids for _ in range(g.t)]
    runs = [(int(first), grid) for (first, _), grid in zip(case.runs(), frames, strict=True)]
    positions, following = token_positions(len(case.expected["token_ids"]), runs)
    np.testing.assert_array_equal(positions, case.expected["position_ids"])
    assert following == case.expected["next_position"]


@both_ways
@pytest.mark.parametrize(("variant", "name"), FULL)
def test_every_vision_block_equals_the_references(variant: str, name: str, own: bool, monkeypatch: pytest.MonkeyPatch):
    case = Case(variant, name, own)
    build = vision.build
    monkeypatch.setattr(vision, "build", lambda *arguments: tap(build(*arguments), "block"))
    tower = VisionTower(case.config, case.weights, case.kernels)
    blocks: list[list[np.ndarray]] = [[] for _ in range(case.config.vision.depth)]
    for pixels in case.pictures():
        tower.encode(pixels)
        for index, found in enumerate(blocks):
            data = np.array(tower._request.get_tensor(f"block.{index}").data)
            found.append(data.reshape(-1, data.shape[-1]))
    for index, found in enumerate(blocks):
        close(np.concatenate(found), case.expected[f"vision_hidden_{index + 1}"])


@both_ways
@pytest.mark.parametrize(("variant", "name"), SEEN)
def test_merged_and_deepstack_features_equal_the_references(variant: str, name: str, own: bool):
    case = Case(variant, name, own)
    tower = VisionTower(case.config, case.weights, case.kernels)
    features = [tower.encode(pixels) for pixels in case.pictures()]
    close(np.concatenate([f.main for f in features]), case.expected["vision_merged"])
    for level in range(len(case.config.vision.deepstack)):
        close(np.concatenate([f.deep[level] for f in features]), case.expected[f"deepstack_{level}"])


@both_ways
@pytest.mark.parametrize(("variant", "name"), [*EVERY, *FULL[1::3]])
def test_every_text_layer_the_logits_and_the_experts_equal_the_references(
    variant: str, name: str, own: bool, monkeypatch: pytest.MonkeyPatch
):
    case = Case(variant, name, own)
    model = tapped_language(case, monkeypatch)
    length = len(case.expected["token_ids"])
    found = model.step([case.slices(0, length, [3, 1, 2])])
    close(found.logits[-1:], case.expected["logits"][-1:])
    for layer in range(case.config.text.layers):
        hidden = model._request.get_tensor(f"layer.{layer}").data
        expected = case.expected[f"text_hidden_{layer + 1}"]
        if len(hidden) == 1:  # behind the last attention only the wanted row is computed
            expected = expected[-1:]
        close(hidden[:length], expected)
        if case.config.text.experts:
            assert found.experts is not None
            np.testing.assert_array_equal(found.experts[layer], case.expected[f"expert_ids_{layer}"])


@both_ways
@pytest.mark.parametrize("variant", VARIANTS)
def test_a_prompt_read_in_chunks_that_cut_through_its_picture_gives_the_same_logits(variant: str, own: bool):
    case = Case(variant, "long", own)
    model = LanguageModel(case.config, case.weights, case.kernels)
    model.allocate(8)
    for start, end in ((0, 32), (32, 64), (64, 72)):
        piece = case.slices(start, end, [5, 2, 7])
        found = model.step([piece if end == 72 else replace(piece, logits=[])])
        assert len(found.logits) == (end == 72)
    close(found.logits, case.expected["logits"][-1:])


@both_ways
@pytest.mark.parametrize("variant", VARIANTS)
def test_a_second_turn_with_a_new_picture_on_a_kept_cache_gives_the_same_logits(variant: str, own: bool):
    first, second = Case(variant, "image_4x6", own), Case(variant, "second_turn", own)
    kept = len(first.expected["token_ids"])
    np.testing.assert_array_equal(second.expected["token_ids"][:kept], first.expected["token_ids"])
    model = LanguageModel(second.config, second.weights, second.kernels)
    model.allocate(8)
    model.step([first.slices(0, kept, [5, 2])])
    found = model.step([second.slices(kept, len(second.expected["token_ids"]), [5, 2])])
    close(found.logits, second.expected["logits"][-1:])


@both_ways
@pytest.mark.parametrize("variant", VARIANTS)
def test_unequal_sequences_in_one_ragged_step_do_not_touch_each_other(variant: str, own: bool):
    cases = [Case(variant, name, own) for name in ("text", "long", "two_images")]
    model = LanguageModel(cases[0].config, cases[0].weights, cases[0].kernels)
    model.allocate(16)
    tables = [[4], [5, 2, 7], [9, 3]]
    slices = [c.slices(0, len(c.expected["token_ids"]), t) for c, t in zip(cases, tables, strict=True)]
    found = model.step(slices)
    for row, case in enumerate(cases):
        close(found.logits[row : row + 1], case.expected["logits"][-1:])


@both_ways
@pytest.mark.parametrize(("variant", "name"), EVERY)
def test_sixteen_greedy_tokens_equal_the_references(variant: str, name: str, own: bool):
    case = Case(variant, name, own)
    model = LanguageModel(case.config, case.weights, case.kernels)
    model.allocate(8)
    length, blocks = len(case.expected["token_ids"]), [6, 1, 4, 2]
    answer = []
    step = case.slices(0, length, blocks)
    for index in range(16):
        answer.append(int(model.step([step]).logits[0].argmax()))
        position = np.full((3, 1), case.expected["next_position"] + index, np.int32)
        step = Slice(np.array(answer[-1:], np.int32), position, length + index, blocks, logits=[0])
    assert answer == case.expected["greedy_token_ids"].tolist()
