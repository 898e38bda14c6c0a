"""Every refusal is an OpenAI envelope that names what is wrong; nothing we got wrong leaks into one."""

import json

import pytest

from asgi import JSON, Exchange, get, post
from fake_backend import FakeBackend
from sightline.errors import CheckpointError, ImageTooLarge, ModelLoading, Overloaded, PromptTooLong
from sightline.server.app import create_app
from sightline.settings import Settings

pytestmark = pytest.mark.anyio
HELLO = [{"role": "user", "content": "hello"}]
TOOL = {"type": "function", "function": {"name": "add"}}


def app(backend=None, **settings):
    return create_app(backend or FakeBackend(), Settings(**settings))


def asks(**fields):
    return {"messages": HELLO} | fields


def says(content, role="user"):
    return {"messages": [{"role": role, "content": content}]}


def picture(url):
    return says([{"type": "image_url", "image_url": {"url": url}}])


@pytest.mark.parametrize(
    ("body", "code", "param", "words"),
    [
        ({}, "missing_required_parameter", "messages", "Invalid request format: missing 'messages' field"),
        (
            {"messages": None},
            "missing_required_parameter",
            "messages",
            "Invalid request format: missing 'messages' field",
        ),
        (
            {"prompt": "hi", "images": ["AAAA"]},
            "missing_required_parameter",
            "messages",
            "Invalid request format: missing 'messages' field",
        ),
        ({"messages": []}, "invalid_value", "messages", "at least 1"),
        ({"messages": "hi"}, "invalid_value", "messages", "should be an array"),
        (b"[]", "invalid_json", None, "send a JSON object"),
        (says(5), "invalid_value", "messages[0].content", "content must be a string or array"),
        (says({"text": "hi"}), "invalid_value", "messages[0].content", "content must be a string or array"),
        (says(None), "invalid_value", "messages[0].content", "content must be a string or array"),
        (says(""), "invalid_value", "messages[0].content", "is empty"),
        (says([]), "invalid_value", "messages[0].content", "is empty"),
        (says([{"text": "hi"}]), "invalid_value", "messages[0].content[0]", "has type null"),
        (says(["hi"]), "invalid_value", "messages[0].content[0]", "must be an object"),
        (says([{"type": "text"}]), "missing_required_parameter", "messages[0].content[0].text", "is missing"),
        (
            says([{"type": "video_url", "video_url": {}}]),
            "missing_required_parameter",
            "messages[0].content[0].video_url.url",
            "is missing",
        ),
        (says([{"type": "video", "video": 5}]), "invalid_value", "messages[0].content[0].video", "array of frames"),
        (says([{"type": "video", "video": []}]), "invalid_value", "messages[0].content[0].video", "is empty"),
        (
            says([{"type": "file", "file": {}}]),
            "missing_required_parameter",
            "messages[0].content[0].file.file_data",
            "'messages[0].content[0].file.file_data' is missing",
        ),
        (
            says([{"type": "file", "file": {"file_id": "file-1"}}]),
            "unsupported_parameter",
            "messages[0].content[0].file.file_id",
            "send the PDF itself as 'file_data'",
        ),
        (says("hi", "robot"), "invalid_value", "messages[0].role", "'robot'"),
        (says("hi", "system"), "invalid_value", "messages[0].role", "the last message"),
        (
            {"messages": [*HELLO, {"role": "system", "content": "x"}]},
            "invalid_value",
            "messages[1].role",
            "first message",
        ),
        (
            {"messages": [*HELLO, {"role": "tool", "content": "4"}]},
            "invalid_value",
            "messages[1].tool_call_id",
            "tool call",
        ),
        (
            picture("https://example.org/a.png"),
            "remote_media_disabled",
            "messages[0].content[0].image_url.url",
            "data:",
        ),
        (
            says([{"type": "image_url", "image_url": {"url": "AAAA", "detail": "medium"}}]),
            "invalid_value",
            "messages[0].content[0].image_url.detail",
            "'medium'",
        ),
        (
            says([{"type": "image_url", "image_url": {"url": "AAAA", "detail": "low"}, "min_pixels": 300_000}]),
            "invalid_value",
            "messages[0].content[0].image_url.detail",
            "min_pixels is 300000",
        ),
        (
            says([{"type": "image_url", "image_url": "AAAA"}]),
            "invalid_value",
            "messages[0].content[0].image_url",
            "'AAAA' is no object; send {\"url\": …}",
        ),
        (
            says([{"type": "image_url", "image_url": {"url": "AAAA", "max_pixels": 1024}}]),
            "unsupported_parameter",
            "messages[0].content[0].image_url",
            "'max_pixels' is not read inside this object",
        ),
        (
            says([{"type": "file", "file": {"file_data": "AAAA", "pages": "1"}}]),
            "unsupported_parameter",
            "messages[0].content[0].file",
            "stand beside the part's 'type'",
        ),
        (
            says([{"type": "image", "image": "AAAA", "fps": 1}]),
            "unsupported_parameter",
            "messages[0].content[0]",
            "known are max_pixels, min_pixels, resized_height, resized_width",
        ),
        (
            says([{"type": "video", "video": "AAAA", "nframes": 8}]),
            "unsupported_parameter",
            "messages[0].content[0]",
            "'nframes' is not read; here it is called 'num_frames'",
        ),
        (picture("HTTP://example.org/a.png"), "remote_media_disabled", "messages[0].content[0].image_url.url", "data:"),
        (picture("file:///etc/passwd"), "invalid_image_url", "messages[0].content[0].image_url.url", "'file'"),
        (asks(temperature=2.5), "invalid_value", "temperature", "2.5: input should be less than or equal to 2"),
        (asks(temperature="warm"), "invalid_value", "temperature", "'warm'"),
        (asks(max_tokens=0), "invalid_value", "max_tokens", "greater than or equal to 1"),
        (asks(max_tokens=5, max_completion_tokens=6), "invalid_value", "max_tokens", "send one"),
        (asks(n=10**9), "invalid_value", "n", "less than or equal to 8"),
        (asks(stop=["a", ""]), "invalid_value", "stop[1]", "at least 1 character"),
        (asks(stop=["a"] * 10_000), "invalid_value", "stop", "at most 16"),
        (asks(stop=5), "invalid_value", "stop", "stop is 5; send a string or an array of strings"),
        (asks(images=["AAAA"]), "unsupported_parameter", "images", "it belongs into a message's content"),
        (asks(seed=1.5), "invalid_value", "seed", "valid integer"),
        (asks(logprobs=True, top_logprobs=21), "invalid_value", "top_logprobs", "less than or equal to 20"),
        (asks(top_logprobs=2), "invalid_value", "top_logprobs", "logprobs"),
        (asks(logit_bias={"cat": 1}), "invalid_value", "logit_bias", "'cat'"),
        (asks(stream_options={"include_usage": True}), "invalid_value", "stream_options", "stream"),
        (asks(min_pixels=-1), "invalid_value", "min_pixels", "-1"),
        (asks(response_format={"type": "xml"}), "invalid_value", "response_format.type", "'xml'"),
        (
            asks(response_format={"type": "json_schema"}),
            "missing_required_parameter",
            "response_format.json_schema",
            "is missing",
        ),
        (asks(tools=[{"type": "function"}]), "invalid_value", "tools[0]", "a tool must be"),
        (asks(tools=[TOOL, TOOL]), "invalid_value", "tools", "'add'"),
        (asks(tool_choice="required"), "invalid_value", "tool_choice", "no tools"),
        (asks(tool_choice="any", tools=[TOOL]), "invalid_value", "tool_choice", "'any'"),
        (asks(tool_choice={"type": "function"}, tools=[TOOL]), "invalid_value", "tool_choice", 'send "none"'),
        (
            asks(tool_choice={"type": "function", "function": {"name": "sub"}}, tools=[TOOL]),
            "invalid_value",
            "tool_choice",
            "'sub', which is not among the tools",
        ),
        (asks(parallel_tool_calls="no", tools=[TOOL]), "invalid_value", "parallel_tool_calls", "'no'"),
        (asks(modalities=["text", "audio"]), "unsupported_parameter", "modalities", 'send ["text"]'),
        (asks(service_tier="flex"), "unsupported_parameter", "service_tier", '"auto"'),
        (asks(functions=[]), "unsupported_parameter", "functions", "leave it out"),
        (asks(guided_json={}), "unsupported_parameter", "guided_json", "leave it out"),
        (asks(chat_template="{{x}}"), "template_not_allowed", "chat_template", "plain messages"),
        (asks(chat_template_kwargs={}), "template_not_allowed", "chat_template_kwargs", "plain messages"),
        (asks(model=7), "invalid_value", "model", "valid string"),
    ],
)
async def test_a_request_that_cannot_be_used_is_refused_by_name(body, code, param, words):
    reply = await post(app(), body).end()
    assert (reply.status, reply.error["type"]) == (400, "invalid_request_error")
    assert (reply.error["code"], reply.error["param"]) == (code, param)
    assert words in reply.error["message"]


@pytest.mark.parametrize(
    ("data", "code"),
    [
        ("", "empty_image_file"),
        ("data:image/png;base64,", "empty_image_file"),
        ("data:image/png;base64", "invalid_base64_image"),
        ("data:image/png,abc", "invalid_base64_image"),
        ("a b!", "invalid_base64_image"),
        ("abc", "invalid_base64_image"),
    ],
)
async def test_text_that_is_no_base64_is_an_undecodable_image(data, code):
    reply = await post(app(), picture(data)).end()
    assert reply.status == 400
    assert reply.error["code"] == code
    assert reply.error["message"].startswith("Invalid image data: cannot decode image")


@pytest.mark.parametrize(
    ("data", "words"),
    [
        ("a b!", "character 3 is '!'"),
        ("AA=A", "character 3 is '='"),
        ("AAAAA", "its 5 characters are not whole groups of four"),
        ("A===", "its end has too many '='"),
    ],
)
async def test_what_keeps_a_text_from_being_base64_is_named(data, words):
    assert words in (await post(app(), picture(data)).end()).error["message"]


async def test_wishes_of_null_and_other_unknown_fields_of_a_part_do_no_harm():
    part = {"type": "image_url", "image_url": {"url": "AAAA", "fps": None}, "pages": None, "cache_control": {}}
    assert (await post(app(), says([part])).end()).status == 200


@pytest.mark.parametrize(
    ("raw", "words"),
    [
        (b"", "it is empty"),
        (b" \n", "it is empty"),
        (b'{"messages":', "Expecting value"),
        (b"{} {}", "Extra data"),
        (b"\xef\xbb\xbf{}", "byte order mark"),
        (b"{'a': 1}", "double quotes"),
        (b'{"a": NaN}', "NaN"),
        (b'{"a": -Infinity}', "-Infinity"),
        (b'{"a": 1e400}', "too large"),
        (b'{"a": ' + b"1" * 100_000 + b"}", "too many digits"),
        (b'{"a": 1, "a": 2}', "stands twice"),
        (b'{"a": ' + b"[" * 120 + b"]" * 120 + b"}", "deeper than 100"),
        (b"[" * 250_000, "deeper than 100"),
        (b"[" + b"1," * 600_000 + b"1]", "more than 500000 values"),
        (b'{"a": "\xff"}', "UTF-8"),
        (b'{"a": "\\ud800"}', "UTF-8"),
    ],
)
async def test_what_is_not_strict_json_is_refused(raw, words):
    reply = await post(app(), raw).end()
    assert (reply.status, reply.error["code"]) == (400, "invalid_json")
    assert words in reply.error["message"]


async def test_harmless_fields_are_ignored():
    body = asks(
        user="u", metadata={"a": "b"}, store=True, service_tier="auto", modalities=["text"], temperature=None, xyz=None
    )
    assert (await post(app(), body).end()).status == 200


@pytest.mark.parametrize(("name", "way_out"), [("temprature", "did you mean 'temperature'?"), ("xyz", "leave it out")])
async def test_an_unknown_field_is_refused_with_the_near_match(name, way_out):
    reply = await post(app(), asks(**{name: 1})).end()
    assert (reply.status, reply.error["code"], reply.error["param"]) == (400, "unsupported_parameter", name)
    assert way_out in reply.error["message"]


@pytest.mark.parametrize("kind", [None, "text/plain", "application/x-www-form-urlencoded", "multipart/mixed"])
async def test_another_content_type_is_told_which_are_known(kind):
    reply = await post(app(), b"{}", headers={"content-type": kind} if kind else {}).end()
    assert (reply.status, reply.error["type"]) == (415, "invalid_request_error")
    assert "application/json" in reply.error["message"]
    assert "multipart/form-data" in reply.error["message"]


async def test_a_compressed_body_is_refused():
    reply = await post(app(), b"{}", headers=JSON | {"content-encoding": "gzip"}).end()
    assert (reply.status, reply.error["code"]) == (415, "unsupported_media_type")


async def test_a_body_declared_over_the_limit_is_refused_unread():
    exchange = post(app(max_body_mb=1), b"x" * 2_000_000, headers=JSON | {"content-length": "2000000"})
    reply = await exchange.end()
    assert (reply.status, reply.error["code"], exchange.read) == (413, "content_too_large", 0)
    assert "2000000" in reply.error["message"]
    assert "1048576" in reply.error["message"]


async def test_a_body_that_grows_over_the_limit_is_not_read_further():
    exchange = post(app(max_body_mb=1), [b"x" * 600_000] * 10)
    reply = await exchange.end()
    assert (reply.status, exchange.read) == (413, 1_200_000)
    assert reply.headers["connection"] == "close"


async def test_a_body_of_exactly_the_limit_is_read():
    body = json.dumps(asks()).encode()
    assert (await post(app(max_body_mb=1), body + b" " * ((1 << 20) - len(body))).end()).status == 200


async def test_an_unknown_model_is_told_what_is_served():
    reply = await post(app(), asks(model="gpt-4o")).end()
    assert (reply.status, reply.error["code"], reply.error["param"]) == (404, "model_not_found", "model")
    assert "sightline-demo" in reply.error["message"]


@pytest.mark.parametrize("name", ["sightline-demo", "SIGHTLINE-Demo", "sightline/demo-vl"])
async def test_a_model_answers_to_its_id_and_aliases_in_any_case(name):
    assert (await post(app(), asks(model=name)).end()).status == 200
    assert (await get(app(), f"/v1/models/{name}").end()).json["id"] == "sightline-demo"


async def test_an_unknown_address_and_a_wrong_method_have_the_envelope_too():
    reply = await get(app(), "/nothing").end()
    assert (reply.status, reply.error["code"]) == (404, "not_found")
    reply = await get(app(), "/v1/chat/completions").end()
    assert (reply.status, reply.error["code"], reply.headers["allow"]) == (405, "method_not_allowed", "POST")
    assert "use POST" in reply.error["message"]
    reply = await get(app(), "/v1/files", "PATCH").end()
    assert (reply.status, reply.headers["allow"]) == (405, "GET, POST")


@pytest.mark.parametrize("path", ["/v1/completions", "/v1/embeddings"])
async def test_routes_for_other_kinds_of_model_say_so(path):
    reply = await post(app(), {}, path).end()
    assert (reply.status, reply.error["code"]) == (404, "unsupported")
    assert "/v1/chat/completions" in reply.error["message"]


@pytest.mark.parametrize(
    ("refusal", "status", "kind", "retry_after"),
    [
        (PromptTooLong("too long", param="messages"), 400, "invalid_request_error", None),
        (ImageTooLarge("11 MB, the limit is 10 MB"), 413, "invalid_request_error", None),
        (Overloaded("full", retry_after_s=7), 503, "server_error", "7"),
        (ModelLoading("loading"), 503, "server_error", "5"),
    ],
)
async def test_what_the_backend_refuses_keeps_its_status_and_words(refusal, status, kind, retry_after):
    for stream in (False, True):
        reply = await post(app(FakeBackend(refusal=refusal)), asks(stream=stream)).end()
        assert (reply.status, reply.error["type"], reply.error["message"]) == (status, kind, refusal.message)
        assert reply.headers.get("retry-after") == retry_after


@pytest.mark.parametrize("mistake", [ValueError("/secret/path"), CheckpointError("/secret/path")])
async def test_our_own_mistakes_are_not_told_but_numbered(mistake):
    for backend in (FakeBackend(refusal=mistake), FakeBackend(mistake)):
        reply = await post(app(backend), asks()).end()
        assert (reply.status, reply.error["type"], reply.error["code"]) == (500, "server_error", "internal_error")
        assert "secret" not in reply.body.decode()
        assert reply.headers["x-request-id"] in reply.error["message"]


async def test_every_response_has_a_request_id_of_our_own():
    exchange = Exchange(app(), "GET", "/nothing", [b""], {"x-request-id": "mine\nforged"}).begin()
    first, second = (await exchange.end()).headers, (await get(app(), "/health").end()).headers
    assert first["x-request-id"].startswith("req_")
    assert first["x-request-id"] != second["x-request-id"]
