"""A web server on loopback that says any bytes, and a watch on what this process looks up and dials."""

from __future__ import annotations

import asyncio
import contextlib
import ssl
import sys
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager

Say = bytes | Callable[[asyncio.StreamWriter], Awaitable[None]]


def reply(body: bytes, *headers: str, status: str = "200 OK", length: int | None = None) -> bytes:
    """An HTTP answer. `length` is what its Content-Length claims."""
    lines = [f"HTTP/1.1 {status}", f"Content-Length: {len(body) if length is None else length}", *headers, "", ""]
    return "\r\n".join(lines).encode() + body


class Web:
    """Answers each path as told. Remembers what was asked, and how many connections were open at most."""

    def __init__(self) -> None:
        self.says: dict[str, Say] = {}
        self.asked: list[str] = []  # the heads of the requests
        self.most = 0
        self.arrived = asyncio.Event()
        self.left = asyncio.Event()  # a client went away before its answer was whole
        self.port = 0
        self._open = 0

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._open += 1
        self.most = max(self.most, self._open)
        try:
            head = (await reader.readuntil(b"\r\n\r\n")).decode()
            self.asked.append(head)
            self.arrived.set()
            said = self.says[head.split()[1]]
            if isinstance(said, bytes):
                writer.write(said)
                await writer.drain()
            else:
                await said(writer)
        except (OSError, asyncio.IncompleteReadError):
            self.left.set()
        finally:
            self._open -= 1
            with contextlib.suppress(OSError):
                writer.close()
                await writer.wait_closed()


@asynccontextmanager
async def web(tls: ssl.SSLContext | None = None) -> AsyncIterator[Web]:
    site = Web()
    server = await asyncio.start_server(site._serve, "127.0.0.1", 0, ssl=tls)
    site.port = server.sockets[0].getsockname()[1]
    async with server:
        yield site


_watching: list[list[str]] = []


def _note(event: str, arguments: tuple[object, ...]) -> None:
    if _watching and event in ("socket.connect", "socket.getaddrinfo", "socket.gethostbyname", "socket.sendto"):
        _watching[-1].append(f"{event} {arguments[1:]}" if event == "socket.connect" else f"{event} {arguments}")


sys.addaudithook(_note)  # cannot be taken off again; it does nothing while nobody watches


@contextmanager
def watching_the_network() -> Iterator[list[str]]:
    """What the process looks up and dials meanwhile, from whatever library: the interpreter itself tells."""
    seen: list[str] = []
    _watching.append(seen)
    try:
        yield seen
    finally:
        _watching.remove(seen)
