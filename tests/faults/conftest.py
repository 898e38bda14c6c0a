"""A live server that every row finds as the one before left it."""

from __future__ import annotations

import base64
import json
import socket
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import httpx2
import pytest

from contract.serving import Server, serving

MIB = 1 << 20
MAX_BODY = 16 * MIB
MAY_KEEP = 5 * MIB  # of memory, after a row
ROUNDS = 4  # a row that keeps so much in each of them leaks
CHAT = "/v1/chat/completions"


def says(*content: object, role: str = "user", **fields: object) -> dict[str, Any]:
    """The body of a chat with one message, short to answer."""
    sent = content[0] if len(content) == 1 else list(content)
    return {"messages": [{"role": role, "content": sent}], "max_tokens": 1} | fields


def picture(data: bytes | str, prefix: str = "data:image/png;base64,", **sizes: object) -> dict[str, Any]:
    """A part of a message; `data` is encoded when it is bytes."""
    text = data if isinstance(data, str) else base64.b64encode(data).decode()
    return {"type": "image_url", "image_url": {"url": prefix + text}} | sizes


class Walk:
    """One row's requests to the live server, and what must hold after them."""

    def __init__(self, server: Server, client: httpx2.Client):
        self.server = server
        self._client = client
        self._sent: list[Callable[[], object]] = []

    def post(self, body: object, path: str = CHAT, kind: str | None = "application/json") -> httpx2.Response:
        """Bytes go as they are, anything else as JSON."""
        raw = body if isinstance(body, bytes) else json.dumps(body).encode()
        headers = {} if kind is None else {"content-type": kind}
        return self._repeatable(partial(self._client.post, path, content=raw, headers=headers))

    def form(self, **arguments: Any) -> httpx2.Response:
        return self._repeatable(partial(self._client.post, CHAT, **arguments))

    def raw(self, *pieces: bytes) -> bytes:
        """What the server says to these bytes on a connection of their own, until it closes it."""
        return self._repeatable(partial(self._exchange, pieces))

    def refused(
        self, body: object, code: str | None, status: int = 400, *, path: str = CHAT, param: str | None = None
    ) -> str:
        """The message of the refusal, which has this code."""
        reply = self.post(body, path)
        assert reply.status_code == status, reply.text[:500]
        error = reply.json()["error"]
        assert error["code"] == code, error
        assert param is None or error["param"] == param, error
        assert " at 0x" not in error["message"]
        return error["message"]

    def answered(self, body: object) -> dict[str, Any]:
        reply = self.post(body)
        assert reply.status_code == 200, reply.text[:500]
        return reply.json()

    def check(self) -> None:
        """The server is healthy, its memory is back however often the row comes, and the next question is answered."""
        grown = []
        for _ in range(ROUNDS):
            before = self._memory()
            for again in self._sent * 2:
                again()
            assert self._client.get("/health").json() == {"status": "healthy"}
            assert self._client.post(CHAT, json=says("What is it?")).status_code == 200
            grown.append(self._memory() - before)
            if grown[-1] <= MAY_KEEP:
                return
        raise AssertionError(f"memory grew by {grown} bytes in {ROUNDS} rounds")

    def _repeatable(self, call: Callable[[], Any]) -> Any:
        self._sent.append(call)
        return call()

    def _memory(self) -> int:
        status = Path(f"/proc/{self.server.process.pid}/status").read_text()
        return int(status.partition("VmRSS:")[2].split()[0]) << 10

    def _exchange(self, pieces: tuple[bytes, ...]) -> bytes:
        address = httpx2.URL(self.server.url)
        said = b""
        with socket.create_connection((address.host, address.port), timeout=30) as connection:
            try:
                for piece in pieces:
                    connection.sendall(piece)
                while data := connection.recv(65536):
                    said += data
            except ConnectionError:  # closed before all was sent, which is a refusal too
                pass
        return said


@pytest.fixture(scope="module")  # not longer: tests elsewhere count child processes
def house(tmp_path_factory) -> Iterator[tuple[Server, httpx2.Client]]:
    settings = {"SIGHTLINE_MAX_BODY_MB": str(MAX_BODY // MIB)}
    folder = tmp_path_factory.mktemp("cache")
    with serving(folder, **settings) as server, httpx2.Client(base_url=server.url, timeout=60) as client:
        yield server, client


@pytest.fixture
def walk(house) -> Iterator[Walk]:
    walked = Walk(*house)
    yield walked
    walked.check()
