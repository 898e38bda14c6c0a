"""An estimate says what a chat request would take, for the same body and with the same refusals."""

from dataclasses import replace

import pytest

from asgi import post
from fake_backend import FakeBackend
from sightline.errors import ImageTooLarge
from sightline.server.app import create_app
from sightline.settings import Settings
from sightline.types import Text

pytestmark = pytest.mark.anyio
HELLO = {"messages": [{"role": "user", "content": "hello"}]}


def estimate(backend, body=HELLO, **sent):
    return post(create_app(backend, Settings()), body, "/v1/estimate", **sent).end()


async def test_an_estimate_says_what_the_answer_would_take():
    reply = await estimate(FakeBackend())
    assert reply.status == 200
    assert reply.json == {
        "object": "estimate",
        "model": "sightline-demo",
        "prompt_tokens": 10,
        "image_tokens": 3,
        "max_tokens": 100,
        "dropped_turns": 1,
        "images": [
            {"width": 60, "height": 40, "resized_width": 64, "resized_height": 32, "tokens": 2, "resized": True},
            {"width": 32, "height": 32, "resized_width": 32, "resized_height": 32, "tokens": 1, "resized": False},
        ],
        "seconds_to_first_token": 0.123,
        "unmeasured": None,
        "peak_memory_bytes": 1 << 30,
    }


async def test_an_estimate_without_measured_rates_says_what_is_missing():
    backend = FakeBackend()
    backend.guess = replace(backend.guess, first_token_s=None, unmeasured="no question has been answered yet")
    reply = await estimate(backend)
    assert reply.json["seconds_to_first_token"] is None
    assert reply.json["unmeasured"] == "no question has been answered yet"


async def test_nothing_is_generated_for_an_estimate():
    backend = FakeBackend()
    reply = await estimate(backend, HELLO | {"max_tokens": 7, "stream": True, "n": 3})
    assert reply.json["max_tokens"] == 7
    assert backend.answers == []
    assert backend.estimated[0].messages[0].parts == (Text("hello"),)


async def test_a_form_is_estimated_as_well():
    head = '--b\r\nContent-Disposition: form-data; name="{}"\r\n\r\n{}\r\n'
    body = (head.format("image", "GIF89a\0") + head.format("prompt", "hi") + "--b--").encode()
    backend = FakeBackend()
    reply = await estimate(backend, body, headers={"content-type": "multipart/form-data; boundary=b"})
    assert reply.status == 200
    assert backend.estimated[0].messages[0].parts[1] == Text("hi")


async def test_what_a_chat_refuses_an_estimate_refuses_in_the_same_words():
    refusal = ImageTooLarge("11 MB, the limit is 10 MB", param="messages[0].content[0]")
    for path in ("/v1/estimate", "/v1/chat/completions"):
        app = create_app(FakeBackend(refusal=refusal), Settings())
        reply = await post(app, HELLO, path).end()
        assert (reply.status, reply.error["message"], reply.error["param"]) == (413, refusal.message, refusal.param)
        reply = await post(app, {}, path).end()
        assert reply.error["message"] == "Invalid request format: missing 'messages' field"
        reply = await post(app, HELLO | {"model": "gpt-4o"}, path).end()
        assert reply.error["code"] == "model_not_found"
