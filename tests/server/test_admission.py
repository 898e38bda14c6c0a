"""A full queue is told at once; a place in it is kept until its answer takes it, or nobody wants it any more."""

import asyncio
import base64
import gc
import json

import pytest

from asgi import JSON, Exchange, post
from fake_backend import FakeBackend, says
from sightline.backends.local import LocalBackend
from sightline.errors import Overloaded, PromptTooLong
from sightline.server.app import create_app
from sightline.server.sources import Sources
from sightline.server.whole import answer_line
from sightline.settings import Settings
from sightline.types import Conversation, Image, Message, Sampling, Text
from sightline.wire_parts import ImageUrlPart
from sightline.wire_tasks import TaskRequest

pytestmark = pytest.mark.anyio
ADDRESS = "http://pictures.example/a.png"
PARTS = [{"type": "image_url", "image_url": {"url": ADDRESS}}, {"type": "text", "text": "What is it?"}]
CHAT = {"messages": [{"role": "user", "content": PARTS}]}
TASK = {"task": "vqa", "images": [ADDRESS], "text": "What is it?"}
FULL = Overloaded("67 requests are running or waiting, the limit is 67", retry_after_s=3)


class Fetching:
    """In place of the network: `asked` what was fetched; nothing comes before `may_end`."""

    enabled = True

    def __init__(self) -> None:
        self.asked: list[str] = []
        self.began, self.may_end = asyncio.Event(), asyncio.Event()

    def check(self, *_: object) -> None:
        pass

    async def fetch(self, text: str, *_: object) -> bytes:
        self.asked.append(text)
        self.began.set()
        await self.may_end.wait()
        return b"pixels"


def house(*steps, **settings):
    backend, fetching = FakeBackend(*steps), Fetching()
    app = create_app(backend, Settings(**settings))
    app.state.service.sources = Sources(Settings(), fetching)
    return app, backend, fetching


async def test_a_full_queue_is_told_before_the_body_of_a_chat_is_read():
    app, backend, _ = house()
    backend.full = FULL
    chat = post(app, CHAT)
    reply = await chat.end()
    assert (reply.status, reply.error["code"], reply.headers["retry-after"]) == (503, "server_overloaded", "3")
    assert chat.read == 0


async def test_a_full_queue_is_told_before_anything_is_fetched():
    app, backend, fetching = house()
    backend.full = FULL
    reply = await post(app, TASK, "/infer").end()
    assert (reply.status, reply.json["code"], reply.headers["retry-after"]) == (503, 2001, "3")
    with pytest.raises(Overloaded):
        await answer_line(app.state.service, "/v1/chat/completions", CHAT, "req_1")
    assert fetching.asked == []


@pytest.mark.parametrize(
    ("body", "path", "answers"), [(CHAT, "/v1/chat/completions", 1), (CHAT | {"n": 3}, "/v1/chat/completions", 3)]
)
async def test_room_for_every_answer_is_held_while_media_are_fetched(body, path, answers):
    app, backend, fetching = house()
    asking = post(app, body, path)
    await fetching.began.wait()
    assert backend.places[-1].held == answers
    fetching.may_end.set()
    assert (await asking.end()).status == 200
    assert [place.held for place in backend.places] == [0, 0]


@pytest.mark.parametrize(
    ("task", "medium", "lane"), [("vqa", "images", "interactive"), ("doc_analyze", "documents", "bulk")]
)
async def test_a_task_holds_room_in_its_own_lane(task, medium, lane):
    app, backend, fetching = house()
    asking = post(app, {"task": task, medium: [ADDRESS], "text": "Why?"}, "/infer")
    await fetching.began.wait()
    (place,) = backend.places
    assert (place.lane, place.held) == (lane, 1)
    asking.leave()
    await asking.end()
    assert place.held == 0


@pytest.mark.row("Q04")
async def test_a_client_that_leaves_while_media_are_fetched_leaves_its_place():
    app, backend, fetching = house()
    asking = post(app, CHAT)
    await fetching.began.wait()
    asking.leave()
    await asking.end()
    assert [place.held for place in backend.places] == [0, 0]
    assert not backend.answers


async def test_a_stream_with_progress_keeps_its_place_until_it_has_its_answer():
    app, backend, fetching = house(*says("a"))
    backend.hold = asyncio.Event()
    fetching.may_end.set()
    asking = post(app, CHAT | {"stream": True, "stream_options": {"include_progress": True}})
    await backend.asking.wait()
    assert backend.places[-1].held == 1
    backend.hold.set()
    assert (await asking.end()).events[-1] == "data: [DONE]"
    assert backend.places[-1].held == 0


async def test_what_is_refused_leaves_its_place():
    app, backend, _ = house()
    backend.refusal = PromptTooLong("too long")
    for body in ({"messages": [{"role": "user", "content": "hi"}]}, {"messages": [{"role": "user", "content": 5}]}):
        assert (await post(app, body).end()).status == 400
    assert {place.held for place in backend.places} == {0}


async def test_places_count_until_they_are_left_and_a_full_queue_says_when_to_come_back(tmp_path):
    backend = LocalBackend(Settings(max_queue=1, SIGHTLINE_MAX_CONCURRENCY=1, kv_cache_mb=16, threads=1))
    await backend.start()
    await backend.ready()
    held = backend.reserve("interactive", 2)
    with pytest.raises(Overloaded, match="2 requests are running or waiting, the limit is 2") as caught:
        backend.reserve()
    assert caught.value.retry_after_s == 5  # nothing was answered yet
    backend.reserve("bulk").leave()
    hello = Conversation((Message("user", (Text("hello"),)),))
    answer = await backend.generate(hello, Sampling(max_tokens=2, temperature=0), request_id="a", place=held)
    with pytest.raises(Overloaded):  # it took its place with it
        backend.reserve()
    assert [delta async for delta in answer][-1].finish
    held.leave()
    held = backend.reserve("interactive", 2)
    leaving = asyncio.create_task(backend.generate(hello, Sampling(), request_id="b", place=held))
    await asyncio.sleep(0)
    leaving.cancel()
    await asyncio.wait((leaving,))
    backend.reserve().leave()  # what it had held
    held.leave()
    held = backend.reserve("interactive", 2)
    with pytest.raises(Overloaded) as caught:
        backend.reserve()
    assert caught.value.retry_after_s == 1
    await backend.close(0)


async def test_more_bodies_than_memory_has_room_for_are_told_to_come_back():
    app, _, _ = house()
    app.state.intake.most = 3 << 20
    text = {"messages": [{"role": "user", "content": "x" * (2 << 20)}]}
    half = Exchange(app, "POST", "/v1/chat/completions", [json.dumps(text).encode()], JSON, cut=True).begin()
    while not app.state.intake.held:
        await asyncio.sleep(0)
    refused = post(app, [json.dumps(text).encode()])
    await refused.until(b"}}")
    assert (refused.reply.status, refused.reply.error["code"]) == (503, "out_of_memory")
    assert int(refused.reply.headers["retry-after"]) > 0
    assert (await post(app, {"messages": [{"role": "user", "content": "small"}]}).end()).status == 200
    half.leave()
    refused.leave()
    await asyncio.gather(half.end(), refused.end())
    assert (await post(app, text).end()).status == 200
    app.state.intake.most = 100 << 20
    too_long = post(app, [b"x" * (1 << 20)] * 65)
    await too_long.until(b"}}")
    assert too_long.reply.status == 413
    too_long.leave()
    await too_long.end()
    assert app.state.intake.held == 0


def in_memory(pixels: bytes, url: str) -> list[object]:
    """Everything that holds a picture as it was sent, or as our value."""

    def holds(one: object) -> bool:
        match one:
            case Image():
                return one.data == pixels
            case ImageUrlPart():
                return one.image_url.url == url
            case TaskRequest():
                return one.images == (url,)
        return False

    gc.collect()
    return [one for one in gc.get_objects() if holds(one)]


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("path", ["/v1/chat/completions", "/infer"])
async def test_who_waits_for_an_answer_does_not_hold_the_media_of_the_question(path, stream):
    written, pixels = asyncio.Event(), b"pixels of this test"
    app, backend, _ = house(written, *says("a"))
    url = "data:image/png;base64," + base64.b64encode(pixels).decode()
    chat = {"messages": [{"role": "user", "content": [{"type": "image_url", "image_url": {"url": url}}]}]}
    task = {"task": "vqa", "text": "What is it?", "images": [url], "options": {"stream": stream}}
    asking = post(app, task if path == "/infer" else chat | {"stream": stream}, path)
    while not backend.answers:
        await asyncio.sleep(0)
    assert backend.answers[0].asked
    backend.answers[0].asked = None  # an engine has decoded them by now
    async with asyncio.timeout(60):  # only ever spent by a test that fails
        while in_memory(pixels, url):
            await asyncio.sleep(0)
    written.set()
    assert (await asking.end()).status == 200


PDF = "data:application/pdf;base64," + base64.b64encode(b"%PDF-1.7").decode()
DOCUMENT = {"task": "doc_analyze", "documents": [PDF]}


@pytest.mark.parametrize(
    ("body", "route", "may"), [(CHAT, None, True), (TASK, "/infer", True), (DOCUMENT, "/infer", False)]
)
async def test_a_lighter_model_may_answer_chats_and_tasks_but_no_documents(body, route, may):
    app, backend, fetching = house()
    fetching.may_end.set()
    await (post(app, body, route) if route else post(app, body)).end()
    assert backend.places
    assert {place.lighter for place in backend.places} == {may}


async def test_no_lighter_model_answers_the_lines_of_a_batch():
    app, backend, fetching = house()
    fetching.may_end.set()
    await answer_line(app.state.service, "/v1/chat/completions", CHAT, "req_1")
    assert [place.lighter for place in backend.places] == [False]
