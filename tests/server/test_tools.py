"""Tools: what the model may, must and may not call, and its calls in OpenAI's form, whole or streamed."""

import json

import pytest

from asgi import post
from fake_backend import USAGE, FakeBackend, says
from sightline.server.app import create_app
from sightline.server.tools import CallReader
from sightline.settings import Settings
from sightline.types import Calls, Delta, Grammar, TokenLogprob

pytestmark = pytest.mark.anyio
SCHEMA = {"type": "object", "properties": {"a": {"type": "integer"}}}
ADD = {"type": "function", "function": {"name": "add", "parameters": SCHEMA}}
NOW = {"type": "function", "function": {"name": "now"}}
ADD_FORM, NOW_FORM = ("add", json.dumps(SCHEMA)), ("now", '{"type": "object", "properties": {}}')
CALL = '<tool_call>\n{"name": "add", "arguments": {"a": 1}}\n</tool_call>'


def ask(backend, **fields):
    body = {"messages": [{"role": "user", "content": "hello"}], "tools": [ADD, NOW]} | fields
    return post(create_app(backend, Settings()), body)


async def choice(*texts, **fields):
    reply = await ask(FakeBackend(*says(*texts)), **fields).end()
    assert reply.status == 200, reply.body
    return reply.json["choices"][0]


async def streamed(*steps):
    """The choices of all chunks."""
    reply = await ask(FakeBackend(*steps), stream=True).end()
    assert reply.events[-1] == "data: [DONE]"
    return [json.loads(event.removeprefix("data: "))["choices"][0] for event in reply.events[:-1]]


@pytest.mark.parametrize(
    ("fields", "grammar"),
    [
        ({}, None),
        ({"tool_choice": "auto", "parallel_tool_calls": True}, None),
        ({"tool_choice": "none", "parallel_tool_calls": False}, None),
        ({"parallel_tool_calls": False}, Calls((ADD_FORM, NOW_FORM), needed=False, several=False)),
        ({"tool_choice": "required"}, Calls((ADD_FORM, NOW_FORM), needed=True, several=True)),
        (
            {"tool_choice": "required", "parallel_tool_calls": False},
            Calls((ADD_FORM, NOW_FORM), needed=True, several=False),
        ),
        (
            {"tool_choice": {"type": "function", "function": {"name": "now"}}},
            Calls((NOW_FORM,), needed=True, several=False),
        ),
        ({"parallel_tool_calls": False, "response_format": {"type": "json_object"}}, Grammar()),
        (
            {"tool_choice": "required", "response_format": {"type": "json_object"}},
            Calls((ADD_FORM, NOW_FORM), needed=True, several=True),
        ),
    ],
)
async def test_the_choice_of_tools_becomes_the_form_of_the_answer(fields, grammar):
    backend = FakeBackend()
    await ask(backend, **fields).end()
    assert backend.answers[0].sampling.grammar == grammar


async def test_a_call_in_the_answer_becomes_a_tool_call():
    found = await choice('I add.\n<tool_call>\n{"name": "add", "arguments": {"a": ', '{"b": 2}}}\n</tool_call>')
    (call,) = found["message"]["tool_calls"]
    assert (found["finish_reason"], found["message"]["content"]) == ("tool_calls", "I add.")
    assert (call["type"], call["function"]) == ("function", {"name": "add", "arguments": '{"a": {"b": 2}}'})
    assert call["id"].startswith("call_")


async def test_several_calls_keep_their_order_and_leave_no_text():
    message = (await choice(f"{CALL}\n{CALL.replace('1', '2')}\n"))["message"]
    assert [call["function"]["arguments"] for call in message["tool_calls"]] == ['{"a": 1}', '{"a": 2}']
    assert message["content"] is None
    assert len({call["id"] for call in message["tool_calls"]}) == 2


@pytest.mark.parametrize(
    "text",
    [
        "<tool_call>\n{broken}\n</tool_call>",
        '<tool_call>{"name": 5, "arguments": {}}</tool_call>',
        '<tool_call>["name", "arguments"]</tool_call>',
        '<tool_call>\n{"name": "add", "argu',
        "a <tool",
        " a \n",
    ],
)
async def test_what_does_not_read_as_a_call_stays_text(text):
    found = await choice(*text)
    assert (found["finish_reason"], found["message"]["content"]) == ("stop", text)


async def test_an_answer_cut_off_after_a_call_says_so():
    backend = FakeBackend(Delta(CALL + "\n<tool_c"), Delta(finish="length", usage=USAGE))
    found = (await ask(backend).end()).json["choices"][0]
    assert (found["finish_reason"], len(found["message"]["tool_calls"])) == ("length", 1)


async def test_call_marks_are_plain_text_when_no_tools_were_given():
    assert (await choice(CALL, tools=None))["message"]["content"] == CALL


async def test_a_streamed_call_comes_whole_after_the_text_before_it():
    found = await streamed(*says(*("I add.\n" + CALL + "\n" + CALL)))
    text = "".join(each["delta"].get("content", "") for each in found)
    calls = [call for each in found for call in each["delta"].get("tool_calls", [])]
    assert text == "I add."
    assert [(call["index"], call["function"]["arguments"]) for call in calls] == [(0, '{"a": 1}'), (1, '{"a": 1}')]
    assert all(call["id"].startswith("call_") and call["type"] == "function" for call in calls)
    assert found[-1]["finish_reason"] == "tool_calls"


async def test_a_stream_with_tools_and_no_call_is_the_same_text():
    found = await streamed(*says(*"a < b \n<tool_call> x"))
    assert "".join(each["delta"].get("content", "") for each in found) == "a < b \n<tool_call> x"
    assert found[-1]["finish_reason"] == "stop"


async def test_the_log_probabilities_of_a_streamed_call_come_once():
    tokens = [TokenLogprob(text, text.encode(), -0.5) for text in ("<tool_call>", CALL.removeprefix("<tool_call>"))]
    deltas = [Delta(each.token, logprobs=(each,)) for each in tokens]
    found = await streamed(*deltas, Delta(finish="stop", usage=USAGE))
    shown = [token["token"] for each in found if each["logprobs"] for token in each["logprobs"]["content"]]
    assert shown == [each.token for each in tokens]


def test_however_a_text_is_cut_the_calls_and_the_words_are_the_same():
    text = f"One < two.\n\n{CALL} {{}} <tool_call>x</tool_call>\n<tool_call>\n{CALL}  "
    whole = CallReader(tools=True)
    said, calls = whole.push(text)
    said += whole.flush()
    for size in (1, 2, 3, 7):
        reader, pieces, found = CallReader(tools=True), "", []
        for start in range(0, len(text), size):
            piece, made = reader.push(text[start : start + size])
            pieces, found = pieces + piece, [*found, *made]
        assert pieces + reader.flush() == said
        assert [call.arguments for call in found] == [call.arguments for call in calls]
