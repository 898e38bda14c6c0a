"""Health, models and stopping: the server says what state it is in, and finishes what it began."""

import asyncio
import socket

import pytest

from asgi import get, post
from fake_backend import FakeBackend, says
from sightline import __version__
from sightline.errors import CheckpointError
from sightline.server import run
from sightline.server.app import create_app
from sightline.settings import Settings
from sightline.types import Delta

pytestmark = pytest.mark.anyio
HELLO = {"messages": [{"role": "user", "content": "hello"}]}


async def test_a_ready_server_is_healthy():
    app = create_app(FakeBackend(), Settings())
    for path, body in (
        ("/health", {"status": "healthy"}),
        ("/readyz", {"status": "healthy"}),
        ("/healthz", {"status": "alive"}),
    ):
        reply = await get(app, path).end()
        assert (reply.status, reply.json) == (200, body)
    assert (await get(app, "/version").end()).json == {"version": __version__}
    assert b"/v1/chat/completions" in (await get(app, "/").end()).body


@pytest.mark.parametrize(
    ("state", "status", "code"),
    [("loading", "loading", "model_loading"), ("failed", "unhealthy", "engine_unavailable")],
)
async def test_a_server_without_its_model_says_why_and_when_to_come_back(state, status, code):
    backend = FakeBackend()
    backend.state, backend.detail = state, "/secret/path is broken"
    app = create_app(backend, Settings())
    health = await get(app, "/health").end()
    assert (health.status, health.json) == (503, {"status": status})
    assert (await get(app, "/healthz").end()).status == 200
    reply = await post(app, HELLO).end()
    assert (reply.status, reply.error["type"], reply.error["code"]) == (503, "server_error", code)
    assert int(reply.headers["retry-after"]) > 0
    assert b"secret" not in reply.body


async def test_the_model_list_has_the_served_model():
    reply = await get(create_app(FakeBackend(), Settings()), "/v1/models").end()
    assert reply.json["object"] == "list"
    assert reply.json["data"] == [
        {
            "id": "sightline-demo",
            "object": "model",
            "created": 1_700_000_000,
            "owned_by": "sightline",
            "max_model_len": 4096,
        }
    ]


async def test_a_draining_server_finishes_its_answers_and_refuses_new_ones():
    go_on = asyncio.Event()
    backend = FakeBackend(Delta("Hel"), go_on, *says("lo"))
    app = create_app(backend, Settings())
    running = post(app, HELLO | {"stream": True})
    await running.until(b"Hel")
    app.state.service.draining = True
    assert (await get(app, "/health").end()).json == {"status": "draining"}
    refused = await post(app, HELLO).end()
    assert (refused.status, refused.error["code"]) == (503, "server_shutting_down")
    go_on.set()
    assert (await running.end()).events[-1] == "data: [DONE]"


async def test_an_answer_cut_off_by_the_end_of_the_drain_says_so():
    backend = FakeBackend(Delta("Hel"), asyncio.Event())
    app = create_app(backend, Settings())
    running = post(app, HELLO | {"stream": True})
    await running.until(b"Hel")
    await backend.close(0)
    assert b"server_shutting_down" in (await running.end()).body


async def test_a_model_that_cannot_be_loaded_stops_the_server_with_one_line(capsys):
    backend = FakeBackend()
    backend.state, backend.failure = "failed", CheckpointError("config.json is missing")
    assert await run.serve(backend, Settings(port=0), run.listen("127.0.0.1", 0)) == 1
    lines = capsys.readouterr().err.splitlines()
    assert lines[-1] == "error: model sightline-demo cannot be loaded: config.json is missing"
    assert backend.closings == [0]


def test_a_connection_sends_small_answers_at_once():
    with run.listen("127.0.0.1", 0) as listening, socket.create_connection(listening.getsockname()):
        accepted, _ = listening.accept()
        with accepted:
            assert accepted.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)


async def test_an_access_line_has_no_content_and_stays_one_line(capsys):
    await post(create_app(FakeBackend(), Settings()), HELLO).end()
    await get(create_app(FakeBackend(), Settings()), "/a\nb").end()
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 2
    assert "route=/v1/chat/completions status=200" in lines[0]
    assert "route=none status=404" in lines[1]
    assert "hello" not in lines[0]
