"""A stream is OpenAI's chunks in order; a client that goes away stops its work, streamed or not."""

import asyncio
import json

import pytest

from asgi import JSON, Exchange, post
from fake_backend import FakeBackend, says
from sightline.errors import ShuttingDown
from sightline.server.answers import ClientGone
from sightline.server.app import create_app
from sightline.server.sse import EventStream
from sightline.settings import Settings
from sightline.types import Delta, Progress

pytestmark = pytest.mark.anyio


def ask(backend, **fields):
    body = {"messages": [{"role": "user", "content": "hello"}], "stream": True} | fields
    return post(create_app(backend, Settings()), body)


def chunks(reply):
    return [json.loads(event.removeprefix("data: ")) for event in reply.events if event != "data: [DONE]"]


async def test_a_stream_is_a_role_then_content_then_a_reason_then_done():
    reply = await ask(FakeBackend()).end()
    found = chunks(reply)
    assert [chunk["choices"][0]["delta"] for chunk in found] == [
        {"role": "assistant", "content": ""},
        {"content": "Hel"},
        {"content": "lo"},
        {},
    ]
    assert [chunk["choices"][0]["finish_reason"] for chunk in found] == [None, None, None, "stop"]
    assert {chunk["object"] for chunk in found} == {"chat.completion.chunk"}
    assert len({chunk["id"] for chunk in found}) == 1
    assert found[-1]["sightline"]["model"] == "sightline-demo"
    assert reply.events[-1] == "data: [DONE]"


async def test_a_stream_is_not_cached_nor_buffered_on_its_way():
    headers = (await ask(FakeBackend()).end()).headers
    assert headers["content-type"].startswith("text/event-stream")
    assert (headers["cache-control"], headers["x-accel-buffering"]) == ("no-cache", "no")
    assert "content-length" not in headers


async def test_usage_has_a_chunk_of_its_own_when_asked_for():
    found = chunks(await ask(FakeBackend(), stream_options={"include_usage": True}).end())
    assert [chunk["usage"] for chunk in found[:-1]] == [None] * 4
    assert found[-1]["choices"] == []
    assert found[-1]["usage"]["total_tokens"] == 12
    assert "usage" not in chunks(await ask(FakeBackend()).end())[-1]


async def test_a_stream_that_asks_for_progress_begins_with_it_and_a_usual_one_has_none():
    backend = FakeBackend(Progress("reading", done=64, total=95, wait_s=0.456), *says("Hello"))
    found = chunks(await ask(backend, stream_options={"include_progress": True}).end())
    told = [chunk["sightline"]["progress"] for chunk in found if not chunk["choices"]]
    assert [p["stage"] for p in told] == ["decoding", "queued", "reading"]
    assert told[-1] == {"stage": "reading", "place": 0, "wait_s": 0.46, "done": 64, "total": 95}
    assert "".join(chunk["choices"][0]["delta"].get("content", "") for chunk in found if chunk["choices"]) == "Hello"
    assert found[-1]["sightline"]["dropped_turns"] == 2
    assert all(chunk["choices"] for chunk in chunks(await ask(FakeBackend()).end()))


async def test_progress_is_told_while_the_request_is_still_prepared():
    backend = FakeBackend(hold=asyncio.Event())
    exchange = ask(backend, stream_options={"include_progress": True})
    await exchange.until(b'"decoding"')
    assert backend.answers == []
    backend.hold.set()
    assert (await exchange.end()).events[-1] == "data: [DONE]"


async def test_progress_that_changes_while_the_model_reads_is_told_on_the_way():
    begin = asyncio.Event()
    backend = FakeBackend(Progress("looking", done=1, total=2), begin, *says("Hello"))
    exchange = ask(backend, stream_options={"include_progress": True})
    await exchange.until(b'"looking"')
    begin.set()
    assert (await exchange.end()).events[-1] == "data: [DONE]"


async def test_a_stream_with_progress_tells_a_refusal_as_an_event():
    reply = await ask(FakeBackend(refusal=ShuttingDown("no")), stream_options={"include_progress": True}).end()
    assert reply.status == 200
    assert chunks(reply)[-1]["error"]["code"] == "server_shutting_down"


async def test_a_client_who_leaves_while_progress_is_told_withdraws_its_request():
    backend = FakeBackend(hold=asyncio.Event())
    exchange = ask(backend, stream_options={"include_progress": True})
    await exchange.until(b'"decoding"')
    await backend.asking.wait()
    exchange.leave()
    await exchange.end()
    assert backend.withdrawn.is_set()


async def test_several_streamed_answers_keep_apart():
    found = chunks(await ask(FakeBackend(), n=2).end())
    for index in (0, 1):
        own = [chunk["choices"][0] for chunk in found if chunk["choices"][0]["index"] == index]
        assert "".join(choice["delta"].get("content", "") for choice in own) == "Hello"
        assert own[-1]["finish_reason"] == "stop"
    assert ["sightline" in chunk for chunk in found] == [False] * (len(found) - 1) + [True]


async def test_an_error_after_the_start_is_one_event_and_the_end():
    backend = FakeBackend(Delta("Hel"), ShuttingDown("stopping"))
    reply = await ask(backend).end()
    assert reply.status == 200
    assert chunks(reply)[-1]["error"]["code"] == "server_shutting_down"
    assert "data: [DONE]" not in reply.events
    assert backend.answers[0].closed.is_set()


async def test_our_own_mistake_in_a_stream_is_not_told_but_numbered():
    reply = await ask(FakeBackend(Delta("Hel"), ValueError("/secret/path"))).end()
    error = chunks(reply)[-1]["error"]
    assert (error["type"], error["code"]) == ("server_error", "internal_error")
    assert reply.headers["x-request-id"] in error["message"]
    assert b"secret" not in reply.body


@pytest.mark.row("Q04")
async def test_a_reader_who_leaves_mid_stream_stops_the_work():
    backend = FakeBackend(Delta("Hel"), asyncio.Event(), *says("lo"))
    exchange = ask(backend)
    await exchange.until(b"Hel")
    assert not backend.answers[0].closed.is_set()
    exchange.leave()
    await exchange.end()
    assert backend.answers[0].closed.is_set()
    assert b"[DONE]" not in exchange.reply.body


@pytest.mark.row("Q04")
async def test_a_client_who_leaves_before_a_whole_answer_stops_all_its_work():
    backend = FakeBackend(asyncio.Event())
    exchange = ask(backend, stream=False, n=2)
    await backend.asking.wait()
    exchange.leave()
    await exchange.end()
    assert [answer.closed.is_set() for answer in backend.answers] == [True, True]
    assert exchange.reply.status == 0


async def test_a_client_who_leaves_in_the_middle_of_its_request_is_no_mistake_of_ours(capsys):
    backend = FakeBackend()
    exchange = Exchange(create_app(backend, Settings()), "POST", "/v1/chat/completions", [b"{"], JSON, cut=True)
    exchange.leave()
    assert (await exchange.begin().end()).status == 0
    assert "status=499" in capsys.readouterr().err
    assert not backend.asking.is_set()


@pytest.mark.row("Q04")
async def test_a_client_who_leaves_while_its_request_is_prepared_withdraws_it():
    backend = FakeBackend(hold=asyncio.Event())
    exchange = ask(backend)
    await backend.asking.wait()
    exchange.leave()
    await exchange.end()
    assert backend.withdrawn.is_set()
    assert backend.answers == []


async def test_a_silent_stream_is_kept_open_by_pings():
    speak, cleaned = asyncio.Event(), []

    async def events():
        await speak.wait()
        yield "data: hi\n\n"

    async def cleanup():
        cleaned.append(True)

    stream = EventStream(events(), request_id="req_1", cleanup=cleanup, ping_s=0.001)
    exchange = Exchange(stream, "GET", "/", [b""], {}).begin()
    await exchange.until(b": ping\n\n: ping\n\n")
    speak.set()
    reply = await exchange.end()
    assert reply.events[-1] == "data: hi"
    assert cleaned == [True]


async def test_a_stream_nobody_began_to_read_is_cleaned_up_as_well():
    cleaned = []

    async def events():
        yield "data: hi\n\n"

    async def cleanup():
        cleaned.append(True)

    exchange = Exchange(EventStream(events(), request_id="req_1", cleanup=cleanup), "GET", "/", [], {})
    exchange.leave()
    with pytest.raises(ClientGone):
        await exchange.begin().end()
    assert cleaned == [True]
