"""Turns every error into the envelope its callers know. Decides what may be said of our own mistakes: nothing."""

from __future__ import annotations

from collections.abc import Mapping

from starlette.responses import Response
from starlette.types import Scope

from sightline import wire
from sightline.errors import InternalError, SightlineError, Unavailable
from sightline.server import infer


def safe(error: Exception, request_id: str) -> SightlineError:
    """The error itself when it is meant for the caller; else a fixed text with the request id that leads to the log."""
    if isinstance(error, SightlineError) and (error.status < 500 or isinstance(error, Unavailable)):
        return error
    return InternalError(f"The server made a mistake; the answer could not be finished. Request id: {request_id}")


def refusal(error: Exception, scope: Scope, headers: Mapping[str, str] | None = None) -> Response:
    """The response for an error raised before the answer to the request of `scope` began."""
    request_id: str = scope["state"]["request_id"]
    said = safe(error, request_id)
    headers = dict(headers or {})
    if said.retry_after_s is not None:
        headers["retry-after"] = str(said.retry_after_s)
    if said.status == 413:
        headers["connection"] = "close"  # the rest of the body is not read
    body: wire.Wire = wire.envelope(said)
    if scope["path"].endswith(infer.ROUTES):
        body = infer.error_reply(said, request_id)
    return Response(body.model_dump_json(), said.status, headers, media_type="application/json")
