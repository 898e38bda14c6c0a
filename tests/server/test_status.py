"""What the house says of itself: /v1/status for people, /metrics for Prometheus."""

import asyncio
from dataclasses import replace

import pytest

import fake_backend
from asgi import get, post
from fake_backend import FakeBackend
from sightline.errors import InvalidImage, Overloaded
from sightline.server.app import create_app
from sightline.settings import Settings
from sightline.types import Delta, Progress

pytestmark = pytest.mark.anyio
HELLO = {"messages": [{"role": "user", "content": "hello"}]}
USAGE = replace(fake_backend.USAGE, completion_tokens=3, decode_ms=100)
ANSWER = (Delta("a", (1,)), Delta("b", (2,)), Delta("c", (3,), finish="stop", usage=USAGE))


async def status(app):
    return (await get(app, "/v1/status").end()).json


async def figures(app):
    """The samples of /metrics: {name with labels: value}."""
    text = (await get(app, "/metrics").end()).body.decode()
    lines = [line for line in text.splitlines() if not line.startswith("#")]
    return {name: float(value) for name, value in (line.rsplit(" ", 1) for line in lines)}


async def test_a_house_at_rest_claims_no_rates_it_never_measured():
    found = await status(create_app(FakeBackend(), Settings()))
    assert (found["state"], found["progress"], found["running"], found["waiting"]) == ("healthy", None, 0, 0)
    assert found["recent"] == {"answers": 0, "first_token_s": None, "tokens_per_s": None}
    assert found["models"] == [{"id": "sightline-demo", "demo": True, "precision": "exact", "max_context": 4096}]
    assert found["kv"] == {"blocks": 100, "used": 7, "kept": 5, "preemptions": 1}
    assert found["memory_bytes"] > 1 << 20


async def test_a_house_without_its_model_says_how_far_loading_is():
    backend = FakeBackend()
    backend.state, backend.stats, backend.max_context = "loading", None, None
    found = await status(create_app(backend, Settings()))
    assert (found["state"], found["progress"]) == ("loading", "reading")
    assert (found["kv"], found["vision_cache_bytes"], found["models"][0]["max_context"]) == (None, None, None)


async def test_an_answer_is_listed_from_its_question_to_its_end():
    decode, go_on = asyncio.Event(), asyncio.Event()
    backend = FakeBackend(Progress("answering"), ANSWER[0], go_on, *ANSWER[1:], hold=decode)
    app = create_app(backend, Settings())
    running = post(app, HELLO | {"stream": True})
    await backend.asking.wait()
    (request,) = (await status(app))["requests"]
    assert (request["task"], request["progress"]["stage"], request["prompt_tokens"]) == ("chat", "decoding", None)
    decode.set()
    reply = await running.until(b'"content":"a"')
    found = await status(app)
    (request,) = found["requests"]
    assert (found["running"], found["waiting"]) == (1, 0)
    assert request["id"] == reply.headers["x-request-id"]
    assert (request["prompt_tokens"], request["completion_tokens"]) == (10, 1)
    go_on.set()
    await running.end()
    assert (await status(app))["requests"] == []


async def test_a_refused_question_and_one_whose_client_left_are_struck_out():
    full = FakeBackend(refusal=Overloaded("67 requests are running or waiting, the limit is 67"))
    app = create_app(full, Settings())
    assert (await post(app, HELLO).end()).status == 503
    assert (await status(app))["requests"] == []
    app = create_app(FakeBackend(ANSWER[0], asyncio.Event()), Settings())
    running = post(app, HELLO | {"stream": True})
    await running.until(b'"content":"a"')
    running.leave()
    await running.end()
    assert (await status(app))["requests"] == []
    found = await figures(app)
    assert found['sightline_answers_total{finish="cancelled",task="chat"}'] == 1
    assert found["sightline_completion_tokens_total"] == 2  # what was written until then was paid for


async def test_totals_and_rates_come_from_the_answers_themselves():
    app = create_app(FakeBackend(*ANSWER), Settings())
    await post(app, HELLO).end()
    await post(app, HELLO | {"stream": True, "n": 2}).end()
    found = await status(app)
    assert found["totals"] == {
        "answers": 3,
        "refused": 0,
        "prompt_tokens": 30,
        "cached_tokens": 9,
        "image_tokens": 12,
        "completion_tokens": 6,
        "pictures": 3,
        "pictures_cached": 0,
    }
    assert found["recent"]["answers"] == 3
    assert found["recent"]["tokens_per_s"] == 20  # two tokens after the first in 100 ms
    assert found["recent"]["first_token_s"] >= 0


async def test_metrics_count_requests_answers_and_tokens():
    app = create_app(FakeBackend(*ANSWER), Settings())
    await post(app, HELLO).end()
    await post(app, {"task": "captioning", "images": ["aGk="]}, "/infer").end()
    found = await figures(app)
    chat, infer = '{route="/v1/chat/completions",status="200",task="chat"}', 'route="/infer",status="200"'
    assert found["sightline_requests_total" + chat] == 1
    assert found[f'sightline_requests_total{{{infer},task="captioning"}}'] == 1
    assert found['sightline_answers_total{finish="stop",task="captioning"}'] == 1
    assert found["sightline_prompt_tokens_total"] == 20
    assert found["sightline_first_token_seconds_count"] == 2
    assert found["sightline_inter_token_seconds_count"] == 4
    assert found['sightline_request_seconds_count{route="/infer"}'] == 1
    assert (found["sightline_running"], found["sightline_waiting"], found["sightline_ready"]) == (0, 0, 1)
    assert (found["sightline_kv_blocks_used"], found["sightline_preemptions_total"]) == (7, 1)
    assert (found["sightline_guessed_tokens_total"], found["sightline_guessed_tokens_right_total"]) == (9, 4)
    assert found["process_resident_memory_bytes"] > 1 << 20


@pytest.mark.parametrize(
    ("refusal", "reason"),
    [(Overloaded("the queue is full"), "server_overloaded"), (InvalidImage("not a picture"), "invalid_image")],
)
async def test_what_was_refused_is_counted_by_its_reason(refusal, reason):
    app = create_app(FakeBackend(refusal=refusal), Settings())
    await post(app, HELLO).end()
    await post(app, HELLO | {"stream": True, "stream_options": {"include_progress": True}}).end()
    assert (await figures(app))[f'sightline_rejected_total{{reason="{reason}"}}'] == 2
    assert (await status(app))["totals"]["refused"] == 2


async def test_an_answer_that_breaks_off_counts_as_failed():
    app = create_app(FakeBackend(ANSWER[0], RuntimeError("broken")), Settings())
    await post(app, HELLO).end()
    found = await figures(app)
    assert found['sightline_answers_total{finish="failed",task="chat"}'] == 1
    assert found['sightline_rejected_total{reason="internal_error"}'] == 1
    assert found["sightline_running"] == 0


async def test_unknown_addresses_share_one_label():
    app = create_app(FakeBackend(), Settings())
    for path in ("/a", "/b", "/c"):
        await get(app, path).end()
    assert (await figures(app))['sightline_requests_total{route="none",status="404",task=""}'] == 3


async def test_two_apps_keep_their_own_books():
    first, second = create_app(FakeBackend(*ANSWER), Settings()), create_app(FakeBackend(), Settings())
    await post(first, HELLO).end()
    assert (await status(second))["totals"]["answers"] == 0
    assert (await figures(second))["sightline_prompt_tokens_total"] == 0
