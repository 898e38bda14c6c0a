"""A clip goes the whole way of the reference: its tokens, positions and greedy answer from nothing but its frames."""

from __future__ import annotations

import asyncio
from dataclasses import replace

import numpy as np
import PIL.Image
import pytest

import small_checkpoints
from media.clips import clip
from media.pictures import encoded
from sightline.engine.engine import Engine
from sightline.engine.prepare import Preparer
from sightline.errors import InvalidRequest
from sightline.media.decoders import Decoders
from sightline.model.load import Model, load
from sightline.settings import EngineSettings, MediaSettings
from sightline.types import Conversation, Delta, Message, Sampling, Text, Usage, Video

EXPECTED = dict(np.load(small_checkpoints.FIXTURES / "dense-tied" / "video.npz"))
SETTINGS = EngineSettings(threads=1, kv_bytes=8 << 20)
GREEDY = Sampling(temperature=0, max_tokens=16, ignore_eos=True)
FRAMES = tuple(encoded(PIL.Image.fromarray(frame)) for frame in EXPECTED["frames"])
CLIP = Video(frames=FRAMES)


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Model:
    return load(small_checkpoints.copy("dense-tied", tmp_path_factory.mktemp("model") / "checkpoint"), SETTINGS)


@pytest.fixture
def preparer(model: Model, workers: Decoders) -> Preparer:
    return Preparer(model, workers, MediaSettings(), 512)


def asked(*parts: Video | Text, after: tuple[Message, ...] = ()) -> Conversation:
    return Conversation((Message("user", parts), *after))


def prepared(preparer: Preparer, conversation: Conversation, tenant: str = ""):
    return asyncio.run(preparer.prepare(conversation, GREEDY, tenant))


def answered(engine: Engine, preparer: Preparer, conversation: Conversation) -> tuple[list[int], Usage]:
    async def whole() -> list[Delta]:
        return [delta async for delta in engine.submit(await preparer.prepare(conversation, GREEDY), GREEDY)]

    deltas = asyncio.run(whole())
    assert deltas[-1].usage
    return [token for delta in deltas for token in delta.tokens], deltas[-1].usage


def test_tokens_and_positions_of_a_clip_equal_the_references(preparer: Preparer):
    prompt = prepared(preparer, asked(CLIP, Text("What is in the video?")))
    np.testing.assert_array_equal(prompt.token_ids, EXPECTED["token_ids"])
    np.testing.assert_array_equal(prompt.positions, EXPECTED["position_ids"])
    assert prompt.next_position == EXPECTED["next_position"]
    assert prompt.pictures == ()
    (info,) = prompt.videos
    assert (info.times, info.timestamps) == ((0.0, 0.5, 1.0, 1.5, 2.0, 2.5), (0.25, 1.25, 2.25))
    assert (info.original, info.resized, info.tokens, info.trimmed) == ((64, 64), (64, 64), 12, False)


def test_sixteen_greedy_tokens_from_the_frames_equal_the_references(model: Model, preparer: Preparer):
    engine = Engine(model, SETTINGS)
    try:
        tokens, usage = answered(engine, preparer, asked(CLIP, Text("What is in the video?")))
    finally:
        engine.close()
    assert tokens == EXPECTED["greedy_token_ids"].tolist()
    assert (usage.encoded_images, usage.encoded_patches, usage.image_tokens) == (0, 3, 12)


def test_a_follow_up_about_the_same_clip_computes_nothing_of_it_again(model: Model, preparer: Preparer):
    question = Text("What is in the video, from its first second to the last?")
    more = (Message("assistant", (Text("Colours."),)), Message("user", (Text("Which?"),)))
    engine = Engine(model, SETTINGS)
    try:
        _, first = answered(engine, preparer, asked(CLIP, question))
        _, second = answered(engine, preparer, asked(CLIP, question, after=more))
        _, other = answered(engine, preparer, asked(replace(CLIP, fps=4.0), question))
    finally:
        engine.close()
    assert (first.encoded_patches, second.encoded_patches, other.encoded_patches) == (3, 0, 3)
    assert second.cached_tokens >= 32


def test_a_clips_digest_covers_its_bytes_the_frames_taken_and_the_tenant(preparer: Preparer):
    def digests(video: Video, tenant: str = "") -> list[bytes]:
        return [visual.digest for visual in prepared(preparer, asked(video, Text("?")), tenant).visuals]

    file = clip(2, 10)
    whole = digests(Video(file))
    assert digests(Video(file)) == whole
    assert len(set(whole)) == len(whole) == 2
    for other in (digests(Video(file, end=1.0)), digests(Video(file + b"\0"), "tenant"), digests(Video(clip(2, 12)))):
        assert not set(whole) & set(other)


def test_the_last_temporal_patch_of_an_odd_clip_repeats_its_last_frame(preparer: Preparer):
    prompt = prepared(preparer, asked(Video(frames=FRAMES[:3]), Text("?")))
    last = prompt.visuals[-1].picture.pixels
    np.testing.assert_array_equal(last[0], EXPECTED["frames"][2])
    np.testing.assert_array_equal(last[0], last[1])
    assert prompt.videos[0].timestamps == (0.25, 1.0)


def test_a_clip_takes_at_most_half_of_the_context(model: Model, workers: Decoders):
    preparer = Preparer(model, workers, MediaSettings(), 200)
    prompt = prepared(preparer, asked(Video(clip(2, 10, size=(512, 512))), Text("?")))
    assert 50 <= prompt.videos[0].tokens <= 100


def test_clips_beyond_the_limit_are_refused_before_any_is_decoded(preparer: Preparer):
    with pytest.raises(InvalidRequest, match=r"5 videos, the limit is 4; send fewer") as caught:
        prepared(preparer, asked(*[Video(b"no video")] * 5))
    assert caught.value.error_code == "too_many_videos"


def test_turns_with_clips_are_dropped_as_a_whole(model: Model, workers: Decoders):
    preparer = Preparer(model, workers, MediaSettings(), 120)
    long_ago = Message("user", (CLIP, Text("What is this? " * 5)))
    conversation = Conversation((long_ago, Message("assistant", (Text("This."),)), Message("user", (CLIP, Text("?")))))
    prompt = prepared(preparer, conversation)
    assert (prompt.dropped_turns, len(prompt.videos), len(prompt.visuals)) == (1, 1, 3)
