"""Clips of every kind give the right frames, upright and at their own times; what cannot be read is refused by name."""

from __future__ import annotations

import asyncio
import io
import json
import resource
from collections.abc import Callable, Iterator
from dataclasses import asdict
from pathlib import Path

import av
import numpy as np
import pytest

from media.clips import clip, plain
from media.pictures import pattern, png
from sightline.errors import (
    InvalidRequest,
    InvalidVideo,
    TooManyFrames,
    UnsupportedVideoCodec,
    VideoTooLarge,
    VideoTooLong,
)
from sightline.media import frames
from sightline.media.clips import ClipRule, fit_clip, spread, timestamps
from sightline.media.decoders import Decoders
from sightline.media.videos import Clip
from sightline.settings import MediaSettings
from sightline.types import Video

EXPECTED = json.loads((Path(__file__).parent / "fixtures" / "clips.json").read_text(encoding="utf-8"))
RULE = ClipRule(min_pixels=4096, max_pixels=25_165_824)
ONE_WORKER = MediaSettings(workers=1)
Decode = Callable[..., Clip]


@pytest.fixture(scope="module")
def decode() -> Iterator[Decode]:
    """Decodes one clip in a worker process, with settings and wishes by name."""
    pools: dict[MediaSettings, Decoders] = {}

    def decoded(data: bytes | Video, settings: MediaSettings = ONE_WORKER, **wishes: object) -> Clip:
        pool = pools[settings] = pools.get(settings) or Decoders(settings)
        video = data if isinstance(data, Video) else Video(data, param="videos[0]", **wishes)  # type: ignore[arg-type]
        return asyncio.run(pool.videos.decode(video, RULE))

    yield decoded
    for pool in pools.values():
        pool.close()


def shades(found: Clip) -> list[int]:
    """The number each frame shows, modulo 60; to two levels, for colours are rounded on their way."""
    return [round(float(frame[..., 0].mean()) / 4) for frame in found.pixels]


KINDS = {
    "mp4": {},
    "mp4 with B-frames and many key frames": {"between": 3, "keys": 12},
    "mov": {"container": "mov"},
    "mkv": {"container": "matroska"},
    "webm, VP9": {"container": "webm", "codec": "libvpx-vp9"},
    "webm, VP8": {"container": "webm", "codec": "libvpx"},
    "H.265": {"codec": "libx265"},
    "MPEG-4": {"codec": "mpeg4"},
}


@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_gives_the_frames_and_times_of_the_reference(kind: str, decode: Decode):
    found = decode(clip(2, 30, **KINDS[kind]))
    indexes = spread(60, 4)
    assert found.seconds == pytest.approx([index / 30 for index in indexes], abs=0.0006)
    assert shades(found) == pytest.approx(indexes, abs=3)  # MPEG-4 is coarse
    assert (found.original, found.trimmed) == ((64, 64), False)


def test_a_gif_is_read_as_a_clip(decode: Decode):
    found = decode(clip(2, 10, container="gif", codec="gif"), fps=5.0)
    assert found.seconds == pytest.approx([index / 10 for index in spread(20, 10)])
    assert [round(float(frame[..., 0].mean())) for frame in found.pixels] == sorted(
        round(float(frame[..., 0].mean())) for frame in found.pixels
    )


@pytest.mark.parametrize(("seconds", "trimmed"), [(30, False), (45, True)])
def test_of_a_long_clip_the_first_half_minute_is_seen(seconds: int, trimmed: bool, decode: Decode):
    found = decode(clip(seconds, 30, keys=90, size=(32, 32)))
    (reference,) = (
        case
        for case in EXPECTED["frames"]
        if list(case.items())[:2] == [("total", 900), ("rate", 30.0)] and len(case) == 4
    )
    indexes = reference["indexes"]
    assert found.seconds == tuple(index / 30 for index in indexes)
    assert shades(found) == pytest.approx([index % 60 for index in indexes], abs=1)
    assert [f"<{second:.1f} seconds>" for second in timestamps(found.seconds)] == reference["told"]
    assert found.trimmed is trimmed


@pytest.mark.row("V04")
def test_a_long_clip_is_refused_where_the_server_does_not_trim(decode: Decode):
    strict = MediaSettings(workers=1, long_video="reject", max_video_s=1.0)
    with pytest.raises(VideoTooLong, match=r"longer than 1 s, the limit; cut it, or ask for a part") as caught:
        decode(clip(2, 30), strict)
    assert caught.value.param == "videos[0]"
    assert decode(clip(1, 30), strict).trimmed is False
    assert decode(clip(2, 30), strict, start=1.0).trimmed is False


def test_start_and_end_choose_a_part_and_times_stay_those_of_the_whole(decode: Decode):
    found = decode(clip(4, 30, keys=30, between=2), start=1.0, end=3.0)
    indexes = [30 + index for index in spread(60, 4)]
    assert found.seconds == tuple(index / 30 for index in indexes)
    assert shades(found) == pytest.approx([index % 60 for index in indexes], abs=1)
    with pytest.raises(InvalidVideo, match=r"no frame at or after second 9; what there is ends at second 4.0"):
        decode(clip(4, 30), start=9.0)


@pytest.mark.row("V11")
@pytest.mark.parametrize(
    ("wish", "count"), [({"fps": 1000.0}, 64), ({"num_frames": 10**9}, 64), ({"num_frames": 3}, 3)]
)
def test_wishes_for_frames_end_at_the_servers_ceiling(wish: dict[str, float], count: int, decode: Decode):
    assert len(decode(clip(3, 30), **wish).seconds) == count


@pytest.mark.row("V05")
def test_a_variable_rate_gives_true_times_in_order(decode: Decode):
    stamps = [0, 40, 80, 1000, 1040, 2000, 2500, 4000]
    found = decode(clip(stamps=stamps, container="matroska"), num_frames=8)
    assert found.seconds == pytest.approx([stamp / 1000 for stamp in stamps])
    assert shades(found) == pytest.approx(range(8), abs=1)


@pytest.mark.row("V12")
def test_a_rotation_tag_is_followed(decode: Decode):
    top = np.zeros((64, 96, 3), np.uint8)
    top[:32] = 255
    lying = clip(1, 10, size=(64, 96), frame=lambda _: top)
    found = decode(turned(lying))
    assert (found.original, found.pixels.shape[1:3]) == ((96, 64), (96, 64))
    assert found.pixels[0, :, 40:].mean() > 200  # turned clockwise, the top is on the right
    assert found.pixels[0, :, :24].mean() < 50


def turned(data: bytes) -> bytes:
    """The MP4 with the matrix of a picture to be shown a quarter turn clockwise in its track header."""
    one, minus = (1 << 16).to_bytes(4, "big"), (-(1 << 16)).to_bytes(4, "big", signed=True)
    none, whole = bytes(4), (1 << 30).to_bytes(4, "big")
    straight = one + none * 3 + one + none * 3 + whole
    quarter = none + one + none + minus + none * 4 + whole
    at = data.index(straight, data.index(b"tkhd"))
    return data[:at] + quarter + data[at + len(quarter) :]


def test_frames_are_brought_to_the_size_the_reference_gives(decode: Decode):
    found = decode(clip(2, 10, size=(120, 200)))
    assert found.pixels.shape == (4, *fit_clip(4, 120, 200, RULE), 3)


def test_a_clip_as_a_list_of_frames_has_the_size_of_its_first(decode: Decode):
    sent = tuple(png(height, 96) for height in (64, 64, 80))
    found = decode(Video(frames=sent, fps=4.0))
    assert found.pixels.shape == (3, *fit_clip(3, 64, 96, RULE), 3)
    assert (found.seconds, found.original) == ((0.0, 0.25, 0.5), (64, 96))
    np.testing.assert_array_equal(found.pixels[0], pattern(64, 96))


def test_listed_frames_take_no_part_of_a_file(decode: Decode):
    with pytest.raises(InvalidRequest, match=r"start is for video files"):
        decode(Video(frames=(png(32, 32),), start=1.0))


@pytest.mark.row("V10")
def test_listed_frames_are_counted_before_any_is_decoded(decode: Decode):
    with pytest.raises(TooManyFrames, match="10000 frames, the limit is 64"):
        decode(Video(frames=(b"not a picture",) * 10_000))


@pytest.mark.row("V06")
@pytest.mark.parametrize("codec", ["jpeg2000", "mpeg2video", "ffv1"])
def test_a_codec_that_is_not_listed_is_never_opened(codec: str, decode: Decode):
    data = clip(0.5, 25, container="mov" if codec == "jpeg2000" else "matroska", codec=codec)
    with pytest.raises(UnsupportedVideoCodec, match=rf"its codec is {codec}; supported are H.264"):
        decode(data)


@pytest.mark.row("V03")
def test_frames_of_too_many_pixels_are_refused_by_the_header(decode: Decode):
    small = MediaSettings(workers=1, max_frame_pixels=64 * 64)
    with pytest.raises(VideoTooLarge, match=r"96 pixels wide and 64 high, 6144 in all; the limit is 4096"):
        decode(clip(0.5, 10, size=(64, 96)), small)


def test_a_clip_of_too_many_bytes_is_refused_unread(decode: Decode):
    with pytest.raises(VideoTooLarge, match=r"video is 101 bytes, the limit is 100"):
        decode(bytes(101), MediaSettings(workers=1, max_video_bytes=100))


@pytest.mark.row("V01")
@pytest.mark.parametrize("options", [{}, {"movflags": "frag_keyframe+empty_moov"}], ids=["whole", "fragmented"])
@pytest.mark.parametrize("share", [0.1, 0.5, 0.99])
def test_an_mp4_that_is_cut_off_is_refused(options: dict[str, str], share: float, decode: Decode):
    whole = clip(2, 30, options=options)
    with pytest.raises(InvalidVideo, match="the file ends too early; send the whole file"):
        decode(whole[: int(len(whole) * share)])


@pytest.mark.parametrize("kind", ["webm", "gif"])
def test_other_files_that_are_cut_off_are_refused_too(kind: str, decode: Decode):
    whole = clip(2, 10, container=kind, codec="gif" if kind == "gif" else "libvpx")
    with pytest.raises(InvalidVideo, match="the file ends too early; send the whole file"):
        decode(whole[: len(whole) // 2])


@pytest.mark.row("V01", "V07")
@pytest.mark.parametrize(
    ("data", "words"),
    [
        (b"", "it is empty, 0 bytes"),
        (b"\0\0\0\x18ftypmp42" + bytes(12), "damaged or cut off"),
        (b"#EXTM3U\n#EXT-X-TARGETDURATION:1\nhttp://127.0.0.1/a.ts\n", "this is a playlist"),
        (b"ffconcat version 1.0\nfile /etc/passwd\n", "this is a playlist"),
        (b'<?xml version="1.0"?><MPD></MPD>', "this is text, maybe a playlist"),
        (b"RIFF\0\0\0\0AVI LIST", "this is an AVI file"),
        (b"\xff\xd8\xff\xe0", "this is a JPEG picture, not a video; send it as an 'image_url' part"),
        (bytes(range(200, 256)), "the 56 bytes do not start like a known video"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_what_is_no_video_is_named(data: bytes, words: str, decode: Decode):
    with pytest.raises(InvalidVideo, match=words):
        decode(data)


@pytest.mark.row("V09")
def test_a_file_without_moving_pictures_is_refused(decode: Decode):
    with pytest.raises(InvalidVideo, match="it has no moving pictures"):
        decode(sound())


def sound() -> bytes:
    """An MP4 of a second of silence."""
    file = io.BytesIO()
    with av.open(file, "w", format="mp4") as output:
        stream = output.add_stream("aac", rate=44100, layout="mono")
        silence = av.AudioFrame.from_ndarray(np.zeros((1, 44100), np.float32), format="fltp", layout="mono")
        silence.sample_rate = 44100
        output.mux(stream.encode(silence))
        output.mux(stream.encode(None))
    return file.getvalue()


@pytest.mark.row("V08")
def test_sound_attachments_and_references_to_other_files_are_ignored(decode: Decode):
    own = clip(1, 10)
    inside = own.index(b"url \0\0\0\1")  # "the pictures are in this file"
    elsewhere = own[:inside] + b"url \0\0\0\0" + own[inside + 8 :]
    assert decode(elsewhere).seconds == decode(own).seconds
    assert shades(decode(elsewhere)) == shades(decode(own))
    assert decode(with_font()).seconds == pytest.approx([index / 10 for index in spread(10, 4)])


def with_font() -> bytes:
    """An MKV with a font and a track of silence beside its pictures."""
    file = io.BytesIO()
    with av.open(file, "w", format="matroska") as output:
        output.add_attachment("a.ttf", "application/x-truetype-font", bytes(100))
        stream = output.add_stream("libx264", rate=10)
        stream.width = stream.height = 64
        stream.pix_fmt = "yuv420p"
        silent = output.add_stream("aac", rate=44100, layout="mono")
        for number in range(10):
            output.mux(stream.encode(av.VideoFrame.from_ndarray(plain(number), format="rgb24")))
        output.mux(stream.encode(None))
        silence = av.AudioFrame.from_ndarray(np.zeros((1, 44100), np.float32), format="fltp", layout="mono")
        silence.sample_rate = 44100
        output.mux(silent.encode(silence))
        output.mux(silent.encode(None))
    return file.getvalue()


def test_bytes_behind_a_whole_file_are_no_reason_to_refuse_it(decode: Decode):
    own = clip(1, 10)
    for behind in (bytes(20), b"some camera's own note"):
        assert decode(own + behind).seconds == decode(own).seconds


@pytest.mark.row("V02")
def test_what_headers_say_of_length_and_rate_is_not_believed(decode: Decode):
    honest, lying = clip(2, 30), clip(2, 30)
    for box, at, length in ((b"mvhd", 20, 4), (b"mdhd", 20, 4), (b"tkhd", 24, 4)):
        place = lying.index(box) + at
        lying = lying[:place] + b"\x7f\xff\xff\xff" + lying[place + length :]
    assert decode(lying).seconds == decode(honest).seconds


@pytest.mark.row("V02")
@pytest.mark.parametrize("box", [b"stsz", b"stts", b"stco", b"stsc", b"ctts"])
def test_a_sample_table_that_claims_a_billion_frames_is_survived(box: bytes, decode: Decode):
    data = clip(1, 30, between=2)
    at = data.index(box) + (12 if box == b"stsz" else 8)
    try:
        found = decode(data[:at] + b"\x3b\x9a\xca\x00" + data[at + 4 :])
    except (InvalidVideo, VideoTooLarge):
        return
    assert len(found.seconds) <= 64


@pytest.mark.row("V04")
def test_work_without_end_is_stopped_by_processor_time():
    with pytest.raises(VideoTooLarge, match=r"not decoded after 0.001 s of processor time") as caught:
        list(frames.answer(request(cpu_s=0.001), clip(5, 30), 1 << 30))
    assert caught.value.status == 413


def request(**changes: object) -> dict[str, object]:
    """What a worker is asked for a clip of which nothing special is wished."""
    wishes = {"num_frames": None, "start": None, "end": None, "max_s": 30.0, "long": "trim"}
    return {"rule": asdict(RULE), "max_frame_pixels": 16_000_000, "cpu_s": 30.0, **wishes, **changes}


@pytest.mark.row("V04")
def test_more_frames_than_any_camera_takes_are_refused(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(frames, "MAX_PACKETS", 50)
    with pytest.raises(TooManyFrames, match=r"more than 50 frames in 1.7 s, the limit"):
        list(frames.answer(request(), clip(2, 30), 1 << 30))


@pytest.mark.row("V14")
def test_frames_in_a_damaged_part_are_replaced_by_the_next_that_can_be_read(decode: Decode):
    data = clip(4, 30, keys=15, container="matroska", codec="libvpx", frame=lambda n: noisy(n))
    middle = len(data) // 2
    found = decode(data[: middle - 400] + bytes(800) + data[middle + 400 :], num_frames=16)
    assert 8 <= len(found.seconds) <= 16
    assert list(found.seconds) == sorted(found.seconds)


def noisy(number: int) -> np.ndarray:
    return np.random.default_rng(number).integers(0, 256, (64, 64, 3), np.uint8)


def test_memory_does_not_grow_with_the_length_of_a_clip():
    short, long = clip(2, 4, size=(360, 640)), clip(35, 4, size=(360, 640))
    list(frames.answer(request(), short, 1 << 30))
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    for _ in frames.answer(request(), long, 1 << 30):
        pass
    kept = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before
    assert kept < 20 << 10  # KiB; the 60 frames that are seen would be 41 MiB
