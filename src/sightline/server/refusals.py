"""Turns every error into the envelope its callers know. Decides what may be said of our own mistakes: nothing."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from contextlib import suppress
from typing import Final

from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from sightline import wire
from sightline.errors import InternalError, SightlineError, Unavailable
from sightline.server import infer

LINGER_S: Final = 5.0
SILENCE_S: Final = 1.0


def safe(error: Exception, request_id: str) -> SightlineError:
    """The error itself when it is meant for the caller; else a fixed text with the request id that leads to the log."""
    if isinstance(error, SightlineError) and (error.status < 500 or isinstance(error, Unavailable)):
        return error
    return InternalError(f"The server made a mistake; the answer could not be finished. Request id: {request_id}")


def note(said: SightlineError, scope: Scope) -> None:
    """Leave word, for the metrics, that the request of `scope` got this error."""
    scope["state"]["refused"] = said.error_code or said.type


class Parting(Response):
    """A response to somebody who is still sending. The connection is closed after SILENCE_S, or LINGER_S of more.

    Closed at once it would be reset, for there is unread data, and most clients would lose the response with it.
    """

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        headers = [*self.raw_headers, (b"connection", b"close")]
        await send({"type": "http.response.start", "status": self.status_code, "headers": headers})
        await send({"type": "http.response.body", "body": self.body, "more_body": True})
        with suppress(TimeoutError):
            async with asyncio.timeout(LINGER_S):
                while (await asyncio.wait_for(receive(), SILENCE_S)).get("more_body"):
                    pass
        await send({"type": "http.response.body", "body": b"", "more_body": False})


def refusal(error: Exception, scope: Scope, headers: Mapping[str, str] | None = None) -> Response:
    """The response for an error raised before the answer to the request of `scope` began."""
    request_id: str = scope["state"]["request_id"]
    said = safe(error, request_id)
    note(said, scope)
    headers = dict(headers or {})
    if said.retry_after_s is not None:
        headers["retry-after"] = str(said.retry_after_s)
    body = error_body(said, scope["path"], request_id)
    kind = Parting if said.status in (408, 413, 503) and scope["state"].get("body_unread") else Response
    return kind(body.model_dump_json(), said.status, headers, media_type="application/json")


def error_body(said: SightlineError, path: str, request_id: str) -> wire.Wire:
    """A safe error as the route at `path` tells it."""
    return infer.error_reply(said, request_id) if path.endswith(infer.ROUTES) else wire.envelope(said)
