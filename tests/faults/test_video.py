"""Rows V: hostile and broken clips, sent to the live server; after each it is as it was."""

from __future__ import annotations

import asyncio
import base64
import os
import signal
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from asgi import post
from fake_backend import FakeBackend
from faults.conftest import Walk, says
from media.clips import clip
from media.pictures import png
from sightline.errors import ProcessingTimeout
from sightline.media.clips import ClipRule
from sightline.media.decoders import Decoders
from sightline.media.images import Picture, ResizeRule
from sightline.server.app import create_app
from sightline.settings import MediaSettings, Settings
from sightline.types import Image, Video

SMALL = clip(1, 10)
BLACK = np.zeros((32, 32, 3), np.uint8)
RULE = ClipRule(min_pixels=4096, max_pixels=25_165_824)


def video(data: bytes | str, **wishes: object) -> dict[str, Any]:
    """A part of a message; `data` is encoded when it is bytes."""
    text = data if isinstance(data, str) else "data:video/mp4;base64," + base64.b64encode(data).decode()
    return {"type": "video_url", "video_url": {"url": text}} | wishes


def asked(data: bytes | str, **wishes: object) -> dict[str, Any]:
    return says(video(data, **wishes), {"type": "text", "text": "What happens?"})


@pytest.mark.row("V01")
@pytest.mark.parametrize(
    ("data", "words"),
    [
        (SMALL[: len(SMALL) // 2], "the file ends too early; send the whole file"),
        (SMALL[: SMALL.index(b"moov") - 4], "damaged or cut off"),
        ("data:video/mp4;base64,", "it is empty"),
    ],
    ids=["half", "no index", "empty"],
)
def test_a_clip_that_is_not_whole_is_a_video_parse_error(walk: Walk, data: bytes | str, words: str):
    assert words in walk.refused(asked(data), "video_parse_error")


@pytest.mark.row("V02")
def test_a_header_that_claims_ten_hours_is_answered_by_what_is_there(walk: Walk):
    lying = SMALL
    for box, at in ((b"mvhd", 20), (b"mdhd", 20), (b"tkhd", 24)):
        place = lying.index(box) + at
        lying = lying[:place] + b"\x7f\xff\xff\xff" + lying[place + 4 :]
    (seen,) = walk.answered(asked(lying))["sightline"]["videos"]
    assert (seen["frames"], seen["seconds"][-1], seen["trimmed"]) == (4, 0.9, False)


@pytest.mark.row("V04")
def test_a_long_black_clip_costs_its_first_half_minute_only(walk: Walk):
    black = clip(120, 10, size=(32, 32), frame=lambda _: BLACK)
    (seen,) = walk.answered(asked(black))["sightline"]["videos"]
    assert (seen["trimmed"], seen["frames"], seen["seconds"][-1]) == (True, 60, 29.9)


@pytest.mark.row("V06")
def test_a_codec_that_is_not_listed_is_refused_by_name(walk: Walk):
    data = clip(0.2, 10, container="mov", codec="jpeg2000")
    message = walk.refused(asked(data), "unsupported_video_codec")
    assert "its codec is jpeg2000" in message
    assert "convert it to MP4" in message


@pytest.mark.row("V07")
@pytest.mark.parametrize(
    "data",
    [
        b"#EXTM3U\n#EXT-X-TARGETDURATION:9\n#EXTINF:9,\nfile:///etc/passwd\n",
        b"ffconcat version 1.0\nfile /etc/passwd\n",
        b'<?xml version="1.0"?><MPD><BaseURL>http://127.0.0.1/</BaseURL></MPD>',
    ],
    ids=["HLS", "concat", "DASH"],
)
def test_a_playlist_is_refused_unread(walk: Walk, data: bytes):
    assert "playlist" in walk.refused(asked(data), "video_parse_error")


@pytest.mark.row("V10")
def test_too_many_listed_frames_are_refused_before_any_is_decoded(walk: Walk):
    frame = base64.b64encode(b"not a picture").decode()
    body = says({"type": "video", "video": [frame] * 10_000}, {"type": "text", "text": "?"})
    assert "10000 frames, the limit is 64" in walk.refused(body, "too_many_frames")


@pytest.mark.row("V11")
def test_wishes_are_lowered_to_the_ceiling_or_refused(walk: Walk):
    data = clip(8, 10, size=(32, 32), frame=lambda _: BLACK)
    for wish in ({"fps": 1000}, {"num_frames": 10**9}):
        (seen,) = walk.answered(asked(data, **wish))["sightline"]["videos"]
        assert seen["frames"] == 64
    both, turned = {"fps": 2, "num_frames": 4}, {"start": 2, "end": 1}
    for wish in ({"num_frames": -1}, {"num_frames": 0}, {"fps": 0}, both, turned):
        walk.refused(asked(data, **wish), "invalid_value")


@pytest.mark.row("V09")
def test_a_picture_in_place_of_a_clip_is_named(walk: Walk):
    assert "this is a PNG picture" in walk.refused(asked(png(32, 32)), "video_parse_error")


@pytest.mark.row("V13")
def test_a_decoder_that_hangs_is_killed_in_time_and_others_are_decoded():
    decoders = Decoders(MediaSettings(workers=1, video_timeout_s=0.5))

    async def decoded(data: bytes) -> float:
        return (await decoders.videos.decode(Video(data), RULE)).seconds[-1]

    async def beside_each_other() -> list[object]:
        picture = decoders.images.decode(Image(png(32, 32)), ResizeRule(min_pixels=1024, max_pixels=1024))
        return await asyncio.gather(decoded(SMALL), picture, return_exceptions=True)

    try:
        before = children()
        assert asyncio.run(decoded(SMALL)) == 0.9
        (worker,) = children() - before
        os.kill(worker, signal.SIGSTOP)  # the next clip finds it hanging
        late, picture = asyncio.run(beside_each_other())
        assert isinstance(late, ProcessingTimeout)
        assert late.message.startswith("video was not decoded after 0.5 s, the limit")
        assert isinstance(picture, Picture)
        assert worker not in children()
    finally:
        decoders.close()


@pytest.mark.anyio
@pytest.mark.row("V13")
async def test_on_the_wire_a_decoder_that_hangs_is_504():
    backend = FakeBackend(refusal=ProcessingTimeout("video was not decoded"))
    reply = await post(create_app(backend, Settings()), asked(SMALL)).end()
    assert (reply.status, reply.error["code"]) == (504, "processing_timeout")
    assert int(reply.headers["retry-after"]) > 0


def children() -> set[int]:
    """The worker processes of this one."""
    tasks = Path("/proc/self/task").iterdir()
    return {int(child) for task in tasks for child in (task / "children").read_text().split()}
