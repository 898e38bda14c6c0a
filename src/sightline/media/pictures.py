"""Has single pictures decoded in worker processes, under every limit. Knows the worker's words, no file formats."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import asdict
from typing import Any, Final, TypeVar

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

T = TypeVar("T")


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
        request, receive = self._decoding(image, rule)
        return await self._ask(request, image, receive)

    def decode_now(self, image: Image, rule: ResizeRule) -> Picture:
        """As `decode`, for callers without an event loop; blocks."""
        request, receive = self._decoding(image, rule)
        timeout_s = self._settings.timeout_s
        return self._pool.submit(request, image.data, receive, timeout_s=timeout_s, param=image.param).result()

    async def measure(self, image: Image, rule: ResizeRule) -> tuple[int, int]:
        """The (height, width) in pixels at which the model would see a picture, from its header alone.

        Not turned: the two may be swapped. Raises as `decode`, for what shows in the header.
        """
        rule, max_pixels = self._checked(image, rule), self._settings.max_image_pixels

        def receive(reply: Reply) -> tuple[int, int]:
            return receive_size(reply.header(), rule, max_pixels)

        return await self._ask({"rule": None, "max_pixels": max_pixels}, image, receive)

    def close(self) -> None:
        """Kill the workers and wait until they are gone; decodes waiting or under way fail with ShuttingDown."""
        self._pool.close()

    def _decoding(self, image: Image, rule: ResizeRule) -> tuple[Mapping[str, object], Callable[[Reply], Picture]]:
        """What the worker is asked for a picture, and what makes one of its reply."""
        rule, max_pixels = self._checked(image, rule), self._settings.max_image_pixels

        def receive(reply: Reply) -> Picture:
            return receive_picture(reply, reply.header(), rule, max_pixels)

        return {"rule": asdict(rule), "max_pixels": max_pixels}, receive

    async def _ask(self, request: Mapping[str, object], image: Image, receive: Callable[[Reply], T]) -> T:
        timeout_s = self._settings.timeout_s
        return await self._pool.ask(request, image.data, receive, timeout_s=timeout_s, param=image.param)

    def _checked(self, image: Image, rule: ResizeRule) -> ResizeRule:
        """The rule with the request's wishes, for a picture of a size that is decoded at all."""
        limit, size = self._settings.max_image_bytes, len(image.data)
        if not size:
            raise EmptyImage(f"{UNREADABLE} (it is empty, 0 bytes; send the whole file)", param=image.param)
        if size > limit:
            raise ImageTooLarge(
                f"image is {size} bytes, the limit is {limit} ({limit / (1 << 20):g} MiB); scale it down",
                param=image.param,
            )
        return requested(rule, image, self._settings.max_image_side)


def receive_size(header: Any, rule: ResizeRule, max_pixels: int) -> tuple[int, int]:
    """The (height, width) at which the model sees what a header announces as {"original": [height, width]}.

    Raises InvalidImage for a shape that it cannot see, ValueError for a header that says anything else.
    """
    return fit(*_original(header, max_pixels), rule)


def receive_picture(reply: Reply, header: Any, rule: ResizeRule, max_pixels: int) -> Picture:
    """The picture that a header announces as {"original": [height, width]}, its RGB pixels after it.

    The size of the pixels is not sent but computed here. Raises ValueError for a header that says anything else.
    """
    original = _original(header, max_pixels)
    try:
        height, width = fit(*original, rule)
    except InvalidImage:
        raise ValueError(f"picture of {original}") from None
    pixels = np.empty((height, width, 3), np.uint8)
    reply.fill(pixels.data.cast("B"))
    return Picture(pixels, original)


def _original(header: Any, max_pixels: int) -> tuple[int, int]:
    match header:
        case {"original": [int(height), int(width)]} if min(height, width) > 0 and height * width <= max_pixels:
            return height, width
    raise ValueError("unexpected reply")
