"""What a chat request asks reaches the backend unchanged, and its answer comes back in OpenAI's form."""

import base64
import json

import pytest

from asgi import post
from fake_backend import USAGE, FakeBackend
from sightline.server.app import create_app
from sightline.settings import Settings
from sightline.types import Delta, Grammar, Image, Message, Text, TokenLogprob, ToolCall

pytestmark = pytest.mark.anyio
HELLO = [{"role": "user", "content": "hello"}]
DATA = b"\x89PNG not decoded here"
B64 = base64.b64encode(DATA).decode()
TOOL = {"type": "function", "function": {"parameters": {"type": "object"}, "name": "add", "extra": "kept"}}


async def chat(backend, **fields):
    reply = await post(create_app(backend, Settings()), {"messages": HELLO} | fields).end()
    assert reply.status == 200, reply.body
    return reply.json


async def asked(**fields):
    backend = FakeBackend()
    await chat(backend, **fields)
    return backend.answers[0]


async def test_an_answer_has_the_shape_that_clients_read():
    answer = await chat(FakeBackend())
    choice = answer["choices"][0]
    assert (answer["object"], answer["model"]) == ("chat.completion", "sightline-demo")
    assert choice["message"] == {"role": "assistant", "content": "Hello", "refusal": None}
    assert (choice["index"], choice["finish_reason"], choice["logprobs"]) == (0, "stop", None)
    assert answer["usage"]["total_time_ms"] >= 0
    del answer["usage"]["total_time_ms"]
    assert answer["usage"] == {
        "prompt_tokens": 10,
        "completion_tokens": 2,
        "total_tokens": 12,
        "prompt_tokens_details": {"cached_tokens": 3, "image_tokens": 4},
    }


async def test_an_answer_says_what_it_took_and_what_became_of_the_pictures():
    report = (await chat(FakeBackend()))["sightline"]
    assert report["images"] == [{"width": 60, "height": 40, "resized_width": 64, "resized_height": 32, "tokens": 4}]
    assert (report["model"], report["degraded"], report["queue_ms"]) == ("sightline-demo", False, 1)
    assert (report["cached_images"], report["dropped_turns"]) == (0, 2)


async def test_parts_keep_their_order_and_pictures_their_bytes():
    content = [
        {"type": "text", "text": "first"},
        {
            "type": "image_url",
            "image_url": {"url": f"data:image/png;base64,{B64}", "detail": "high"},
            "max_pixels": 500,
        },
        {"type": "image", "image": B64, "resized_height": 64, "resized_width": 96},
        {"type": "image_url", "image_url": {"url": f"DATA:;base64,{B64[:8]}\n{B64[8:]}"}},
        {"type": "text", "text": "last"},
    ]
    answer = await asked(messages=[{"role": "user", "content": content}], min_pixels=100, max_pixels=900)
    assert answer.asked.messages[0].parts == (
        Text("first"),
        Image(DATA, 100, 500, param="messages[0].content[1]"),
        Image(DATA, 100, 900, 64, 96, param="messages[0].content[2]"),
        Image(DATA, 100, 900, param="messages[0].content[3]"),
        Text("last"),
    )


async def test_a_size_of_the_request_is_that_of_each_picture_without_its_own():
    content = [
        {"type": "image", "image": B64},
        {"type": "image", "image": B64, "resized_height": 32, "resized_width": 32},
    ]
    answer = await asked(messages=[{"role": "user", "content": content}], resized_height=64, resized_width=96)
    sizes = [(part.resized_height, part.resized_width) for part in answer.asked.messages[0].parts]
    assert sizes == [(64, 96), (32, 32)]


@pytest.mark.parametrize(
    ("detail", "sizes", "max_pixels"),
    [
        ("low", {}, 512 * 512),
        ("low", {"max_pixels": 900}, 900),
        ("low", {"max_pixels": 10**6}, 512 * 512),
        ("high", {}, None),
        ("auto", {"max_pixels": 10**6}, 10**6),
        (None, {}, None),
    ],
)
async def test_low_detail_is_a_ceiling_and_the_others_are_the_models_own_size(detail, sizes, max_pixels):
    part = {"type": "image_url", "image_url": {"url": B64, "detail": detail}} | sizes
    answer = await asked(messages=[{"role": "user", "content": [part]}])
    assert answer.asked.messages[0].parts[0].max_pixels == max_pixels


async def test_a_conversation_with_tools_keeps_calls_and_results():
    call = {"id": "call_1", "type": "function", "function": {"name": "add", "arguments": '{"a": 1}'}}
    messages = [
        {"role": "developer", "content": "be brief"},
        {"role": "user", "content": "1+1?"},
        {"role": "assistant", "content": None, "tool_calls": [call], "reasoning_content": "hm"},
        {"role": "tool", "tool_call_id": "call_1", "content": "2"},
    ]
    answer = await asked(messages=messages, tools=[TOOL])
    assert answer.asked.tools == (json.dumps(TOOL),)
    assert answer.asked.messages == (
        Message("system", (Text("be brief"),)),
        Message("user", (Text("1+1?"),)),
        Message("assistant", (), (ToolCall("add", '{"a": 1}', "call_1"),), "hm"),
        Message("tool", (Text("2"),)),
    )


async def test_tools_that_may_not_be_called_are_not_shown_to_the_model():
    assert (await asked(tools=[TOOL], tool_choice="none")).asked.tools == ()


async def test_sampling_is_the_models_own_where_the_request_is_silent():
    sampling = (await asked()).sampling
    assert (sampling.temperature, sampling.top_k, sampling.seed) == (0.3, 20, None)


async def test_every_sampling_field_reaches_the_backend():
    sampling = (
        await asked(
            temperature=0, top_p=0.5, top_k=-1, min_p=0.1, presence_penalty=-1, frequency_penalty=1, max_tokens=7,
            repetition_penalty=1.1, logit_bias={"5": -100}, logprobs=True, stop="END", seed=-1, ignore_eos=True,
        )
    ).sampling  # fmt: skip
    assert (sampling.temperature, sampling.top_p, sampling.top_k, sampling.min_p) == (0, 0.5, 0, 0.1)
    assert (sampling.presence_penalty, sampling.frequency_penalty, sampling.repetition_penalty) == (-1, 1, 1.1)
    assert (sampling.logit_bias, sampling.top_logprobs, sampling.stop) == ({5: -100}, 0, ("END",))
    assert (sampling.seed, sampling.max_tokens, sampling.ignore_eos) == (2**64 - 1, 7, True)


@pytest.mark.parametrize(
    ("wanted", "grammar"),
    [
        ({"type": "text"}, None),
        ({"type": "json_object"}, Grammar()),
        (
            {"type": "json_schema", "json_schema": {"name": "n", "schema": {"type": "object"}}},
            Grammar('{"type": "object"}'),
        ),
    ],
)
async def test_the_response_format_becomes_a_grammar(wanted, grammar):
    assert (await asked(response_format=wanted)).sampling.grammar == grammar


async def test_the_oldest_turns_may_go_unless_the_request_forbids_it():
    assert [(await asked(truncation=wanted)).asked.may_drop_turns for wanted in (None, "auto", "disabled")] == [
        True,
        True,
        False,
    ]


async def test_several_answers_are_drawn_at_once_from_seeds_that_count_up():
    backend = FakeBackend()
    answer = await chat(backend, n=3, seed=7)
    assert [choice["index"] for choice in answer["choices"]] == [0, 1, 2]
    assert [each.sampling.seed for each in backend.answers] == [7, 8, 9]
    assert (answer["usage"]["prompt_tokens"], answer["usage"]["completion_tokens"]) == (10, 6)


async def test_log_probabilities_come_in_openais_form_and_never_as_infinity():
    token = TokenLogprob("é", "é".encode(), -0.5, (("x", b"x", float("-inf")),))
    backend = FakeBackend(Delta("é", logprobs=(token,)), Delta(finish="stop", usage=USAGE))
    answer = await chat(backend, logprobs=True, top_logprobs=1)
    rival = {"token": "x", "logprob": -9999.0, "bytes": [120]}
    shown = {"token": "é", "logprob": -0.5, "bytes": [195, 169], "top_logprobs": [rival]}
    assert answer["choices"][0]["logprobs"] == {"content": [shown], "refusal": None}
