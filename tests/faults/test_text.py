"""Rows T: texts, templates and schemas that are made to hurt, against a live server."""

from __future__ import annotations

import json

import pytest

from faults.conftest import CHAT, MIB, says

HELLO = says("hello")


def shaped(schema: object, **fields: object):
    """A chat whose answer must satisfy the schema."""
    wanted = {"type": "json_schema", "json_schema": {"name": "x", "strict": True, "schema": schema}}
    return HELLO | {"response_format": wanted, "max_tokens": 8} | fields


def nested(depth: int):
    schema: object = {"type": "string"}
    for _ in range(depth):
        schema = {"type": "array", "items": schema}
    return schema


@pytest.mark.row("T01")
@pytest.mark.parametrize("field", ["chat_template", "chat_template_kwargs"])
@pytest.mark.parametrize("path", [CHAT, "/v1/estimate"])
def test_a_template_is_the_models_own(walk, field, path):
    walk.refused(HELLO | {field: "{{ 7 * 7 }}"}, "template_not_allowed", path=path, param=field)


@pytest.mark.row("T01")
def test_a_template_in_a_form_or_a_task_is_refused_too(walk):
    form = {"prompt": (None, "x"), "image": ("a.png", b"x"), "chat_template": (None, "{{ 7 * 7 }}")}
    reply = walk.form(files=form)
    assert (reply.status_code, reply.json()["error"]["code"]) == (400, "template_not_allowed")
    reply = walk.post({"task": "vqa", "images": ["x"], "text": "x", "chat_template": "x"}, "/infer")
    assert (reply.status_code, reply.json()["code"]) == (400, 1000)


@pytest.mark.row("T03")
@pytest.mark.parametrize(
    ("schema", "code"),
    [
        (nested(90), "invalid_schema"),
        ({"$ref": "#"}, "invalid_schema"),
        ({"$ref": "#/$defs/a", "$defs": {"a": {"$ref": "#/$defs/b"}, "b": {"$ref": "#/$defs/a"}}}, "invalid_schema"),
        ({"$ref": "http://example.com/schema.json"}, "invalid_schema"),
        ({"$ref": "file:///etc/passwd"}, "invalid_schema"),
        ({"type": "object", "properties": {f"p{i}": {"type": "string"} for i in range(10_000)}}, "invalid_schema"),
        ({"enum": ["x" * (5 * MIB)]}, "invalid_schema"),
    ],
    ids=["90 deep", "itself", "two that turn", "web", "file", "10,000 properties", "5 MiB"],
)
def test_a_schema_made_to_hurt_is_refused(walk, schema, code):
    walk.refused(shaped(schema), code)


@pytest.mark.row("T03")
def test_a_schema_a_thousand_levels_deep_is_not_even_read(walk):
    deep = b'{"items":' * 1000 + b"{}" + b"}" * 1000
    walk.refused(json.dumps(shaped({"mark": 0})).encode().replace(b'{"mark": 0}', deep), "invalid_json")


@pytest.mark.row("T04")
@pytest.mark.parametrize("pattern", ["(a+)+$", "x{1,100000}", "(?<=a)b", "(?=a)b", "(a|a)*b", "[", "\\1(a)"])
def test_a_pattern_is_answered_within_limits_or_refused(walk, pattern):
    reply = walk.post(shaped({"type": "string", "pattern": pattern}))
    assert reply.status_code == 200 or reply.json()["error"]["code"] == "invalid_schema", reply.text


@pytest.mark.row("T05")
@pytest.mark.parametrize("parameters", [{"type": "bogus"}, {"type": "string", "pattern": "("}])
def test_a_bogus_schema_of_a_tool_is_refused(walk, parameters):
    tool = {"type": "function", "function": {"name": "f", "parameters": parameters}}
    walk.refused(HELLO | {"tools": [tool], "tool_choice": "required"}, "invalid_schema")


@pytest.mark.row("T06", "T17")
@pytest.mark.parametrize(
    "field", ["guided_grammar", "guided_regex", "structured_outputs", "logits_processors", "backend"]
)
def test_grammars_and_backends_are_not_chosen_by_a_request(walk, field):
    walk.refused(HELLO | {field: "[" * 30_000}, "unsupported_parameter", param=field)


@pytest.mark.row("U16")
@pytest.mark.parametrize("field", ["base_url", "api_base", "config", "model_path", "lora_path"])
def test_a_request_names_no_server_and_no_path(walk, field):
    walk.refused(HELLO | {field: "http://127.0.0.1:1/"}, "unsupported_parameter", param=field)


@pytest.mark.row("T07")
def test_many_small_schemas_leave_nothing_behind(walk):
    for number in range(15):
        walk.answered(shaped({"const": f"v{number}"}))


@pytest.mark.row("T08")
def test_text_without_end_ends_at_max_tokens(walk):
    choice = walk.answered(shaped({"type": "array", "items": {"type": "integer"}, "minItems": 500}))["choices"][0]
    assert choice["finish_reason"] == "length"


@pytest.mark.row("T09")
def test_a_schema_that_nothing_satisfies_is_refused(walk):
    walk.refused(shaped({"type": "object", "required": ["a"], "properties": {"a": False}}), "invalid_schema")


@pytest.mark.row("T12")
def test_the_pieces_of_a_stream_make_the_whole_answer_whatever_its_characters(walk):
    body = shaped({"const": "漢字 👩‍👧 naïve"}, max_tokens=64)
    whole = walk.answered(body)["choices"][0]["message"]["content"]
    assert json.loads(whole) == "漢字 👩‍👧 naïve"
    events = walk.post(body | {"stream": True}).text.split("\n\n")
    chunks = [json.loads(event.removeprefix("data: ")) for event in events if event.startswith("data: {")]
    pieces = [choice["delta"].get("content") or "" for chunk in chunks for choice in chunk["choices"]]
    assert "".join(pieces) == whole
    assert "�" not in "".join(pieces)


@pytest.mark.row("T15")
def test_what_a_caller_calls_things_makes_no_line_of_its_own_in_the_log(walk):
    before = len(walk.server.lines)
    hostile = 'x\n2026-01-01 [error    ] forged\x1b[31m{"level": "error"}\u202e'
    walk.refused(HELLO | {"model": hostile}, "model_not_found", 404)
    walk.answered(HELLO | {"user": hostile})
    reply = walk.form(files={"image": (hostile, b"x")}, data={"prompt": "x"})
    assert reply.status_code == 400
    walk.post(HELLO, "/v1/forged%0aline")
    walk.server.logged("route=none status=404")
    new = "\n".join(walk.server.lines[before:])
    assert "forged" not in new
    assert "\x1b" not in new


@pytest.mark.row("T16")
@pytest.mark.parametrize("text", ["x" * (10 * MIB), " " * (10 * MIB) + "x"], ids=["a word", "spaces"])
def test_a_text_of_megabytes_is_refused_unread(walk, text):
    assert "characters" in walk.refused(says(text), "context_length_exceeded")


@pytest.mark.row("U14")
@pytest.mark.parametrize("field", ["callback", "callback_url", "webhook", "webhook_url", "notify"])
def test_there_is_no_address_to_call_back(walk, field):
    address = {field: "http://127.0.0.1:9/"}
    walk.refused(HELLO | address, "unsupported_parameter", param=field)
    assert walk.post({"task": "vqa", "text": "x", "images": ["AAAA"]} | address, "/infer").status_code == 400
    batch = {"input_file_id": "file-1", "endpoint": CHAT, "completion_window": "24h"}
    walk.refused(batch | address, "unsupported_parameter", path="/v1/batches", param=field)


@pytest.mark.row("U08")
@pytest.mark.parametrize(
    "name", ["/etc/hostname", "file:///etc/hostname", "../../etc/hostname", "/dev/zero", "/proc/self/mem"]
)
def test_no_request_reads_a_file(walk, name):
    parts = (
        {"type": "image_url", "image_url": {"url": name}},
        {"type": "image", "image": name},
        {"type": "video_url", "video_url": {"url": name}},
        {"type": "video", "video": [name]},
        {"type": "file", "file": {"file_data": name}},
    )
    for part in parts:
        reply = walk.post(says(part))
        assert (reply.status_code, reply.json()["error"]["type"]) == (400, "invalid_request_error")
    for task, medium in (("vqa", "images"), ("video_qa", "videos"), ("doc_analyze", "documents")):
        assert walk.post({"task": task, "text": "x", medium: [name]}, "/infer").status_code == 400
    walk.refused(HELLO | {"model": name}, "model_not_found", 404)
