"""Listens, says so, and stops the way it was asked to. Knows signals and sockets; no routes."""

from __future__ import annotations

import asyncio
import contextlib
import ipaddress
import resource
import signal
import socket
import time
from collections.abc import Iterator
from functools import partial
from typing import cast

import structlog
import uvicorn
from fastapi import FastAPI

from sightline.backends import Backend
from sightline.errors import DataFolderRefused, SightlineError
from sightline.server.app import Service, create_app
from sightline.server.connection import Connection
from sightline.settings import Settings

CANNOT_START = 3  # exit code; also the command's own for a taken port
PROGRESS_S = 1.0  # how often a change in loading progress is logged
MOST_FILES = 1 << 16  # connections for the most part; each has a descriptor
CLOSING_S = 5  # for the last bytes of finished answers to reach their readers

log = structlog.get_logger()


def listen(host: str, port: int) -> socket.socket:
    """A listening socket; port 0 picks a free one. Raises OSError when the address cannot be had."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    sock = socket.create_server((host, port), family=family, backlog=2048)
    # Connections inherit it. asyncio would set it, but not for sockets made this way, which do not name their protocol.
    # Without it, a small answer on a connection kept alive, and each word of a stream, waits 40 ms for an ACK.
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    return sock


async def serve(backend: Backend, settings: Settings, sock: socket.socket) -> int:
    """Serve until a signal comes; returns the exit code: 0, 130 after an interrupt, 1 when the model cannot load.

    3 says that the data folder is not for this server.
    """
    app = create_app(backend, settings)
    try:
        await app.state.storage.prepare()
    except DataFolderRefused as error:
        log.error(error.message)
        return CANNOT_START
    _allow_files(MOST_FILES)
    server = _Server(http_config(app), _address(settings.host, sock))
    ending = _Ending(server, app.state.service)
    loop = asyncio.get_running_loop()
    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, ending.begin, number)
    if not _is_loopback(settings.host):
        log.warning(f"no keys are configured: everyone who can reach {settings.host} can use this server")
    loading = asyncio.create_task(ending.unless_loaded())
    try:
        await server.serve(sockets=[sock])
    finally:
        loading.cancel()
    return ending.code


def http_config(app: FastAPI) -> uvicorn.Config:
    """How the app of `create_app` is served."""
    return uvicorn.Config(
        app,
        # A class of ours, with what uvicorn does not hand on to it; its type asks for a class.
        http=cast(type[Connection], partial(Connection, metrics=app.state.service.metrics)),
        ws="none",
        lifespan="on",
        log_config=None,
        access_log=False,
        server_header=False,
        timeout_graceful_shutdown=CLOSING_S,
    )


def _allow_files(most: int) -> None:
    """Let this process have so many connections and files open, if it may. The usual 1,024 are soon held idle."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    most = most if hard == resource.RLIM_INFINITY else min(most, hard)
    if soft != resource.RLIM_INFINITY and soft < most:
        with contextlib.suppress(OSError, ValueError):  # a system may have a lower limit than it says
            resource.setrlimit(resource.RLIMIT_NOFILE, (most, hard))


class _Server(uvicorn.Server):
    """uvicorn, with our own signals and our own word that it listens."""

    def __init__(self, config: uvicorn.Config, address: str):
        super().__init__(config)
        self.address = address

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        log.info(f"API server running on {self.address}")

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield


class _Ending:
    """How the server stops: by the first signal, in order; by the second, at once; by itself when loading fails."""

    def __init__(self, server: uvicorn.Server, service: Service):
        self.server = server
        self.service = service
        self.code = 0
        self.drain: asyncio.Task[None] | None = None

    def begin(self, number: signal.Signals) -> None:
        """The first signal. Until the running answers are done the port stays open, and says 503."""
        for each in (signal.SIGINT, signal.SIGTERM):
            asyncio.get_running_loop().remove_signal_handler(each)
            signal.signal(each, signal.SIG_DFL)  # so the second one ends the process, whatever it is doing
        drain_s = self.service.settings.drain_s
        log.info(f"stopping: running answers have {drain_s:g} s to finish; a second signal stops at once")
        self.code = 130 if number == signal.SIGINT else 0
        self.service.draining = True
        self.drain = asyncio.create_task(self._drain(drain_s))

    async def _drain(self, drain_s: float) -> None:
        try:
            await self.service.backend.close(drain_s)
        finally:
            self.server.should_exit = True

    async def unless_loaded(self) -> None:
        """Log how loading goes; stop the server when it fails."""
        backend, started = self.service.backend, time.perf_counter()
        waiting = asyncio.create_task(backend.ready())
        shown = ""
        try:
            while not (await asyncio.wait((waiting,), timeout=PROGRESS_S))[0]:
                if backend.progress != shown:
                    shown = backend.progress
                    log.info(f"loading {backend.model_id}: {shown}")
            waiting.result()
            log.info(f"model {backend.model_id} is ready after {time.perf_counter() - started:.1f} s")
        except SightlineError as error:
            if not self.service.draining:
                log.error(f"model {backend.model_id} cannot be loaded: {error.message}")
                self.code, self.server.should_exit = 1, True
        finally:
            waiting.cancel()


def _address(host: str, sock: socket.socket) -> str:
    port = sock.getsockname()[1]
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"
