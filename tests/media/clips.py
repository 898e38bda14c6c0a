"""Makes small clips for tests, with PyAV: every frame one colour, which says its number."""

from __future__ import annotations

import io
from collections.abc import Callable, Mapping
from fractions import Fraction

import av
import numpy as np

Frame = Callable[[int], np.ndarray]
REALTIME = {"libvpx-vp9": {"deadline": "realtime", "cpu-used": "8"}, "libx265": {"x265-params": "log-level=none"}}


def shade(number: int) -> int:
    """The level of red of frame `number`: steps of 4, which no codec blurs."""
    return number % 60 * 4


def plain(number: int, height: int = 64, width: int = 64) -> np.ndarray:
    """Frame `number` of a clip."""
    frame = np.full((height, width, 3), 128, np.uint8)
    frame[..., 0] = shade(number)
    return frame


def clip(
    seconds: float = 2,
    rate: int | Fraction = 30,
    *,
    container: str = "mp4",
    codec: str = "libx264",
    size: tuple[int, int] = (64, 64),
    keys: int = 250,
    between: int = 0,
    stamps: list[int] | None = None,
    frame: Frame | None = None,
    options: Mapping[str, str] | None = None,
) -> bytes:
    """A clip of `size` (height, width) with a key frame every `keys` frames and `between` B-frames in a row.

    `stamps` are the frames' times in milliseconds, in place of an even rate.
    """
    height, width = size
    file = io.BytesIO()
    with av.open(file, "w", format=container, options=dict(options or {})) as output:
        stream = output.add_stream(codec, rate=rate, options=REALTIME.get(codec, {}))
        stream.width, stream.height = width, height
        stream.pix_fmt = "rgb8" if codec == "gif" else "yuv420p"
        context = stream.codec_context
        context.thread_count = 1
        context.gop_size = keys
        if codec in ("libx264", "libx265", "mpeg4"):
            context.max_b_frames = between
        if stamps:
            context.time_base = stream.time_base = Fraction(1, 1000)
        for number in range(len(stamps) if stamps else round(seconds * rate)):
            pixels = frame(number) if frame else plain(number, height, width)
            picture = av.VideoFrame.from_ndarray(pixels, format="rgb24").reformat(format=stream.pix_fmt)
            if stamps:
                picture.pts, picture.time_base = stamps[number], Fraction(1, 1000)
            output.mux(stream.encode(picture))
        output.mux(stream.encode(None))
    return file.getvalue()
