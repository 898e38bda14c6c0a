"""The frames of a clip, their times and their size are the reference's; what is wished for only lowers them."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from sightline.errors import InvalidRequest, InvalidVideo
from sightline.media.clips import ClipRule, count_frames, fit_clip, spread, timestamps
from sightline.media.videos import wished
from sightline.settings import MediaSettings
from sightline.types import Video

EXPECTED = json.loads((Path(__file__).parent / "fixtures" / "clips.json").read_text(encoding="utf-8"))
RULE = ClipRule(min_pixels=4096, max_pixels=25_165_824)  # the published checkpoints'


@pytest.mark.parametrize(
    "case", EXPECTED["frames"], ids=lambda case: "-".join(str(v) for v in list(case.values())[:-2])
)
def test_frames_and_timestamps_are_those_of_the_reference(case: dict[str, Any]):
    rule = replace(RULE, fps=case.get("fps", RULE.fps))
    count = count_frames(case["total"], case["rate"], rule, case.get("num_frames"))
    indexes = spread(case["total"], count)
    assert indexes == case["indexes"]
    told = timestamps([index / case["rate"] for index in indexes])
    assert [f"<{second:.1f} seconds>" for second in told] == case["told"]


@pytest.mark.parametrize("case", EXPECTED["sizes"], ids=str)
def test_sizes_are_those_of_the_reference(case: list[int]):
    frames, height, width, *fitted = case
    assert list(fit_clip(frames, height, width, RULE)) == fitted


def test_pillow_resizes_frames_as_the_reference_to_within_a_level():
    assert max(case["largest"] for case in EXPECTED["resized"]) == 1
    assert max(case["share"] for case in EXPECTED["resized"]) < 0.005


def test_a_frame_that_is_long_and_thin_is_refused():
    with pytest.raises(InvalidVideo, match=r"6401 pixels wide and 32 high; the longer side may be 200 times"):
        fit_clip(4, 32, 6401, RULE)


def test_a_clip_of_one_frame_is_sized_as_the_two_it_becomes():
    assert fit_clip(1, 480, 640, RULE) == fit_clip(2, 480, 640, RULE)


def test_wishes_lower_the_limits_and_never_raise_them():
    settings = MediaSettings(max_video_frames=32, max_video_pixels=1 << 20, max_image_side=640)
    plain = wished(RULE, Video(), settings)
    assert (plain.fps, plain.max_frames, plain.max_pixels, plain.max_side) == (2.0, 32, 1 << 20, 640)
    eager = wished(RULE, Video(fps=1000.0, max_pixels=1 << 40, min_pixels=1 << 30), settings)
    assert count_frames(900, 30.0, eager) == 32
    assert count_frames(900, 30.0, plain, 10**9) == 32
    height, width = fit_clip(32, 720, 1280, eager)
    assert 32 * height * width <= 1 << 20
    modest = wished(RULE, Video(max_pixels=64 * 64), settings)
    height, width = fit_clip(8, 720, 1280, modest)
    assert height * width <= 64 * 64


@pytest.mark.parametrize(
    ("wish", "words"),
    [
        ({"fps": 0.0}, "fps is 0.0, must be above 0"),
        ({"num_frames": -1}, "num_frames is -1, must be above 0"),
        ({"fps": 2.0, "num_frames": 8}, "fps is 2 and num_frames is 8; send one of them"),
        ({"start": 3.0, "end": 3.0}, "start is 3 and end is 3; both are seconds"),
        ({"start": -1.0}, "start is -1 and end is not given"),
        ({"min_pixels": 9, "max_pixels": 8}, "min_pixels is 9, above max_pixels"),
    ],
)
def test_wishes_that_make_no_sense_are_refused_by_name(wish: dict[str, Any], words: str):
    with pytest.raises(InvalidRequest, match=words) as caught:
        wished(RULE, Video(**wish, param="messages[0].content[0]"), MediaSettings())
    assert caught.value.param == "messages[0].content[0]"
