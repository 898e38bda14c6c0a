"""What happens to every request: an id, an access line, its metrics, no exception left unanswered. Knows no routes."""

from __future__ import annotations

import secrets
import time
from collections.abc import Sequence

import structlog
from starlette.datastructures import MutableHeaders
from starlette.requests import ClientDisconnect
from starlette.routing import BaseRoute
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from sightline.errors import HeadersTooLarge
from sightline.server.answers import ClientGone
from sightline.server.metrics import Metrics
from sightline.server.refusals import refusal

MAX_HEADERS = 200
MAX_HEADER_BYTES = 64 << 10
CLIENT_GONE = 499  # nginx's number for it; only ever logged

log = structlog.get_logger()


class Edge:
    """ASGI middleware. The request id is ours alone: one that a client sends is neither kept nor echoed."""

    def __init__(self, app: ASGIApp, metrics: Metrics):
        self.app = app
        self.metrics = metrics

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        started = time.perf_counter()
        request_id = "req_" + secrets.token_hex(12)
        state = scope.setdefault("state", {})
        state["request_id"] = request_id
        status = 0

        async def tagged(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                MutableHeaders(scope=message)["x-request-id"] = request_id
            await send(message)

        try:
            _check_headers(scope["headers"])
            await self.app(scope, receive, tagged)
        except (ClientGone, ClientDisconnect):
            status = CLIENT_GONE
        except HeadersTooLarge as error:
            await refusal(error, scope)(scope, receive, tagged)
        except Exception as error:
            log.exception("a request failed", request_id=request_id)
            if status:
                raise  # the response has begun; the server below closes the connection
            await refusal(error, scope)(scope, receive, tagged)
        finally:
            if "place" in state:
                state["place"].leave()
            seconds = time.perf_counter() - started
            self.metrics.request_ended(_route(scope), status, state.get("task", ""), seconds)
            if "refused" in state:
                self.metrics.rejected(state["refused"])
            pictures: list[int] = state.get("pictures", [])
            log.info(
                "request",
                id=request_id,
                method=scope["method"],
                route=_route(scope),
                status=status,
                ms=round(seconds * 1000),
                pictures=len(pictures),
                picture_bytes=sum(pictures),
            )


def _check_headers(headers: Sequence[tuple[bytes, bytes]]) -> None:
    """The server below bounds only headers that have not yet arrived whole."""
    size = sum(len(name) + len(value) for name, value in headers)
    if len(headers) > MAX_HEADERS or size > MAX_HEADER_BYTES:
        raise HeadersTooLarge(
            f"the request has {len(headers)} headers of {size} bytes, the limits are {MAX_HEADERS} and "
            f"{MAX_HEADER_BYTES}; send fewer"
        )


def _route(scope: Scope) -> str:
    """The route's pattern, not the path: a path is the caller's text."""
    route: BaseRoute | None = scope.get("route")
    return getattr(route, "path", "none")
