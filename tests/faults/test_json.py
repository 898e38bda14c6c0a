"""Rows J: bodies and parameters that make no sense, against a live server."""

from __future__ import annotations

import json

import pytest

from faults.conftest import CHAT, says

HELLO = says("hello")
TOOL = {"type": "function", "function": {"name": "add"}}
INFER = "/infer"


def raw(**fields: bytes) -> bytes:
    """The body of a good chat, with these fields as they are."""
    body = json.dumps(HELLO).encode()[:-1]
    return body + b"".join(b', "%s": %s' % (name.encode(), value) for name, value in fields.items()) + b"}"


@pytest.mark.parametrize(
    "body",
    [
        pytest.param(json.dumps(HELLO).encode()[:-1], marks=pytest.mark.row("J01"), id="cut"),
        pytest.param(json.dumps(HELLO).encode() + b" {}", marks=pytest.mark.row("J01"), id="more behind it"),
        pytest.param(b"\xef\xbb\xbf" + json.dumps(HELLO).encode(), marks=pytest.mark.row("J01"), id="byte order mark"),
        pytest.param(raw(temperature=b"NaN"), marks=pytest.mark.row("J01", "J11"), id="NaN"),
        pytest.param(raw(temperature=b"-Infinity"), marks=pytest.mark.row("J01"), id="Infinity"),
        pytest.param(b"/* why */" + json.dumps(HELLO).encode(), marks=pytest.mark.row("J01"), id="comment"),
        pytest.param(b"", marks=pytest.mark.row("J01"), id="nothing"),
        pytest.param(b"[]", marks=pytest.mark.row("J02"), id="array"),
        pytest.param(b'"hi"', marks=pytest.mark.row("J02"), id="string"),
        pytest.param(b"5", marks=pytest.mark.row("J02"), id="number"),
        pytest.param(b"null", marks=pytest.mark.row("J02"), id="null"),
        pytest.param(b"true", marks=pytest.mark.row("J02"), id="true"),
        pytest.param(raw(stop=b"[" * 120 + b"]" * 120), marks=pytest.mark.row("J03"), id="120 lists"),
        pytest.param(b"[" * 250_000, marks=pytest.mark.row("J03"), id="250,000 lists, open"),
        pytest.param(b"[" * 250_000 + b"]" * 250_000, marks=pytest.mark.row("J03"), id="250,000 lists"),
        pytest.param(b'{"a":' * 120 + b"1" + b"}" * 120, marks=pytest.mark.row("J03"), id="120 objects"),
        pytest.param(
            b"{" + b",".join(b'"%d":1' % i for i in range(1_000_000)) + b"}", marks=pytest.mark.row("J04"), id="1M keys"
        ),
        pytest.param(raw(model=b'"a", "model": "b"'), marks=pytest.mark.row("J04"), id="a key twice"),
        pytest.param(raw(seed=b"1" * 100_000), marks=pytest.mark.row("J05"), id="100,000 digits"),
        pytest.param(raw(temperature=b"1e400"), marks=pytest.mark.row("J05"), id="1e400"),
        pytest.param(raw(user=b'"\xff"'), marks=pytest.mark.row("J06"), id="no UTF-8"),
        pytest.param(raw(user=b'"\\ud800"'), marks=pytest.mark.row("J06"), id="half a pair"),
        pytest.param(raw(user=b'"a\0b"'), marks=pytest.mark.row("J06"), id="a NUL byte"),
    ],
)
def test_what_is_no_strict_json_is_refused(walk, body):
    assert walk.refused(body, "invalid_json").startswith("Invalid request format: the body is ")
    reply = walk.post(body, INFER)
    assert (reply.status_code, reply.json()["code"]) == (400, 1000)


@pytest.mark.row("J06")
@pytest.mark.parametrize("text", ["a\0b", "\u202eabc\u2066", "e" + "\u0301" * 1000, "\U0001f469‍\U0001f467"])
def test_odd_text_is_text(walk, text):
    walk.answered(says(text))


@pytest.mark.parametrize(
    ("body", "code", "param"),
    [
        pytest.param({}, "missing_required_parameter", "messages", marks=pytest.mark.row("J07")),
        pytest.param({"messages": []}, "invalid_value", "messages", marks=pytest.mark.row("J07")),
        pytest.param(says("x", role="system"), "invalid_value", "messages[0].role", marks=pytest.mark.row("J07")),
        pytest.param(
            {"messages": [*HELLO["messages"], *says("a", role="assistant")["messages"] * 2]},
            "invalid_value",
            "messages[2].role",
            marks=pytest.mark.row("J07"),
        ),
        pytest.param(says(None), "invalid_value", "messages[0].content", marks=pytest.mark.row("J08")),
        pytest.param(says(""), "invalid_value", "messages[0].content", marks=pytest.mark.row("J08")),
        pytest.param(says([]), "invalid_value", "messages[0].content", marks=pytest.mark.row("J08")),
        pytest.param(says(5), "invalid_value", "messages[0].content", marks=pytest.mark.row("J08")),
        pytest.param(says([{"text": "x"}]), "invalid_value", "messages[0].content[0]", marks=pytest.mark.row("J08")),
        pytest.param(says([None]), "invalid_value", "messages[0].content[0]", marks=pytest.mark.row("J08")),
        pytest.param(says("x", role="robot"), "invalid_value", "messages[0].role", marks=pytest.mark.row("J09")),
        pytest.param(says([{"type": "x"}]), "invalid_value", "messages[0].content[0]", marks=pytest.mark.row("J09")),
        pytest.param(HELLO | {"xyz": 1}, "unsupported_parameter", "xyz", marks=pytest.mark.row("J10")),
        pytest.param(HELLO | {"guided_json": {}}, "unsupported_parameter", "guided_json", marks=pytest.mark.row("J10")),
        pytest.param(HELLO | {"temperature": -1}, "invalid_value", "temperature", marks=pytest.mark.row("J11")),
        pytest.param(HELLO | {"temperature": 1e9}, "invalid_value", "temperature", marks=pytest.mark.row("J11")),
        pytest.param(HELLO | {"top_p": "1"}, "invalid_value", "top_p", marks=pytest.mark.row("J11")),
        pytest.param(
            HELLO | {"presence_penalty": 9}, "invalid_value", "presence_penalty", marks=pytest.mark.row("J11")
        ),
        pytest.param(HELLO | {"max_tokens": 0}, "invalid_value", "max_tokens", marks=pytest.mark.row("J12")),
        pytest.param(HELLO | {"max_tokens": -1}, "invalid_value", "max_tokens", marks=pytest.mark.row("J12")),
        pytest.param(HELLO | {"max_completion_tokens": 2}, "invalid_value", "max_tokens", marks=pytest.mark.row("J12")),
        pytest.param(HELLO | {"n": 10**9}, "invalid_value", "n", marks=pytest.mark.row("J13")),
        pytest.param(HELLO | {"best_of": 10**9}, "unsupported_parameter", "best_of", marks=pytest.mark.row("J13")),
        pytest.param(HELLO | {"stop": ["a"] * 10_000}, "invalid_value", "stop", marks=pytest.mark.row("J14")),
        pytest.param(HELLO | {"stop": ""}, "invalid_value", "stop[0]", marks=pytest.mark.row("J14")),
        pytest.param(HELLO | {"logit_bias": {"-1": 1}}, "invalid_value", "logit_bias", marks=pytest.mark.row("J15")),
        pytest.param(
            HELLO | {"logprobs": True, "top_logprobs": 10_000},
            "invalid_value",
            "top_logprobs",
            marks=pytest.mark.row("J15"),
        ),
        pytest.param(
            {"messages": HELLO["messages"] * 10_000}, "invalid_value", "messages", marks=pytest.mark.row("J17")
        ),
        pytest.param(
            says([{"type": "text", "text": "x"}] * 100_000),
            "invalid_value",
            "messages[0].content",
            marks=pytest.mark.row("J17"),
        ),
        pytest.param(
            HELLO | {"stream_options": {"include_usage": True}},
            "invalid_value",
            "stream_options",
            marks=pytest.mark.row("J19"),
        ),
        pytest.param(HELLO | {"seed": 1.5}, "invalid_value", "seed", marks=pytest.mark.row("J20")),
        pytest.param(HELLO | {"tools": [TOOL] * 1000}, "invalid_value", "tools", marks=pytest.mark.row("J21")),
        pytest.param(
            HELLO | {"tools": [TOOL], "tool_choice": {"type": "function", "function": {"name": "sub"}}},
            "invalid_value",
            "tool_choice",
            marks=pytest.mark.row("J21"),
        ),
        pytest.param(
            {"messages": [*HELLO["messages"], {"role": "tool", "content": "4", "tool_call_id": "x"}]},
            "invalid_value",
            "messages[1].tool_call_id",
            marks=pytest.mark.row("J21"),
        ),
        pytest.param(HELLO | {"min_tokens": 2}, "unsupported_parameter", "min_tokens", marks=pytest.mark.row("J22")),
    ],
)
def test_a_parameter_that_makes_no_sense_is_refused_by_name(walk, body, code, param):
    walk.refused(body, code, param=param)


@pytest.mark.parametrize(
    "fields",
    [
        pytest.param({"max_tokens": 10**9}, marks=pytest.mark.row("J12")),
        pytest.param(
            {"metadata": {str(i): "x" for i in range(17)}, "user": "x" * 10_240}, marks=pytest.mark.row("J20")
        ),
        pytest.param({"priority": 5}, marks=pytest.mark.row("J22")),
    ],
)
def test_what_does_no_harm_is_answered(walk, fields):
    walk.answered(HELLO | {"temperature": 0} | fields)


@pytest.mark.row("J15")
def test_a_bias_for_a_token_there_is_not_is_refused(walk):
    assert "999999999" in walk.refused(HELLO | {"logit_bias": {"999999999": 1}}, "invalid_value", param="logit_bias")


@pytest.mark.row("J16")
def test_a_prompt_longer_than_the_context_is_refused_with_both_counts(walk):
    message = walk.refused(says("7 " * 9000), "context_length_exceeded")
    assert "tokens (0 of them pictures), the context holds 4096" in message


@pytest.mark.row("J18")
@pytest.mark.parametrize("model", ["", "gpt-4o", "../../etc/passwd", "https://example.com/model", "x" * 10_240])
def test_a_model_that_is_not_served_is_not_found(walk, model):
    message = walk.refused(HELLO | {"model": model}, "model_not_found", 404, param="model")
    assert "'sightline-demo' is" in message
    assert len(message) < 300


@pytest.mark.row("J19")
def test_usage_comes_in_the_last_chunk_of_a_stream(walk):
    text = walk.post(HELLO | {"stream": True, "stream_options": {"include_usage": True}}, CHAT).text
    *_, last, done, rest = text.split("\n\n")
    assert (done, rest) == ("data: [DONE]", "")
    assert json.loads(last.removeprefix("data: "))["usage"]["completion_tokens"] == 1
