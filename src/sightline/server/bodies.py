"""Takes the body of a request off its connection: of a kind we read, uncompressed, bounded. Knows nothing inside it."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from dataclasses import dataclass

from starlette.requests import Request

from sightline import strict_json
from sightline.errors import ContentTooLarge, OutOfMemory, ReceiveTimeout, UnsupportedMediaType

JSON = "application/json"
FORM = "multipart/form-data"
SMALL = 1 << 20  # bytes of a body that is taken however much else is coming


@dataclass(frozen=True, slots=True)
class Pace:
    """How slowly a body may come: with pauses of `pause_s`, and in all so many seconds behind `bytes_per_s`."""

    pause_s: float = 30.0
    bytes_per_s: float = 4096.0  # 32 kbit/s; the slowest telephone networks still in use carry twice that

    def left_s(self, size: int, waited_s: float) -> float:
        """How long the next piece may take after `size` bytes, for which we waited so long."""
        return self.pause_s + min(0.0, size / self.bytes_per_s - waited_s)


PACE = Pace()


def content_kind(request: Request, *known: str) -> str:
    """The content type without its parameters, one of `known`. Raises UnsupportedMediaType naming them."""
    kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if kind not in known:
        seen = f"the content type is {strict_json.shown(kind)}" if kind else "the request has no content type"
        raise UnsupportedMediaType(f"{seen}; send {' or '.join(known)}")
    coding = request.headers.get("content-encoding", "identity").lower()
    if coding != "identity":
        raise UnsupportedMediaType(f"the content encoding is {strict_json.shown(coding)}; send the body uncompressed")
    return kind


class Intake:
    """How many bytes of bodies are in memory because they are still coming, over all requests."""

    def __init__(self, most: int):
        self.most = most
        self.held = 0

    def take(self, count: int, size: int) -> None:
        """Count more of a body that has `size` bytes with them. Raises OutOfMemory, but not for a small one."""
        self.held += count
        if self.held > self.most and size > SMALL:
            raise OutOfMemory(
                f"other requests are sending {self.held - size} bytes, the limit for all is {self.most}; "
                "send this one again in a moment"
            )


async def chunks(
    request: Request, limit: int, way_out: str = "send smaller or fewer pictures", *, held: bool = True
) -> AsyncIterator[bytes]:
    """The body as it arrives; `held` says that it stays in memory.

    Raises ContentTooLarge past `limit` bytes, unread when its length was declared, ReceiveTimeout for a body that does
    not keep PACE, OutOfMemory when too much is coming from all sides. The time that we take with a chunk does not
    count.
    """
    request.scope["state"]["body_unread"] = True
    declared = request.headers.get("content-length", "0")
    if declared.isdecimal() and int(declared) > limit:
        raise ContentTooLarge(f"the body has {declared} bytes, the limit is {limit}; {way_out}")
    size, waited, coming = 0, 0.0, request.stream()
    intake: Intake = request.app.state.intake
    try:
        while True:
            began = time.monotonic()
            left_s = PACE.left_s(size, waited)
            try:
                async with asyncio.timeout(left_s):
                    chunk = await anext(coming, None)
            except TimeoutError:
                raise _too_slow(size, waited + left_s, way_out) from None
            if chunk is None:
                break
            waited += time.monotonic() - began
            size += len(chunk)
            if held:
                intake.take(len(chunk), size)
            if size > limit:
                raise ContentTooLarge(f"the body has more than {limit} bytes, the limit; {way_out}")
            yield chunk
        request.scope["state"]["body_unread"] = False
    finally:
        intake.held -= size if held else 0


def _too_slow(size: int, waited: float, way_out: str) -> ReceiveTimeout:
    return ReceiveTimeout(
        f"{size} bytes of the body came in {waited:.0f} s; a body may pause for {PACE.pause_s:g} s and must come at "
        f"{PACE.bytes_per_s:g} bytes a second on the whole; send it again over a faster connection, or {way_out}"
    )


async def whole(request: Request, limit: int) -> bytes:
    """The whole body; raises as `chunks` does."""
    body = bytearray()
    async for chunk in chunks(request, limit):
        body += chunk
    return bytes(body)
