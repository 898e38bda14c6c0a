"""The worker program for clips: finds the frames the model shall see, and decodes no more than leads to them.

Knows FFmpeg's libraries (through PyAV) and Pillow's resize; no pipes, no requests. Nothing a header says about length,
rate or number of frames is believed: the packets that are really there decide. No numpy is imported here.
"""

from __future__ import annotations

import io
import time
from bisect import bisect_right
from collections import deque
from collections.abc import Iterator, Sequence, Set
from dataclasses import dataclass
from fractions import Fraction
from typing import Any, Final

import av
import PIL.Image
from av.container import InputContainer
from av.packet import Packet
from av.stream import Discard, Disposition
from av.video.codeccontext import VideoCodecContext
from av.video.frame import VideoFrame
from av.video.stream import VideoStream

from sightline.errors import InvalidVideo, TooManyFrames, UnsupportedVideoCodec, VideoTooLarge, VideoTooLong
from sightline.media.clips import ClipRule, count_frames, fit_clip, spread

UNREADABLE: Final = "Invalid video data: cannot decode video"
WAY_OUT: Final = "send MP4, MOV, WebM, MKV or GIF"
CONVERT: Final = "convert it to MP4 with H.264"
# Decoders by FFmpeg's names. What is not here is never opened, not even to look how large its frames are.
DECODERS: Final = ("h264", "hevc", "vp8", "vp9", "libdav1d", "av1", "mpeg4", "gif")
GUESSED_RATE: Final = 24.0  # the reference's own guess
MAX_PACKETS: Final = 20_000  # of the part that is read: 30 s of the fastest cameras have 7,200
UPRIGHT: Final = {
    90: PIL.Image.Transpose.ROTATE_90,
    180: PIL.Image.Transpose.ROTATE_180,
    270: PIL.Image.Transpose.ROTATE_270,
}
BOXES: Final = frozenset(b"ftyp styp moov moof mdat mfra sidx free skip wide pnot meta udta uuid".split())
# (demuxer, offset, bytes found there); the first match decides, and no demuxer but that one ever runs.
CLIPS: Final = (
    *(("mov", 4, box) for box in sorted(BOXES)),
    ("matroska", 0, b"\x1aE\xdf\xa3"),
    ("gif", 0, b"GIF87a"),
    ("gif", 0, b"GIF89a"),
)
OTHERS: Final = (
    ("a HEIC or AVIF picture", 4, b"ftypheic"),
    ("a HEIC or AVIF picture", 4, b"ftypmif1"),
    ("a HEIC or AVIF picture", 4, b"ftypavif"),
    ("an AVI file", 8, b"AVI "),
    ("a Flash video", 0, b"FLV\x01"),
    ("a Windows Media file", 0, b"\x30\x26\xb2\x75"),
    ("an Ogg file", 0, b"OggS"),
    ("an MPEG program stream", 0, b"\0\0\1\xba"),
    ("an MPEG video stream", 0, b"\0\0\1\xb3"),
    ("an MPEG transport stream", 188, b"G"),
    ("a playlist, which only points at other files", 0, b"#EXTM3U"),
    ("a playlist, which only points at other files", 0, b"ffconcat"),
    ("a JPEG picture", 0, b"\xff\xd8\xff"),
    ("a PNG picture", 0, b"\x89PNG"),
    ("a WebP picture", 8, b"WEBP"),
    ("a sound file", 8, b"WAVE"),
    ("a sound file", 0, b"ID3"),
    ("a PDF", 0, b"%PDF"),
)
PICTURE: Final = "not a video; send it as an 'image_url' part, or in 'images'"
ELSEWHERE: Final = {  # what has a place of its own: in a chat, in a task
    "a HEIC or AVIF picture": PICTURE,
    "a JPEG picture": PICTURE,
    "a PNG picture": PICTURE,
    "a WebP picture": PICTURE,
    "a PDF": "not a video; send it as a 'file' part, or in 'documents'",
}


@dataclass(frozen=True, slots=True)
class _Limits:
    """What one clip may cost: pixels of a frame, and processor time, used up when time.process_time() is `until`."""

    max_pixels: int
    cpu_s: float
    until: float

    def check_time(self) -> None:
        if time.process_time() > self.until:
            raise VideoTooLarge(
                f"video was not decoded after {self.cpu_s:g} s of processor time, the limit; "
                "send a shorter part, scale it down, or save it with more key frames"
            )

    def check_size(self, width: int, height: int) -> None:
        if width * height > self.max_pixels:
            raise VideoTooLarge(
                f"the video's frames are {width} pixels wide and {height} high, {width * height} in all; "
                f"the limit is {self.max_pixels}, scale it down"
            )


@dataclass(frozen=True, slots=True)
class _Sample:
    """One packet of the part that is read: its frame's second within the clip, and whether decoding can begin here."""

    packet: Packet[VideoStream]
    second: float
    is_key: bool


@dataclass(frozen=True, slots=True)
class _Part:
    """The part of a clip that is read: packets in decoding order, seconds of the frames in it in the order shown."""

    samples: Sequence[_Sample]
    seconds: Sequence[float]
    clock: _Clock
    trimmed: bool


def answer(request: dict[str, Any], data: bytes, memory_bytes: int) -> Iterator[tuple[dict[str, object], bytes]]:
    """First {"frames", "trimmed"}, then as many {"second", "original"}, each with the frame's RGB pixels after it.

    A frame that cannot be decoded is {"second": null}. The pixels have the size that `fit_clip` gives for the
    `original` (height, width) of the first frame there is.
    """
    limits = _Limits(request["max_frame_pixels"], request["cpu_s"], time.process_time() + request["cpu_s"])
    rule = ClipRule(**request["rule"])
    try:
        with _opened(data) as container:
            stream = _pictures_of(container, limits)
            part = _part(container, stream, request, limits)
            total = len(part.seconds)
            count = count_frames(total, _rate(stream, part.seconds), rule, request["num_frames"])
            yield {"frames": count, "trimmed": part.trimmed}, b""
            wanted, size = [part.seconds[index] for index in spread(total, count)], None
            for found in _decoded(stream.codec_context, part, wanted, limits):
                if found is None:
                    yield {"second": None}, b""
                    continue
                second, frame = found
                picture = _upright(frame)
                height, width = size = size or fit_clip(count, picture.height, picture.width, rule)
                resized = picture.resize((width, height), PIL.Image.Resampling.BICUBIC)
                yield {"second": second, "original": (picture.height, picture.width)}, resized.tobytes()
    except MemoryError:  # FFmpeg's lack of memory is one too
        raise VideoTooLarge(
            f"video needs more than {memory_bytes >> 20} MiB of memory to decode, the limit; scale it down"
        ) from None
    except av.FFmpegError:
        raise InvalidVideo(f"{UNREADABLE} (it is damaged; save it again as MP4 with H.264)") from None


# ---- opening


def _opened(data: bytes) -> InputContainer:
    """The container, of one allowed kind, from memory alone. Raises InvalidVideo."""
    kind = _kind(data)
    if not _is_whole(data, kind):
        raise InvalidVideo(f"{UNREADABLE} (the file ends too early; send the whole file)")

    def refuse(*_: object, **__: object) -> object:
        raise PermissionError  # a container that names other files gets none

    # The lists bind the libraries too, when they look into the streams to learn their sizes.
    lists = {"format_whitelist": kind, "codec_whitelist": ",".join(DECODERS)}
    try:
        return av.open(io.BytesIO(data), "r", format=kind, container_options=lists, io_open=refuse)
    except MemoryError:
        raise
    except Exception:  # a parser of hostile bytes raises anything
        raise InvalidVideo(f"{UNREADABLE} (it is damaged or cut off; send the whole file)") from None


def _kind(data: bytes) -> str:
    """The demuxer for what the first bytes announce. Raises InvalidVideo naming what they announce instead."""
    for what, offset, magic in OTHERS:
        if data.startswith(magic, offset):
            way_out = ELSEWHERE.get(what, f"which is not supported; {CONVERT}")
            raise InvalidVideo(f"{UNREADABLE} (this is {what}, {way_out})")
    for kind, offset, magic in CLIPS:
        if data.startswith(magic, offset):
            return kind
    start = data[:512].lstrip(b"\xef\xbb\xbf \t\r\n")
    if start and all(9 <= byte < 127 for byte in start):
        raise InvalidVideo(f"{UNREADABLE} (this is text, maybe a playlist; {WAY_OUT})")
    raise InvalidVideo(f"{UNREADABLE} (the {len(data)} bytes do not start like a known video; {WAY_OUT})")


def _is_whole(data: bytes, kind: str) -> bool:
    """Whether the file is as long as its outermost parts say. FFmpeg plays what there is and says nothing."""
    if kind == "gif":
        return b";" in data[-16:]  # the trailer; some programs write a few bytes after it
    if kind == "matroska":
        return _segment_fits(data)
    at = 0
    while at + 8 <= len(data):
        size, name = int.from_bytes(data[at : at + 4], "big"), data[at + 4 : at + 8]
        if size == 1:
            size = int.from_bytes(data[at + 8 : at + 16], "big")
        if size == 0 or name not in BOXES:  # up to the end of the file; or something that was added behind it
            return True
        if size < 8 or at + size > len(data):
            return False
        at += size
    return True


def _segment_fits(data: bytes) -> bool:
    """Whether a Matroska file holds all of its segment; live recordings do not say how long that is."""
    header, at = _ebml_size(data, 4)
    at += header or 0
    if data[at : at + 4] != b"\x18\x53\x80\x67":
        return True
    size, begin = _ebml_size(data, at + 4)
    return size is None or begin + size <= len(data)


def _ebml_size(data: bytes, at: int) -> tuple[int | None, int]:
    """A variable-length size and where it ends; None for a size that is not known."""
    length = 9 - data[at].bit_length() if at < len(data) and data[at] else 1
    value = int.from_bytes(data[at : at + length], "big") & ((1 << 7 * length) - 1)
    return (None if value == (1 << 7 * length) - 1 else value), at + length


def _pictures_of(container: InputContainer, limits: _Limits) -> VideoStream:
    """The stream with the moving pictures. Raises InvalidVideo, UnsupportedVideoCodec and VideoTooLarge."""
    moving = [s for s in container.streams.video if not s.disposition & Disposition.attached_pic]
    if not moving:
        raise InvalidVideo(f"{UNREADABLE} (it has no moving pictures; send a video, or its cover as an image)")
    stream, context = moving[0], moving[0].codec_context
    name = "unknown" if context is None else context.name
    if name not in DECODERS:
        raise UnsupportedVideoCodec(
            f"{UNREADABLE} (its codec is {name}; supported are H.264, H.265, VP8, VP9, AV1, MPEG-4 and GIF; {CONVERT})"
        )
    limits.check_size(context.width, context.height)
    context.thread_count = 1  # processor time is wall time then, and few frames are held at once
    context.options = {"max_pixels": str(limits.max_pixels)}
    for other in container.streams:
        if other is not stream:
            other.discard = Discard.all
    return stream


# ---- which frames


class _Clock:
    """Tells seconds within the clip from a stream's timestamps: from the first one on, which is second 0.

    What has no timestamp comes one frame after what was asked for before.
    """

    def __init__(self, stream: VideoStream) -> None:
        self._tick = stream.time_base or Fraction(1, 1000)
        rate = float(stream.average_rate or 0)
        self._period = 1 / rate if 1 <= rate <= 1000 else 1 / GUESSED_RATE
        self._first: int | None = None
        self._second = -self._period

    def second(self, stamp: int | None) -> float:
        if stamp is None:
            self._second += self._period
        else:
            self._first = stamp if self._first is None else self._first
            self._second = float((stamp - self._first) * self._tick)
        return self._second


def _part(container: InputContainer, stream: VideoStream, request: dict[str, Any], limits: _Limits) -> _Part:
    """The packets between the request's `start` and `end`, at most `max_s` seconds, and those that lead to them.

    Raises VideoTooLong, TooManyFrames, VideoTooLarge and InvalidVideo.
    """
    start, end, max_s = request["start"] or 0.0, request["end"], request["max_s"]
    last = start + max_s if end is None else min(end, start + max_s)
    clock, samples, trimmed, length = _Clock(stream), list[_Sample](), False, 0.0
    for packet in _packets(container, stream, limits):
        second = clock.second(packet.dts if packet.pts is None else packet.pts)
        length = max(length, second)
        is_key = packet.is_keyframe and (not samples or stream.codec_context.name != "gif")
        if is_key and second <= start:
            samples.clear()
        if second < last:
            samples.append(_Sample(packet, second, is_key))
        elif end is None or second < end:
            trimmed = True
        if len(samples) > MAX_PACKETS:
            raise TooManyFrames(
                f"video has more than {MAX_PACKETS} frames in {second - start:.1f} s, the limit; "
                "send a shorter part, or fewer frames a second"
            )
        # A frame is never decoded after it is shown, so what is decoded past the end is shown past it.
        if second >= last and (packet.dts is None or clock.second(packet.dts) >= last):
            break
    if trimmed and request["long"] == "reject":
        raise VideoTooLong(f"video is longer than {max_s:g} s, the limit; cut it, or ask for a part: start and end")
    seconds = sorted(sample.second for sample in samples if sample.second >= start)
    if not seconds:
        raise InvalidVideo(
            f"{UNREADABLE} (no frame at or after second {start:g}; what there is ends at second {length:.1f})"
        )
    return _Part(samples, seconds, clock, trimmed)


def _packets(container: InputContainer, stream: VideoStream, limits: _Limits) -> Iterator[Packet[VideoStream]]:
    """The packets of frames that are shown; a file that breaks off ends there."""
    packets = container.demux(stream)
    while True:
        limits.check_time()
        try:
            packet = next(packets, None)
        except MemoryError:
            raise
        except av.FFmpegError:
            return
        if packet is None:
            return
        if packet.size and not packet.is_discard:
            yield packet


def _rate(stream: VideoStream, seconds: Sequence[float]) -> float:
    """Frames per second: the header's where the frames bear it out to a percent, for some containers round times."""
    told = float(stream.average_rate or 0)
    if seconds[-1] <= seconds[0]:
        return GUESSED_RATE
    seen = (len(seconds) - 1) / (seconds[-1] - seconds[0])
    return told if abs(told - seen) <= 0.01 * seen else seen


# ---- decoding


def _decoded(
    context: VideoCodecContext, part: _Part, wanted: Sequence[float], limits: _Limits
) -> Iterator[tuple[float, VideoFrame] | None]:
    """For each wanted second its frame, or the next one that can be decoded; None where there is none any more.

    Decoding begins at the last key frame before what is wanted, and jumps to a later one where that saves some.
    """
    keys = [index for index, sample in enumerate(part.samples) if sample.is_key] or [0]
    key_seconds = [part.samples[index].second for index in keys]
    walk, shown = _Walk(context, part, frozenset(wanted), limits), None
    for second in wanted:
        if shown is None or shown[0] < second:
            walk.jump(keys[max(0, bisect_right(key_seconds, second) - 1)])
            shown = next((found for found in walk.frames() if found[0] >= second), None)
        yield shown


class _Walk:
    """Decodes packet after packet; may leave some out by jumping to a later key frame."""

    def __init__(self, context: VideoCodecContext, part: _Part, wanted: Set[float], limits: _Limits) -> None:
        self._context = context
        self._part = part
        self._wanted = wanted
        self._limits = limits
        self._next = 0  # packet
        self._ready: deque[tuple[float, VideoFrame]] = deque()

    def jump(self, key: int) -> None:
        """Go on at packet `key` unless it is already behind."""
        if key > self._next:
            self._context.flush_buffers()
            self._ready.clear()
            self._next = key

    def frames(self) -> Iterator[tuple[float, VideoFrame]]:
        """Frames with their seconds, as they are shown; those that cannot be decoded are left out."""
        samples = self._part.samples
        while True:
            while self._ready:
                yield self._ready.popleft()
            if self._next > len(samples):
                return
            packet = None  # means: give what you hold
            if self._next < len(samples):
                packet, second = samples[self._next].packet, samples[self._next].second
                # What nobody wants to see and no other frame is made from need not be decoded.
                self._context.skip_frame = "DEFAULT" if second in self._wanted else "NONREF"
            self._next += 1
            self._limits.check_time()
            try:
                found = self._context.decode(packet)
            except MemoryError:
                raise
            except av.FFmpegError:
                continue
            for frame in found:
                self._limits.check_size(frame.width, frame.height)
                self._ready.append((self._part.clock.second(frame.pts), frame))


def _upright(frame: VideoFrame) -> PIL.Image.Image:
    """The frame as RGB, turned as its rotation tag says. Pixels that are not square stay as they are."""
    rgb = frame.reformat(format="rgb24")
    plane = rgb.planes[0]
    picture = PIL.Image.frombuffer("RGB", (rgb.width, rgb.height), bytes(plane), "raw", "RGB", plane.line_size, 1)
    turn = UPRIGHT.get(frame.rotation % 360)
    return picture if turn is None else picture.transpose(turn)
