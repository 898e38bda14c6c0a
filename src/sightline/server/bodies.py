"""Takes the body of a request off its connection: of a kind we read, uncompressed, bounded. Knows nothing inside it."""

from __future__ import annotations

from collections.abc import AsyncIterator

from starlette.requests import Request

from sightline import strict_json
from sightline.errors import ContentTooLarge, UnsupportedMediaType

JSON = "application/json"
FORM = "multipart/form-data"


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


async def chunks(request: Request, limit: int, way_out: str = "send smaller or fewer pictures") -> AsyncIterator[bytes]:
    """The body as it arrives. Raises ContentTooLarge past `limit` bytes, unread when its length was declared."""
    request.scope["state"]["body_unread"] = True
    declared = request.headers.get("content-length", "0")
    if declared.isdecimal() and int(declared) > limit:
        raise ContentTooLarge(f"the body has {declared} bytes, the limit is {limit}; {way_out}")
    size = 0
    async for chunk in request.stream():
        size += len(chunk)
        if size > limit:
            raise ContentTooLarge(f"the body has more than {limit} bytes, the limit; {way_out}")
        yield chunk
    request.scope["state"]["body_unread"] = False


async def whole(request: Request, limit: int) -> bytes:
    """The whole body; raises as `chunks` does."""
    body = bytearray()
    async for chunk in chunks(request, limit):
        body += chunk
    return bytes(body)
