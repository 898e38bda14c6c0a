"""Tools as openai-python users call them, on a live port. The demo model was not taught tools: it is made to call."""

import json

import openai
import pytest

from contract.test_openai import TOTAL, picture

REPORT = {
    "type": "function",
    "function": {
        "name": "report_total",
        "description": "Report the total of a receipt",
        "parameters": {
            "type": "object",
            "properties": {"total": {"type": "number"}, "paid": {"type": "boolean"}},
            "required": ["total", "paid"],
            "additionalProperties": False,
        },
    },
}
ESCALATE = {"type": "function", "function": {"name": "escalate", "parameters": {"enum": [{}]}}}
NAMED = {"type": "function", "function": {"name": "report_total"}}


def checked(call, allowed):
    assert call.type == "function"
    assert call.id.startswith("call_")
    assert call.function.name in allowed
    arguments = json.loads(call.function.arguments)
    if call.function.name == "report_total":
        assert {name: type(value) in (int, float, bool) for name, value in arguments.items()} == {
            "total": True,
            "paid": True,
        }


def test_a_required_call_is_made_with_valid_arguments(server):
    choice = server.ask(
        picture(), TOTAL, tools=[REPORT, ESCALATE], tool_choice="required", parallel_tool_calls=False
    ).choices[0]
    (call,) = choice.message.tool_calls
    checked(call, {"report_total", "escalate"})
    assert (choice.finish_reason, choice.message.content) == ("tool_calls", None)


def test_a_named_function_is_the_one_that_is_called(server):
    for _ in range(3):
        choice = server.ask(picture(), TOTAL, tools=[ESCALATE, REPORT], tool_choice=NAMED, temperature=1).choices[0]
        checked(choice.message.tool_calls[0], {"report_total"})
        assert choice.finish_reason == "tool_calls"


def test_a_streamed_call_is_put_together_by_the_client(server):
    messages = [{"role": "user", "content": [picture(), TOTAL]}]
    with server.client.chat.completions.stream(
        model="sightline-demo", messages=messages, tools=[REPORT], tool_choice=NAMED
    ) as stream:
        done = [event for event in stream if event.type == "tool_calls.function.arguments.done"]
        choice = stream.get_final_completion().choices[0]
    assert [event.name for event in done] == ["report_total"]
    checked(choice.message.tool_calls[0], {"report_total"})
    assert choice.finish_reason == "tool_calls"


def test_a_call_and_its_result_go_back_into_the_conversation(server):
    question = {"role": "user", "content": [picture(), TOTAL]}
    called = server.ask(picture(), TOTAL, tools=[REPORT], tool_choice=NAMED).choices[0].message
    result = {"role": "tool", "tool_call_id": called.tool_calls[0].id, "content": "reported"}
    answer = server.client.chat.completions.create(
        model="sightline-demo", messages=[question, called, result], tools=[REPORT], max_tokens=8
    )
    assert answer.usage.prompt_tokens_details.cached_tokens > 0
    assert answer.choices[0].finish_reason in ("stop", "length")


def test_a_schema_of_arguments_that_cannot_be_kept_is_refused_by_name(server):
    broken = {"type": "function", "function": {"name": "f", "parameters": {"type": "quux"}}}
    with pytest.raises(openai.BadRequestError) as caught:
        server.ask(TOTAL, tools=[broken], tool_choice="required")
    assert caught.value.code == "invalid_schema"
