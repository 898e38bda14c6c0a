"""One HTTP request put to an ASGI app without a socket, so that a test decides when the client goes away."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterable, Mapping, MutableMapping
from typing import Any

from starlette.types import ASGIApp

JSON = {"content-type": "application/json"}


class Reply:
    """What came back so far."""

    def __init__(self) -> None:
        self.status = 0
        self.headers: dict[str, str] = {}
        self.body = b""

    @property
    def json(self) -> Any:
        return json.loads(self.body)

    @property
    def error(self) -> Any:
        return self.json["error"]

    @property
    def events(self) -> list[str]:
        """The server-sent events, each as its text."""
        return self.body.decode().split("\n\n")[:-1]


class Exchange:
    """A request under way: `begin` it, `until` something came, `leave`, `end`. A `cut` body never ends."""

    def __init__(
        self, app: ASGIApp, method: str, path: str, body: Iterable[bytes], headers: Mapping[str, str], cut: bool = False
    ):
        self.app = app
        self.reply = Reply()
        self.read = 0  # bytes of the body the app took before it replied
        self._chunks = list(body)
        self._cut = cut
        self._gone = asyncio.Event()
        self._changed = asyncio.Event()
        path, _, query = path.partition("?")
        self._scope = {
            "type": "http",
            "asgi": {"version": "3.0", "spec_version": "2.3"},
            "http_version": "1.1",
            "method": method,
            "scheme": "http",
            "path": path,
            "raw_path": path.encode(),
            "query_string": query.encode(),
            "root_path": "",
            "headers": [(name.lower().encode(), value.encode()) for name, value in headers.items()],
            "client": ("127.0.0.1", 5000),
            "server": ("127.0.0.1", 8080),
            "state": {},
        }

    def begin(self) -> Exchange:
        self._task = asyncio.create_task(self.app(self._scope, self._receive, self._send))
        return self

    async def until(self, piece: bytes) -> Reply:
        """Wait until `piece` is in the body that came back."""
        while piece not in self.reply.body:
            self._changed.clear()
            await asyncio.wait_for(self._changed.wait(), 5)
        return self.reply

    def leave(self) -> None:
        self._gone.set()

    async def end(self) -> Reply:
        await asyncio.wait_for(self._task, 5)
        return self.reply

    async def _receive(self) -> MutableMapping[str, Any]:
        if self._chunks:
            chunk = self._chunks.pop(0)
            self.read += 0 if self.reply.status else len(chunk)
            return {"type": "http.request", "body": chunk, "more_body": bool(self._chunks) or self._cut}
        await self._gone.wait()
        return {"type": "http.disconnect"}

    async def _send(self, message: MutableMapping[str, Any]) -> None:
        if message["type"] == "http.response.start":
            self.reply.status = message["status"]
            self.reply.headers = {name.decode(): value.decode() for name, value in message["headers"]}
        else:
            self.reply.body += message.get("body", b"")
        self._changed.set()


def post(app: ASGIApp, body: object, path: str = "/v1/chat/completions", headers: dict[str, str] = JSON) -> Exchange:
    """`body` is sent as JSON, or as it is when it is bytes or a list of chunks."""
    chunks = body if isinstance(body, list) else [body if isinstance(body, bytes) else json.dumps(body).encode()]
    return Exchange(app, "POST", path, chunks, dict(headers)).begin()


def get(app: ASGIApp, path: str, method: str = "GET") -> Exchange:
    return Exchange(app, method, path, [b""], {}).begin()
