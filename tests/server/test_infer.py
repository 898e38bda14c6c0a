"""The task API's own bodies: what is asked, what is answered, what is refused with which code."""

import asyncio
import base64
import json
import math

import pytest

from asgi import get, post
from fake_backend import USAGE, FakeBackend, says
from sightline.errors import (
    DamagedImage,
    ImageTooLarge,
    InvalidSchema,
    ModelLoading,
    OutOfMemory,
    Overloaded,
    PromptTooLong,
    UnsupportedImage,
)
from sightline.server.app import create_app
from sightline.settings import Settings
from sightline.types import Delta, Grammar, Image, Progress, Text, TokenLogprob

pytestmark = pytest.mark.anyio
PICTURE = base64.b64encode(b"not decoded here").decode()
VQA = {"task": "vqa", "images": [PICTURE], "text": "What?"}
SCHEMA = {"type": "object", "properties": {"total": {"type": "number"}}}


def send(body, backend=None, path="/infer", **settings):
    return post(create_app(backend or FakeBackend(), Settings(**settings)), body, path)


def wrote(*pieces):
    """The deltas of an answer whose tokens, each with its probability, are these."""
    deltas = [
        Delta(text, (1,), (TokenLogprob(text, text.encode(), math.log(probability)),)) for text, probability in pieces
    ]
    return (*deltas, Delta(tokens=(0,), finish="stop", usage=USAGE))


def events(reply):
    named = [event.split("\n") for event in reply.events]
    return [(name.removeprefix("event: "), json.loads(data.removeprefix("data: "))) for name, data in named]


async def test_an_answer_comes_in_the_envelope_of_the_task_api():
    reply = await send(VQA, FakeBackend(*wrote(("Hel", 0.9), ("lo", 0.4)))).end()
    body = reply.json
    assert (reply.status, body["code"], body["msg"]) == (200, 0, "success")
    assert body["request_id"] == reply.headers["x-request-id"]
    assert body["result"].pop("metadata").pop("processing_time_ms") >= 0
    assert body["result"] == {"answer": "Hello", "confidence": 0.6}


@pytest.mark.parametrize(
    ("body", "lane"), [(VQA, "interactive"), ({"task": "doc_analyze", "documents": [PICTURE]}, "bulk")]
)
async def test_a_document_is_asked_about_in_the_queue_for_bulk(body, lane):
    backend = FakeBackend()
    await send(body, backend).end()
    assert {answer.lane for answer in backend.answers} == {lane}


async def test_metadata_says_what_it_took_and_why_it_ended():
    metadata = (await send(VQA).end()).json["result"]["metadata"]
    del metadata["processing_time_ms"]
    assert metadata == {
        "model": "sightline-demo",
        "degraded": False,
        "activated_experts": 0.0,
        "input_tokens": 10,
        "output_tokens": 2,
        "stopped": "end",
    }
    backend = FakeBackend(Delta("Hel", finish="length", usage=USAGE))
    assert (await send(VQA, backend).end()).json["result"]["metadata"]["stopped"] == "length"


async def test_pictures_text_and_options_reach_the_model():
    backend = FakeBackend()
    options = {"max_tokens": 7, "temperature": 0.7, "top_p": 0.9, "stream": False}
    images = [f"data:image/png;base64,{PICTURE}", PICTURE]
    await send({**VQA, "images": images, "options": options}, backend).end()
    (answer,) = backend.answers
    (message,) = answer.asked.messages
    pictures = [Image(b"not decoded here", param=f"images[{i}]") for i in range(2)]
    assert message.parts == (*pictures, Text("What?"))
    sampling = answer.sampling
    assert (sampling.max_tokens, sampling.temperature, sampling.top_p, sampling.top_logprobs) == (7, 0.7, 0.9, 0)
    assert answer.closed.is_set()


async def test_a_structured_answer_has_data_and_a_confidence_for_every_field():
    backend = FakeBackend(*wrote(('{"total": ', 1e-9), ("39", 0.9), (".5", 0.4), ("}", 1e-9)))
    body = {"task": "extract", "images": [PICTURE], "options": {"schema": SCHEMA}}
    result = (await send(body, backend).end()).json["result"]
    assert (result["data"], result["confidence"]) == ({"total": 39.5}, 0.6)
    assert result["field_confidence"] == {"total": 0.6}
    assert backend.answers[0].sampling.grammar == Grammar(json.dumps(SCHEMA))


@pytest.mark.parametrize(
    "steps",
    [(Delta('{"total": 3', finish="length", usage=USAGE),), says('{"total": "\\ud800"}'), says("[" * 200 + "]" * 200)],
)
async def test_json_that_was_cut_or_cannot_be_read_has_its_text_and_no_data(steps):
    body = {"task": "extract", "images": [PICTURE], "options": {"schema": SCHEMA}}
    result = (await send(body, FakeBackend(*steps)).end()).json["result"]
    assert (result["data"], result["field_confidence"]) == (None, None)
    assert result["answer"] == "".join(step.text for step in steps)


@pytest.mark.parametrize(
    ("task", "answer"),
    [
        ("ground", '[{"bbox_2d": [100, 500, 1000], "label": "star"}]'),
        ("ground", '[{"bbox_2d": [100, 500, 1000, 1001], "label": "star"}]'),
        ("ground", '[{"bbox_2d": [1, 2, 3, 4], "label": "star", "colour": "blue"}]'),
        ("ground", "{}"),
        ("chart_parse", '{"chart_type": "bar"}'),
    ],
)
async def test_an_answer_that_has_not_the_published_form_has_its_text_and_no_data(task, answer):
    result = (await send({**VQA, "task": task}, FakeBackend(*says(answer))).end()).json["result"]
    assert (result["answer"], result["data"], result["field_confidence"]) == (answer, None, None)


@pytest.mark.parametrize("takes", [False, True])
async def test_a_model_is_asked_with_instructions_if_it_takes_them(takes):
    backend = FakeBackend()
    backend.takes_instructions = takes
    app = create_app(backend, Settings())
    await post(app, VQA, "/infer").end()
    await post(app, {"task": "doc_analyze", "documents": [PICTURE]}, "/infer").end()
    roles = [[message.role for message in answer.asked.messages] for answer in backend.answers]
    *asked, merging = roles
    assert asked == [["system", "user"] if takes else ["user"]] * 4
    assert merging == ["system", "user"]  # its question does not say what to do


async def test_boxes_come_in_thousandths_and_in_pixels_of_the_upright_picture():
    backend = FakeBackend(*says('[{"bbox_2d": [100, 500, 1000, 750], "label": "star"}]'))
    result = (await send({**VQA, "task": "ground"}, backend).end()).json["result"]
    (box,) = result["data"]
    assert box == {"bbox_2d": [100, 500, 1000, 750], "label": "star", "bbox_pixels": [6, 20, 60, 30]}


async def test_an_answer_that_goes_in_circles_is_stopped_and_kept():
    backend = FakeBackend(*[Delta("Oil 6.53\n", (5, 6)) for _ in range(1000)])
    result = (await send({"task": "ocr", "images": [PICTURE]}, backend).end()).json["result"]
    assert result["answer"] == "Oil 6.53\n" * 23
    assert result["metadata"]["stopped"] == "repetition"
    assert (result["metadata"]["output_tokens"], result["metadata"]["activated_experts"]) == (46, 0)
    assert backend.answers[0].closed.is_set()


@pytest.mark.parametrize(("path", "options"), [("/infer_stream", {}), ("/infer", {"stream": True})])
async def test_a_stream_is_token_events_and_a_final_one(path, options):
    backend = FakeBackend(*wrote(("第", 0.9), ("", 0.4), ("一", 0.5)))
    reply = await send({**VQA, "options": options}, backend, path).end()
    assert reply.headers["content-type"] == "text/event-stream; charset=utf-8"
    *tokens, (name, final) = events(reply)
    assert tokens == [("token", {"token": "第", "index": 0}), ("token", {"token": "一", "index": 1})]
    assert (name, final["answer"], final["confidence"]) == ("final", "第一", round(0.18 ** (1 / 3), 4))
    assert final["metadata"]["stopped"] == "end"
    assert backend.answers[0].closed.is_set()


@pytest.mark.parametrize(("path", "options"), [("/infer_stream", {}), ("/infer", {"stream": True})])
async def test_a_stream_that_asks_for_progress_has_it_before_its_tokens(path, options):
    backend = FakeBackend(Progress("looking", done=0, total=1), *wrote(("Hello", 0.9)))
    reply = await send({**VQA, "options": {"progress": True, **options}}, backend, path).end()
    found = events(reply)
    assert [(name, data.get("stage")) for name, data in found[:3]] == [
        ("progress", "decoding"),
        ("progress", "queued"),
        ("progress", "looking"),
    ]
    assert found[3] == ("token", {"token": "Hello", "index": 0})
    assert found[-1][0] == "final"


async def test_a_refusal_after_progress_was_told_is_an_error_event():
    reply = await send(
        {**VQA, "options": {"progress": True}}, FakeBackend(refusal=OutOfMemory("full")), "/infer_stream"
    ).end()
    assert [name for name, _ in events(reply)] == ["progress", "error"]


async def test_a_stream_that_goes_in_circles_ends_with_its_final_event():
    backend = FakeBackend(*[Delta(".") for _ in range(1000)])
    *tokens, (name, final) = events(await send(VQA, backend, "/infer_stream").end())
    assert (len(tokens), name, final["answer"]) == (200, "final", "." * 200)


async def test_an_error_after_the_start_is_an_error_event(capsys):
    reply = await send(VQA, FakeBackend(Delta("Hel"), OutOfMemory("full")), "/infer_stream").end()
    assert (reply.status, events(reply)[0]) == (200, ("token", {"token": "Hel", "index": 0}))
    request_id = reply.headers["x-request-id"]
    error = {"request_id": request_id, "code": 2002, "msg": "full", "result": None}
    assert events(reply)[1:] == [("error", error)]
    reply = await send(VQA, FakeBackend(Delta("Hel"), ValueError("secret")), "/infer_stream").end()
    assert (events(reply)[1][0], events(reply)[1][1]["code"]) == ("error", 5000)
    assert b"secret" not in reply.body
    assert "secret" in capsys.readouterr().err


async def test_an_error_before_the_start_of_a_stream_is_a_plain_refusal():
    reply = await send({**VQA, "text": ""}, path="/infer_stream").end()
    assert (reply.status, reply.json["code"]) == (400, 1000)


@pytest.mark.parametrize("path", ["/infer", "/infer_stream"])
async def test_a_client_that_leaves_stops_the_work(path):
    backend = FakeBackend(Delta("Hel"), asyncio.Event())
    exchange = send(VQA, backend, path)
    await backend.asking.wait()
    exchange.leave()
    await exchange.end()
    assert backend.answers[0].closed.is_set()


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"task": None}, "missing 'task' field"),
        ({"task": 5}, "task is 5"),
        ({"task": "vqa2"}, "task is 'vqa2'; known are vqa"),
        ({"task": "video_qa"}, "task 'video_qa' watches 'videos', not 'images'"),
        ({"task": "video_qa", "images": []}, "videos is empty"),
        ({"task": "video_qa", "images": [], "videos": ["AAAA", "AAAA"]}, "videos has 2 videos"),
        ({"task": "doc_analyze"}, "task 'doc_analyze' reads 'documents', not 'images'; ask about pictures with"),
        ({"task": "doc_analyze", "images": []}, "'documents' is missing; task 'doc_analyze' needs a PDF"),
        ({"task": "doc_analyze", "images": [], "documents": ["AAAA", "AAAA"]}, "reads one PDF at a time"),
        ({"videos": ["x"]}, "task 'vqa' does not watch 'videos'; use task 'video_qa'"),
        ({"options": {"fps": 2}}, "options.fps is for videos; leave it out or use task 'video_qa'"),
        ({"documents": ["x"]}, "task 'vqa' does not read 'documents'; use task 'doc_analyze'"),
        ({"options": {"pages": "1"}}, "options.pages is for documents; leave it out or use task 'doc_analyze'"),
        ({"images": []}, "images is empty"),
        ({"images": None}, "images is empty"),
        ({"images": PICTURE}, "images is"),
        ({"images": [5]}, "images[0] is 5"),
        ({"images": [PICTURE, "https://example.com/a.png"]}, "images[1]: this server does not fetch"),
        ({"task": "ocr", "images": [PICTURE] * 2}, "images has 2 pictures"),
        ({"text": "  "}, "prompt is empty"),
        ({"text": ["What?"]}, "text is"),
        ({"stream": True}, "'stream' is not known here; known are task, images, videos, documents, text, options"),
        ({"options": {"seed": 1}}, "'options.seed' is not known here; known are max_tokens, temperature, top_p"),
        ({"options": {"answer_schema": SCHEMA}}, "'options.answer_schema' is not known"),
        ({"options": {"temperature": "hot"}}, "options.temperature is 'hot'"),
        ({"options": {"max_tokens": 0}}, "options.max_tokens is 0"),
        ({"options": {"schema": SCHEMA}}, "options.schema is not used by task 'vqa'"),
        ({"task": "extract"}, "'options.schema' is missing"),
        ({"task": "extract", "options": {"schema": []}}, "options.schema is []"),
    ],
)
async def test_a_request_that_cannot_be_used_is_code_1000_and_names_the_field(change, words):
    backend = FakeBackend()
    reply = await send({**VQA, **change}, backend).end()
    assert (reply.status, reply.json["code"], reply.json["result"]) == (400, 1000, None)
    assert words in reply.json["msg"]
    assert reply.json["request_id"] == reply.headers["x-request-id"]
    assert not backend.answers


@pytest.mark.parametrize("body", [b"", b"{", b"[]", b'{"task": NaN}', b"\xff"])
async def test_a_body_that_is_no_json_object_is_code_1000(body):
    reply = await send(body).end()
    assert (reply.status, reply.json["code"]) == (400, 1000)
    assert reply.json["msg"].startswith("Invalid request format")


async def test_empty_lists_of_what_is_not_supported_yet_do_no_harm():
    assert (await send({**VQA, "videos": [], "documents": None, "options": None}).end()).status == 200


@pytest.mark.parametrize(
    ("error", "status", "code"),
    [
        (PromptTooLong("long"), 400, 1000),
        (InvalidSchema("odd"), 400, 1000),
        (InvalidSchema("odd", param="options.schema"), 400, 1000),
        (UnsupportedImage("Invalid image data: cannot decode image", param="images[0]"), 400, 1001),
        (ImageTooLarge("large", param="images[0]"), 413, 1003),
        (Overloaded("busy", retry_after_s=7), 503, 2001),
        (ModelLoading("soon"), 503, 2002),
        (OutOfMemory("full"), 503, 2002),
        (ValueError("secret"), 500, 5000),
    ],
)
@pytest.mark.parametrize("path", ["/infer", "/v1/infer_stream"])
async def test_every_kind_of_failure_has_its_code_and_status(error, status, code, path):
    reply = await send(VQA, FakeBackend(refusal=error), path).end()
    assert (reply.status, reply.json["code"], reply.json["result"]) == (status, code, None)
    assert ("retry-after" in reply.headers) == (status == 503)
    assert "secret" not in reply.json["msg"]
    assert (reply.json["request_id"] in reply.json["msg"]) == (status == 500)
    param = getattr(error, "param", None)
    assert param is None or f"({param})" in reply.json["msg"]
    if code == 1001:
        assert "convert to JPG or PNG (supported are JPEG, PNG, WebP, BMP, GIF and HEIC)" in reply.json["msg"]


async def test_only_what_would_help_is_said_of_a_picture_that_is_cut_off():
    error = DamagedImage("Invalid image data: cannot decode image (the PNG ends too early; send the whole file)")
    reply = await send(VQA, FakeBackend(refusal=error)).end()
    assert (reply.json["code"], reply.json["msg"]) == (1001, error.message)


@pytest.mark.parametrize(
    ("image", "code"),
    [("no base64!", 1001), ("", 1001), ("C:\\receipt.png", 1000), ("https://example.com/receipt.png", 1000)],
)
async def test_a_picture_that_is_no_base64_has_its_code(image, code):
    reply = await send({**VQA, "images": [image]}).end()
    assert (reply.status, reply.json["code"]) == (400, code)
    assert "images[0]" in reply.json["msg"]


async def test_a_loading_model_and_a_stopping_server_are_code_2002():
    backend = FakeBackend()
    backend.state = "loading"
    assert (await send(VQA, backend).end()).json["code"] == 2002
    app = create_app(FakeBackend(), Settings())
    app.state.service.draining = True
    reply = await post(app, VQA, "/infer").end()
    assert (reply.status, reply.json["code"], "retry-after" in reply.headers) == (503, 2002, True)


async def test_a_body_too_large_a_wrong_type_and_a_wrong_method_are_told_in_this_envelope_too():
    app = create_app(FakeBackend(), Settings(max_body_mb=1))
    reply = await post(app, b"x" * 2_000_000, "/infer").end()
    assert (reply.status, reply.json["code"]) == (413, 1003)
    reply = await post(app, b"", "/infer", {"content-type": "text/plain"}).end()
    assert (reply.status, reply.json["code"]) == (415, 1000)
    assert "application/json" in reply.json["msg"]
    reply = await get(app, "/infer").end()
    assert (reply.status, reply.json["code"]) == (405, 1000)


@pytest.mark.parametrize("base", ["", "/qwen-vl", "/a/b.c"])
@pytest.mark.parametrize("path", ["/infer", "/infer_stream", "/v1/infer", "/v1/infer_stream"])
async def test_the_routes_answer_at_the_root_and_under_the_base_path(base, path):
    app = create_app(FakeBackend(), Settings(base_path=base))
    assert (await post(app, VQA, path).end()).status == 200
    assert (await post(app, VQA, base + path).end()).status == 200
    assert (await post(app, {}, base + path).end()).json["code"] == 1000


async def test_all_other_routes_are_under_the_base_path_too():
    app = create_app(FakeBackend(), Settings(base_path="/qwen-vl"))
    for path in ("/healthz", "/v1/models", "/v1/models/sightline-demo"):
        assert (await get(app, "/qwen-vl" + path).end()).status == 200
    body = {"messages": [{"role": "user", "content": "What?"}]}
    assert (await post(app, body, "/qwen-vl/v1/chat/completions").end()).status == 200


@pytest.mark.parametrize("base", ["qwen-vl", "/qwen-vl/", "/", "/{name}", "/a b"])
def test_a_base_path_begins_with_a_slash_and_ends_without(base):
    with pytest.raises(ValueError, match="base_path"):
        Settings(base_path=base)
