"""Has clips decoded in worker processes, under every limit. Knows the worker's words, no file formats."""

from __future__ import annotations

import asyncio
import math
from dataclasses import asdict, dataclass, replace
from typing import Final

import numpy as np
from numpy.typing import NDArray

from sightline.errors import (
    InvalidRequest,
    InvalidVideo,
    ProcessingTimeout,
    TooManyFrames,
    UnsupportedVideoCodec,
    VideoTooLarge,
    VideoTooLong,
)
from sightline.media.clips import ClipRule, fit_clip
from sightline.media.images import Picture, ResizeRule
from sightline.media.pictures import ImageWorkers
from sightline.media.sandbox import Pool, Program, Reply
from sightline.settings import MediaSettings
from sightline.types import Image, Video

UNREADABLE: Final = "Invalid video data: cannot decode video"
LISTED_FPS: Final = 2.0  # of frames that come as a list and do not say it, as in Qwen's own tools
CPU_SHARE: Final = 0.75  # of the time limit: a clip that takes too much work is told so, not that time is up
PROGRAM: Final = Program(
    module="sightline.media.frames",
    refusals=(InvalidVideo, UnsupportedVideoCodec, TooManyFrames, VideoTooLong, VideoTooLarge),
    late=lambda limit_s: ProcessingTimeout(
        f"video was not decoded after {limit_s:g} s, the limit; send a shorter or smaller one, or the same later"
    ),
    crashed=lambda _aborted: InvalidVideo(f"{UNREADABLE} (the decoder crashed on it; save it again as MP4 with H.264)"),
)


@dataclass(frozen=True, slots=True)
class Clip:
    """The frames of a clip that the model sees, upright: RGB uint8 [frames, height, width, 3], each with its second.

    `original` is the (height, width) of the first frame as it was sent, turned upright.
    """

    pixels: NDArray[np.uint8]
    seconds: tuple[float, ...]
    original: tuple[int, int]
    trimmed: bool


class VideoWorkers:
    """Decodes clips in at most `settings.workers` processes. Any thread and any event loop may call it.

    Clips that come as a list of frames are pictures; `images` decodes those.
    """

    def __init__(self, settings: MediaSettings, images: ImageWorkers) -> None:
        self._settings = settings
        self._images = images
        self._pool = Pool(PROGRAM, workers=settings.workers, memory_bytes=settings.worker_memory_bytes)

    async def decode(self, video: Video, rule: ClipRule) -> Clip:
        """Decode one clip under every limit; `rule` is the model's, the request's wishes are taken from `video`.

        Raises InvalidVideo, TooManyFrames, VideoTooLong, VideoTooLarge, InvalidRequest (the caller's mistakes, with
        `video.param`), for listed frames what pictures raise, ProcessingTimeout, OutOfMemory when no process can be
        started, ShuttingDown after close().
        """
        rule = wished(rule, video, self._settings)
        if video.frames:
            return await self._listed(video, rule)
        return await self._from_file(video, rule)

    def close(self) -> None:
        """Kill the workers and wait until they are gone; decodes waiting or under way fail with ShuttingDown."""
        self._pool.close()

    async def _from_file(self, video: Video, rule: ClipRule) -> Clip:
        settings, size = self._settings, len(video.data)
        if not size:
            raise InvalidVideo(f"{UNREADABLE} (it is empty, 0 bytes; send the whole file)", param=video.param)
        if size > settings.max_video_bytes:
            limit = settings.max_video_bytes
            raise VideoTooLarge(
                f"video is {size} bytes, the limit is {limit} ({limit / (1 << 20):g} MiB); cut it, or scale it down",
                param=video.param,
            )
        request = {
            "rule": asdict(rule),
            "num_frames": video.num_frames,
            "start": video.start,
            "end": video.end,
            "max_s": settings.max_video_s,
            "long": settings.long_video,
            "max_frame_pixels": settings.max_frame_pixels,
            "cpu_s": settings.video_timeout_s * CPU_SHARE,
        }

        def receive(reply: Reply) -> Clip:
            return receive_clip(reply, rule, settings.max_frame_pixels)

        timeout_s = settings.video_timeout_s
        return await self._pool.ask(request, video.data, receive, timeout_s=timeout_s, param=video.param)

    async def _listed(self, video: Video, rule: ClipRule) -> Clip:
        """A clip out of single pictures, all brought to the size that suits the first."""
        param, count, most = video.param, len(video.frames), rule.max_frames
        if count > most:
            raise TooManyFrames(f"video has {count} frames, the limit is {most}; send fewer", param=param)
        for name in ("num_frames", "start", "end"):
            if getattr(video, name) is not None:
                raise InvalidRequest(f"{name} is for video files; from a list of frames leave some out", param=param)
        cell = rule.patch * rule.merge
        first = await self._frame(video, 0, ResizeRule(min_pixels=1, max_pixels=cell * cell))
        height, width = fit_clip(count, *first.original, rule)
        exact = ResizeRule(min_pixels=1, max_pixels=height * width, exact=(height, width))
        frames = await asyncio.gather(*(self._frame(video, index, exact) for index in range(count)))
        fps = video.fps or LISTED_FPS
        return Clip(
            np.stack([frame.pixels for frame in frames]),
            tuple(index / fps for index in range(count)),
            first.original,
            trimmed=False,
        )

    async def _frame(self, video: Video, index: int, rule: ResizeRule) -> Picture:
        height, width = rule.exact or (None, None)
        where = None if video.param is None else f"{video.param}[{index}]"
        frame = Image(video.frames[index], resized_height=height, resized_width=width, param=where)
        return await self._images.decode(frame, rule)


def wished(rule: ClipRule, video: Video, settings: MediaSettings) -> ClipRule:
    """The rule for one clip: the model's, lowered by what the request and the operator say, never raised.

    Raises InvalidRequest for values below 1, for both `fps` and `num_frames`, and for limits the wrong way round.
    """

    def refuse(what: str) -> InvalidRequest:
        return InvalidRequest(what, param=video.param)

    for name in ("fps", "num_frames", "min_pixels", "max_pixels"):
        value = getattr(video, name)
        if value is not None and not value > 0:
            raise refuse(f"{name} is {value}, must be above 0; leave it out to use the model's")
    if video.fps is not None and video.num_frames is not None:
        raise refuse(f"fps is {video.fps:g} and num_frames is {video.num_frames}; send one of them")
    start, end = video.start or 0.0, video.end
    if start < 0 or (end is not None and end <= start):
        last = "not given" if end is None else f"{end:g}"
        raise refuse(f"start is {start:g} and end is {last}; both are seconds from 0, and end comes after start")
    if video.min_pixels and video.max_pixels and video.min_pixels > video.max_pixels:
        raise refuse(
            f"min_pixels is {video.min_pixels}, above max_pixels, which is {video.max_pixels}; lower min_pixels"
        )
    most = min(rule.max_frames, settings.max_video_frames)
    return replace(
        rule,
        fps=video.fps or rule.fps,
        min_frames=min(rule.min_frames, most),
        max_frames=most,
        max_pixels=min(rule.max_pixels, settings.max_video_pixels),
        frame_min=video.min_pixels,
        frame_max=video.max_pixels,
        max_side=settings.max_image_side,
    )


def receive_clip(reply: Reply, rule: ClipRule, max_frame_pixels: int) -> Clip:
    """The clip that a worker sends: see `frames.answer`. Frames it could not decode are left out.

    The size of the pixels is computed here. Raises InvalidVideo when there is no frame at all, ValueError for what the
    worker would never say.
    """
    match reply.header():
        case {"frames": int(count), "trimmed": bool(trimmed)} if 1 <= count <= rule.max_frames:
            pass
        case _:
            raise ValueError("unexpected reply")
    seconds: list[float] = []
    pixels, original = np.empty((0, 0, 0, 3), np.uint8), (0, 0)
    for _ in range(count):
        match reply.header():
            case {"second": None}:
                continue
            case {"second": float(second), "original": [int(height), int(width)]} if (
                abs(second) < math.inf and min(height, width) > 0 and height * width <= max_frame_pixels
            ):
                pass
            case _:
                raise ValueError("unexpected frame")
        if not seconds:
            original = height, width
            pixels = np.empty((count, *_fitted(count, original, rule), 3), np.uint8)
        reply.fill(pixels[len(seconds)].data.cast("B"))
        seconds.append(second)
    if not seconds:
        raise InvalidVideo(f"{UNREADABLE} (none of its frames can be decoded; save it again as MP4 with H.264)")
    return Clip(pixels[: len(seconds)], tuple(seconds), original, trimmed)


def _fitted(count: int, original: tuple[int, int], rule: ClipRule) -> tuple[int, int]:
    try:
        return fit_clip(count, *original, rule)
    except InvalidVideo:
        raise ValueError(f"frames of {original}") from None
