"""Has single pictures decoded in worker processes, under every limit. Knows the worker's words, no file formats."""

from __future__ import annotations

import asyncio
from concurrent.futures import Future
from dataclasses import asdict
from typing import Any, Final

import numpy as np

from sightline.errors import (
    DamagedImage,
    EmptyImage,
    ImageTooLarge,
    InvalidImage,
    UnknownImageFormat,
    UnsupportedImage,
)
from sightline.media.images import Picture, ResizeRule, fit, requested
from sightline.media.sandbox import Pool, Program, Reply
from sightline.settings import MediaSettings
from sightline.types import Image

UNREADABLE: Final = "Invalid image data: cannot decode image"
PROGRAM: Final = Program(
    module="sightline.media.worker",
    refusals=(InvalidImage, DamagedImage, UnknownImageFormat, UnsupportedImage, ImageTooLarge),
    late=lambda limit_s: DamagedImage(
        f"{UNREADABLE} (it was not done after {limit_s:g} s, the limit; send it smaller or in a simpler format)"
    ),
    crashed=lambda _aborted: DamagedImage(f"{UNREADABLE} (the decoder crashed on it; save it again as JPEG or PNG)"),
)


class ImageWorkers:
    """Decodes pictures in at most `settings.workers` processes. Any thread and any event loop may call it."""

    def __init__(self, settings: MediaSettings) -> None:
        self._settings = settings
        self._pool = Pool(PROGRAM, workers=settings.workers, memory_bytes=settings.worker_memory_bytes)

    async def decode(self, image: Image, rule: ResizeRule) -> Picture:
        """Decode one picture under every limit; `rule` is the model's, the request's wishes are taken from `image`.

        Raises InvalidImage, ImageTooLarge and InvalidRequest (the caller's mistakes, with `image.param`), OutOfMemory
        when no process can be started, ShuttingDown after close().
        """
        return await asyncio.wrap_future(self._submit(image, rule))

    def decode_now(self, image: Image, rule: ResizeRule) -> Picture:
        """As `decode`, for callers without an event loop; blocks."""
        return self._submit(image, rule).result()

    def close(self) -> None:
        """Kill the workers and wait until they are gone; decodes waiting or under way fail with ShuttingDown."""
        self._pool.close()

    def _submit(self, image: Image, rule: ResizeRule) -> Future[Picture]:
        limit, size = self._settings.max_image_bytes, len(image.data)
        if not size:
            raise EmptyImage(f"{UNREADABLE} (it is empty, 0 bytes; send the whole file)", param=image.param)
        if size > limit:
            raise ImageTooLarge(
                f"image is {size} bytes, the limit is {limit} ({limit / (1 << 20):g} MiB); scale it down",
                param=image.param,
            )
        rule = requested(rule, image, self._settings.max_image_side)
        max_pixels = self._settings.max_image_pixels

        def receive(reply: Reply) -> Picture:
            return receive_picture(reply, reply.header(), rule, max_pixels)

        request = {"rule": asdict(rule), "max_pixels": max_pixels}
        return self._pool.submit(request, image.data, receive, timeout_s=self._settings.timeout_s, param=image.param)


def receive_picture(reply: Reply, header: Any, rule: ResizeRule, max_pixels: int) -> Picture:
    """The picture that a header announces as {"original": [height, width]}, its RGB pixels after it.

    The size of the pixels is not sent but computed here. Raises ValueError for a header that says anything else.
    """
    match header:
        case {"original": [int(height), int(width)]} if min(height, width) > 0 and height * width <= max_pixels:
            original = height, width
        case _:
            raise ValueError("unexpected reply")
    try:
        height, width = fit(*original, rule)
    except InvalidImage:
        raise ValueError(f"picture of {original}") from None
    pixels = np.empty((height, width, 3), np.uint8)
    reply.fill(pixels.data.cast("B"))
    return Picture(pixels, original)
