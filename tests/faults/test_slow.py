"""Rows H05, H08 and H09: clients that dawdle, on real sockets in this process, with deadlines of a blink."""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator

import pytest

from fake_backend import FakeBackend
from sightline.server import bodies, connection, refusals, run
from sightline.server.app import create_app
from sightline.server.bodies import Pace
from sightline.settings import Settings

pytestmark = pytest.mark.anyio
BODY = b'{"messages": [{"role": "user", "content": "hello"}]}'
CHAT = b"POST /v1/chat/completions HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n"
WHOLE = CHAT + b"Content-Length: %d\r\n\r\n" % len(BODY) + BODY
HEALTH = b"GET /health HTTP/1.1\r\nHost: x\r\n\r\n"
LAST = b"GET /health HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n"
TICK_S = 0.05


class Live:
    """A server on a port of its own; its backend answers at once."""

    def __init__(self) -> None:
        self.backend = FakeBackend()
        self.app = create_app(self.backend, Settings())
        self.port = 0

    async def said(self, *pieces: bytes, drip: bytes = b"") -> bytes:
        """What the server says until it closes; `drip` is sent byte by byte, over and over, until then."""
        reader, writer = await asyncio.open_connection("127.0.0.1", self.port)
        writer.writelines(pieces)
        reply, sent = asyncio.ensure_future(_all(reader)), 0
        while not (await asyncio.wait((reply,), timeout=TICK_S if drip else 5))[0]:
            assert drip, "the server neither answers nor closes"
            writer.write(drip[sent % len(drip) :][:1])
            sent += 1
        writer.close()
        return reply.result()

    @property
    def refused(self) -> bytes:
        return self.app.state.service.metrics.text()


async def _all(reader: asyncio.StreamReader) -> bytes:
    said = b""
    with contextlib.suppress(ConnectionError):  # reset, for we still sent when it was closed
        while data := await reader.read(65536):
            said += data
    return said


@pytest.fixture
async def live(monkeypatch) -> AsyncIterator[Live]:
    monkeypatch.setattr(connection, "HEAD_S", 0.3)
    monkeypatch.setattr(bodies, "PACE", Pace(pause_s=0.3))
    monkeypatch.setattr(refusals, "LINGER_S", 0.1)
    served, sock = Live(), run.listen("127.0.0.1", 0)
    served.port = sock.getsockname()[1]
    server = run._Server(run.http_config(served.app), "")
    serving = asyncio.create_task(server.serve(sockets=[sock]))
    yield served
    server.should_exit = True
    await serving


def error(said: bytes) -> dict[str, object]:
    return json.loads(said.partition(b"\r\n\r\n")[2])["error"]


@pytest.mark.row("H08")
async def test_heads_that_come_byte_by_byte_are_refused_and_others_are_served(live, monkeypatch):
    monkeypatch.setattr(connection, "HEAD_S", 3)  # five hundred clients take their time in one process
    slow = [asyncio.create_task(live.said(CHAT, drip=b"X: y\r\n")) for _ in range(500)]
    await asyncio.wait(slow, timeout=10 * TICK_S)
    assert (await live.said(WHOLE[:-1], BODY[-1:] + LAST)).startswith(b"HTTP/1.1 200")
    for said in await asyncio.gather(*slow):
        assert said.startswith(b"HTTP/1.1 408 ")
        assert b"x-request-id: req_" in said
        assert error(said)["code"] == "request_receive_timeout"
    assert b'rejected_total{reason="request_receive_timeout"} 500' in live.refused
    assert len(live.backend.answers) == 1


@pytest.mark.row("H08")
async def test_a_connection_that_says_nothing_is_closed_without_a_word(live):
    assert await live.said() == b""


@pytest.mark.row("H08")
async def test_every_request_of_a_connection_has_the_whole_time_for_its_head(live):
    said = await live.said(HEALTH + HEALTH, drip=LAST)
    assert said.count(b"HTTP/1.1 200") == 2
    assert said.count(b"HTTP/1.1 408") == 1


@pytest.mark.row("H09")
@pytest.mark.parametrize("path", [b"/v1/chat/completions", b"/infer", b"/v1/files"])
async def test_a_body_that_comes_too_slowly_is_refused_and_the_connection_closed(live, path):
    head = CHAT.replace(b"/v1/chat/completions", path)
    if path == b"/v1/files":
        head = head.replace(b"application/json", b"multipart/form-data; boundary=x")
    said = await live.said(head + b"Content-Length: 100000\r\n\r\n", drip=b"\r\n")
    assert said.startswith(b"HTTP/1.1 408 ")
    assert b"connection: close" in said
    told = json.loads(said.partition(b"\r\n\r\n")[2])
    message = told["msg"] if path == b"/infer" else told["error"]["message"]
    assert "a body may pause for 0.3 s and must come at 4096 bytes a second" in message
    assert live.backend.answers == []


@pytest.mark.row("H09")
@pytest.mark.parametrize("lines", [b"Content-Length: 1000\r\n", b"Transfer-Encoding: chunked\r\n"])
async def test_a_body_that_stops_is_refused(live, lines):
    said = await live.said(CHAT + lines + b"\r\n" + b"1\r\n \r\n")
    assert error(said)["code"] == "request_receive_timeout"


@pytest.mark.row("H09")
async def test_a_body_that_nobody_reads_is_no_way_to_stay(live):
    said = await live.said(CHAT.replace(b"chat", b"cat") + b"Content-Length: 100000\r\n\r\n", drip=b" ")
    assert said.startswith(b"HTTP/1.1 404 ")


@pytest.mark.row("H09")
def test_ten_megabytes_over_the_slowest_line_are_never_too_slow():
    pace = bodies.PACE
    assert (pace.pause_s, pace.bytes_per_s) == (30, 4096)
    for second in range(10 * (1 << 20) // 4096):
        assert pace.left_s(second * 4096, second) == 30
    assert pace.left_s(0, 29) == 1
    assert pace.left_s(1 << 20, 1) == 30  # what came early is no pause for later
    assert pace.left_s(1 << 20, 300) < 0


@pytest.mark.row("H09")
async def test_a_long_answer_is_not_cut_by_the_time_for_a_body(live):
    live.backend.hold = asyncio.Event()
    asking = asyncio.create_task(live.said(WHOLE + LAST))
    await live.backend.asking.wait()
    await asyncio.wait((asking,), timeout=0.5)
    assert not asking.done()
    live.backend.hold.set()
    assert (await asking).count(b"HTTP/1.1 200") == 2


@pytest.mark.row("H05")
async def test_a_body_in_crumbs_is_refused(live, monkeypatch):
    monkeypatch.setattr(connection, "MAX_CHUNKS", 100)
    chunks = b"".join(b"1\r\n%c\r\n" % byte for byte in BODY) + b"0\r\n\r\n"
    assert (await live.said(CHAT + b"Transfer-Encoding: chunked\r\n\r\n" + chunks + LAST)).startswith(b"HTTP/1.1 200")
    said = await live.said(CHAT + b"Transfer-Encoding: chunked\r\n\r\n" + b"1\r\n \r\n" * 101)
    assert error(said)["message"] == "the body has more than 100 chunks, the limit; send larger ones"
