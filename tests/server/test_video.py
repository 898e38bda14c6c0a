"""Clips in chats and tasks: what is asked of them arrives as sent, and what became of them is told."""

from __future__ import annotations

import base64
import json
from typing import Any

import pytest

from asgi import post
from fake_backend import FakeAnswer, FakeBackend
from sightline.errors import (
    InvalidVideo,
    ProcessingTimeout,
    SightlineError,
    TooManyFrames,
    UnsupportedVideoCodec,
    VideoTooLarge,
    VideoTooLong,
)
from sightline.server.app import create_app
from sightline.settings import Settings
from sightline.types import Conversation, Sampling, Text, Video, VideoInfo

pytestmark = pytest.mark.anyio
CLIP = base64.b64encode(b"a clip").decode()
URL = f"data:video/mp4;base64,{CLIP}"
FRAMES = [base64.b64encode(frame).decode() for frame in (b"one", b"two")]
WISHES = {"fps": 1.5, "start": 2, "end": 4.5, "max_pixels": 4096}
SEEN = VideoInfo(
    original=(480, 640),
    resized=(224, 320),
    tokens=140,
    times=(0.0, 1 / 3, 1.0, 1.5),
    timestamps=(1 / 6, 1.25),
    trimmed=True,
)
TOLD = {
    "width": 640,
    "height": 480,
    "resized_width": 320,
    "resized_height": 224,
    "tokens": 140,
    "frames": 4,
    "seconds": [0.0, 0.333, 1.0, 1.5],
    "timestamps": [0.2, 1.2],
    "trimmed": True,
}


class WatchingBackend(FakeBackend):
    """Its answers have seen a clip."""

    async def generate(self, conversation: Conversation, sampling: Sampling, **call: Any) -> FakeAnswer:
        answer = await super().generate(conversation, sampling, **call)
        answer.pictures, answer.videos = (), (SEEN,)
        return answer


def says(*parts: object, **fields: object) -> dict[str, Any]:
    return {"messages": [{"role": "user", "content": list(parts)}]} | fields


async def sent(body: object, path: str = "/v1/chat/completions") -> Any:
    """What the backend is asked for this body."""
    backend = FakeBackend()
    reply = await post(create_app(backend, Settings()), body, path).end()
    assert reply.status == 200, reply.body
    return backend.answers[0].asked.messages[-1].parts


@pytest.mark.parametrize(
    ("part", "data", "frames", "param"),
    [
        ({"type": "video_url", "video_url": {"url": URL}}, b"a clip", (), "video_url.url"),
        ({"type": "video_url", "video_url": {"url": CLIP}}, b"a clip", (), "video_url.url"),
        ({"type": "video", "video": URL}, b"a clip", (), "video"),
        ({"type": "video", "video": FRAMES}, b"", (b"one", b"two"), "video"),
    ],
    ids=["URL", "bare base64", "Qwen's form", "frames"],
)
async def test_a_clip_arrives_with_all_that_is_asked_of_it(part, data, frames, param):
    video, text = await sent(says(part | WISHES, {"type": "text", "text": "What?"}))
    place = f"messages[0].content[0].{param}"
    assert video == Video(data, frames, 1.5, None, 2.0, 4.5, max_pixels=4096, param=place)
    assert text == Text("What?")


async def test_sizes_for_the_whole_request_count_for_clips_too():
    (video, _) = await sent(says({"type": "video", "video": CLIP}, {"type": "text", "text": "?"}, max_pixels=9216))
    assert video.max_pixels == 9216


async def test_the_answer_tells_what_the_model_saw():
    body = says({"type": "video", "video": CLIP})
    reply = await post(create_app(WatchingBackend(), Settings()), body).end()
    assert json.loads(reply.body)["sightline"]["videos"] == [TOLD]
    plain = await post(create_app(FakeBackend(), Settings()), says({"type": "text", "text": "?"})).end()
    assert "videos" not in json.loads(plain.body)["sightline"]


async def test_a_stream_tells_it_too():
    body = says({"type": "video", "video": CLIP}, stream=True)
    reply = await post(create_app(WatchingBackend(), Settings()), body).end()
    chunks = [json.loads(line[6:]) for line in reply.body.decode().splitlines() if line.startswith("data: {")]
    assert [chunk["sightline"]["videos"] for chunk in chunks if "sightline" in chunk] == [[TOLD]]


async def test_an_estimate_tells_what_the_model_would_see():
    backend = FakeBackend()
    object.__setattr__(backend.guess, "videos", (SEEN,))
    reply = await post(create_app(backend, Settings()), says({"type": "video", "video": CLIP}), "/v1/estimate").end()
    found = json.loads(reply.body)
    assert found["videos"] == [TOLD]
    assert found["image_tokens"] == 3 + 140


async def test_a_task_takes_clips_and_frames_and_its_options():
    options = {"num_frames": 8, "start": 1}
    for clip, data, frames in ((URL, b"a clip", ()), (FRAMES, b"", (b"one", b"two"))):
        body = {"task": "video_qa", "videos": [clip], "text": "What falls?", "options": options}
        video, text = await sent(body, "/infer")
        assert video == Video(data, frames, None, 8, 1.0, param="videos[0]")
        assert text == Text("What falls?")


async def test_a_task_tells_whether_the_clip_was_trimmed_and_what_was_seen():
    body = {"task": "video_qa", "videos": [CLIP]}
    reply = await post(create_app(WatchingBackend(), Settings()), body, "/infer").end()
    metadata = json.loads(reply.body)["result"]["metadata"]
    assert (metadata["trimmed"], metadata["videos"]) == (True, [TOLD])


@pytest.mark.parametrize(
    ("error", "status", "code"),
    [
        (InvalidVideo("it is an AVI file; convert it to MP4"), 400, 1001),
        (UnsupportedVideoCodec("its codec is vc1; convert it to MP4"), 400, 1001),
        (VideoTooLong("longer than 30 s"), 400, 1002),
        (VideoTooLarge("too large"), 413, 1003),
        (TooManyFrames("too many"), 400, 1000),
        (ProcessingTimeout("late"), 504, 2002),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, Exception) else "",
)
async def test_what_is_wrong_with_a_clip_has_its_code(error: SightlineError, status: int, code: int):
    error.param = "videos[0]"
    body = {"task": "video_qa", "videos": [CLIP]}
    reply = await post(create_app(FakeBackend(refusal=error), Settings()), body, "/infer").end()
    told = json.loads(reply.body)
    assert (reply.status, told["code"]) == (status, code)
    assert told["msg"] == f"{error.message} (videos[0])"


async def test_text_that_is_no_base64_is_an_invalid_video():
    reply = await post(create_app(FakeBackend(), Settings()), says({"type": "video", "video": "no base64!"})).end()
    assert (reply.status, reply.error["code"]) == (400, "video_parse_error")
    assert reply.error["message"].startswith("Invalid video data: cannot decode video")
