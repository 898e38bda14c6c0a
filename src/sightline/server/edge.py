"""What happens to every request: an id, one access line, and no exception that leaves unanswered. Knows no routes."""

from __future__ import annotations

import secrets
import time

import structlog
from starlette.datastructures import MutableHeaders
from starlette.requests import ClientDisconnect
from starlette.routing import BaseRoute
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from sightline.server.answers import ClientGone
from sightline.server.refusals import refusal

CLIENT_GONE = 499  # nginx's number for it; only ever logged

log = structlog.get_logger()


class Edge:
    """ASGI middleware. The request id is ours alone: one that a client sends is neither kept nor echoed."""

    def __init__(self, app: ASGIApp):
        self.app = app

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
            await self.app(scope, receive, tagged)
        except (ClientGone, ClientDisconnect):
            status = CLIENT_GONE
        except Exception as error:
            log.exception("a request failed", request_id=request_id)
            if status:
                raise  # the response has begun; the server below closes the connection
            await refusal(error, scope)(scope, receive, tagged)
        finally:
            pictures: list[int] = state.get("pictures", [])
            log.info(
                "request",
                id=request_id,
                method=scope["method"],
                route=_route(scope),
                status=status,
                ms=round((time.perf_counter() - started) * 1000),
                pictures=len(pictures),
                picture_bytes=sum(pictures),
            )


def _route(scope: Scope) -> str:
    """The route's pattern, not the path: a path is the caller's text."""
    route: BaseRoute | None = scope.get("route")
    return getattr(route, "path", "none")
