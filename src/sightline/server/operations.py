"""What every route is for, what it takes and answers, with examples that run. Data; describe.py makes it OpenAPI."""

from __future__ import annotations

import base64
import json
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from sightline import wire, wire_batch, wire_moderation, wire_status, wire_tasks
from sightline.server.bodies import FORM, JSON

EVENTS = "text/event-stream"
PROMETHEUS = "text/plain; version=0.0.4; charset=utf-8"


@dataclass(frozen=True, slots=True)
class Events:
    """A stream of server-sent events: the JSON in `data` by the event's name, "" for events without one.

    `last` is the text of one more event, which is no JSON.
    """

    data: Mapping[str, tuple[type[wire.Wire], ...]]
    last: str | None = None


Shape = type[wire.Wire] | Mapping[str, Any] | Events  # one of our bodies, a JSON schema, or a stream


@dataclass(frozen=True, slots=True)
class Answer:
    """What one status means, and its body by content type."""

    meaning: str
    body: Mapping[str, Shape]
    headers: tuple[str, ...] = ()  # those of describe.HEADERS that it may have beside the request's id


@dataclass(frozen=True, slots=True)
class Operation:
    """One method of one route. `examples` are bodies by content type and name, for a server with the demo model.

    `answers` begin with the one that the examples get.
    """

    tag: str
    summary: str
    description: str
    answers: Mapping[int, Answer]
    takes: Mapping[str, Shape] = field(default_factory=dict)
    examples: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    parameters: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)  # by name: OpenAPI's, with an example


# ---- pieces

# A red disc on white, 64 x 64 pixels.
PICTURE = (
    "iVBORw0KGgoAAAANSUhEUgAAAEAAAABAAQMAAACQp+OdAAAABlBMVEX////cHh7/Hx2WAAAAg0lEQVR42r3QsQ2DQBQE0ccHCTJTAu4Ed+QSrwSX"
    "QAmEJwtxDpCtC4gcsNFoVtpguTa3jMCzP0RTSgJ9KSvBwEAw0hFMBMFMQ0tCk0IDs/jOx4FTbToYa/ODAYbT6j/IkE+rDdba7LDUpkDSYuYhSBSC"
    "hZ1gZSPIZII3L1qY79XPF+QDrEEctGfYTQAAAABJRU5ErkJggg=="
)
# Three blue bars: Sales on Mon, Tue and Wed, 256 x 208 pixels.
CHART_PICTURE = (
    "iVBORw0KGgoAAAANSUhEUgAAAQAAAADQAgMAAACVVVduAAAACVBMVEX///8xYMcODg6wevEkAAADRElEQVR42u2aPW/TQBjH/2c5VmGxhTKkWejQ"
    "Ic0XqEQrdJU6dYEFWokOHlEn2BhQZSGxVcIsLaOHDOmx9BvUQ1LxCSqEOtClLVIGm6FUSRQzFPDZ9UtyhyjQeybLL7977nnufM/9dYCyv9o2WgDg"
    "lbyl5z7R6FjNaPnokydyAOwNJAEA6h4ARrVdIQAF3FuAAbtGHAHAcA44eQ7o2x/MVeE0GvBqaDTEYrBzgHqL4g5zvooBIo+6l1e9XbGhaCy5BvUa"
    "AAxHKI06CXQgBDCwBAAVWPuWBYS0NktEYkDYm6i+BQw3XKMdCAAG/jc4n4G+f3YUOernpEyZMmW/wQzGYLSE64NLmzWkfJhG+zaV8cDExYUUYEgC"
    "SMXgpUyR9bNSsCQAJJDsAgmK2o8BU8UQCQ90X7TYjgGWVAxMYGrKL89UbgwaQJNJjoOjPiQ8kCv3/wlA8Th4FF++/39joAAKcE0AjbX5ikHMA65i"
    "EAAcrmHTpnIecBWDEIBf6gQATVc2jVW+YtAn/jzanuO7IADwP/EVg0gXAj6M1zIXLLkuVPCArxgmBxC2gFeeBGCAHl8xCKTxMdBfvzn1wRgVg1oX"
    "FEABMgEbbrFaUDYbNTqaVC1ITeftL9i0qS/chZF/XKwWlAcxKt5qlwPuSmah+aJYLSj3QJfswuHrydq/6sFxsVrwJ+aCXBcqsMdTC/IAhN3n1/7J"
    "AQOcjacW5E2m1Np/A/WDMdQCtS4ogAIogAIogAIogAIogALcwP2CxhKbBHZl25B5Z7QGZamMeGimbjUZcxI3GniKyyObXkYax5J4ScHWVwc9TCka"
    "9nkaQHcWP+YNpACLZe2HCJMvacmnAeotvG3zN13N4Y7ahugB2m6suCUARAvw0MB0enzzR23JEKgRp2pkAYbwce8ZHa0nIw9zdYaL4VJgrs6Y65mA"
    "ZZ/0zujFMOXBfBS/Qv2lYD7CwiALEC1na0ArjANEwArDYpQJMH8ko2j67hdJIGb2R+c2/0GVzdjxWfAkwM+QkSygk3DS8meBDsn8I71DVK35KR9r"
    "6OKXC5GFDrqwu5W8X9qBmwIcbCFkNHYBQMho2MoD7KVlpL0eThPH3/dxCq/XV38vZcqUpew7rPXjt/j4RN0AAAAASUVORK5CYII="
)
# A page of 64 x 64 points with a red square on it.
DOCUMENT = (
    "JVBERi0xLjQKMSAwIG9iajw8L1R5cGUvQ2F0YWxvZy9QYWdlcyAyIDAgUj4+IGVuZG9iagoyIDAgb2JqPDwvVHlwZS9QYWdlcy9LaWRzWzMgMCBS"
    "XS9Db3VudCAxPj4gZW5kb2JqCjMgMCBvYmo8PC9UeXBlL1BhZ2UvUGFyZW50IDIgMCBSL01lZGlhQm94WzAgMCA2NCA2NF0vQ29udGVudHMgNCAw"
    "IFI+PiBlbmRvYmoKNCAwIG9iajw8L0xlbmd0aCAyNT4+c3RyZWFtCjEgMCAwIHJnIDE2IDE2IDMyIDMyIHJlIGYKZW5kc3RyZWFtIGVuZG9iagp4"
    "cmVmCjAgNQowMDAwMDAwMDAwIDY1NTM1IGYgCjAwMDAwMDAwMDkgMDAwMDAgbiAKMDAwMDAwMDA1MyAwMDAwMCBuIAowMDAwMDAwMTAzIDAwMDAw"
    "IG4gCjAwMDAwMDAxODAgMDAwMDAgbiAKdHJhaWxlcjw8L1NpemUgNS9Sb290IDEgMCBSPj4Kc3RhcnR4cmVmCjI1MQolJUVPRgo="
)
DATA_URL = f"data:image/png;base64,{PICTURE}"
SHAPE_SCHEMA = {
    "type": "object",
    "properties": {"shape": {"enum": ["circle", "square", "star"]}, "count": {"type": "integer"}},
    "required": ["shape", "count"],
    "additionalProperties": False,
}


def _asked(text: str, **fields: object) -> dict[str, object]:
    """A chat about the picture."""
    content = [{"type": "image_url", "image_url": {"url": DATA_URL}}, {"type": "text", "text": text}]
    return {"messages": [{"role": "user", "content": content}], **fields}


def _task(task: str, **fields: object) -> dict[str, object]:
    return {"task": task, "images": [DATA_URL], **fields}


def _one_of(name: str, *values: str) -> dict[str, object]:
    """The schema of an object with one word in it."""
    return {"type": "object", "properties": {name: {"enum": list(values)}}, "required": [name]}


def _ok(meaning: str, shape: Shape, kind: str = JSON) -> dict[int, Answer]:
    return {200: Answer(meaning, {kind: shape})}


def _refusals(shape: Shape, *statuses: int) -> dict[int, Answer]:
    return {
        status: Answer(REFUSALS[status], {JSON: shape}, ("retry-after",) if status in BUSY else ())
        for status in statuses
    }


REFUSALS: Mapping[int, str] = {
    400: "The request cannot be used as it is: the message names the field, the value seen, the limit, the way out.",
    404: "There is no such thing here, or not any more.",
    408: "The body stopped, or came too slowly. The connection is closed.",
    409: "It is in use, or has ended.",
    413: "A picture, a file or the body is too large.",
    415: "The body is of a content type that is not read here, or compressed.",
    500: "Our mistake. The text is fixed; the request id leads to the server's log.",
    503: "Not now: the model is loading, the queue is full, memory is short, the server is stopping, its disk is full.",
    504: "A video was not decoded in time, maybe because the machine is busy.",
}
BUSY = 503, 504  # they say when to come back
ASKING = 400, 404, 408, 413, 415, 500, *BUSY
HEALTHY = {
    **_ok("A question would be answered.", _one_of("status", "healthy")),
    503: Answer("It would not.", {JSON: _one_of("status", "loading", "draining", "unhealthy")}),
}
# What a form has in place of `messages`; its other fields are those of the chat, as JSON text.
FORM_FIELDS = {
    "image": {
        "type": "array",
        "items": {"type": "string", "format": "binary"},
        "minItems": 1,
        "description": "One or more files: JPEG, PNG, WebP, BMP, HEIC, or the first frame of a GIF.",
    },
    "file": {
        "type": "array",
        "items": {"type": "string", "format": "binary"},
        "minItems": 1,
        "description": "PDFs; the fields `pages`, `dpi` and `password` are for them.",
    },
    "pages": {"type": "string", "maxLength": 1000, "description": "Numbers and ranges, such as 1-3,7."},
    "dpi": {"type": "integer", "minimum": 18, "maximum": 1200},
    "password": {"type": "string", "maxLength": 127},
    "video": {
        "type": "array",
        "items": {"type": "string", "format": "binary"},
        "minItems": 1,
        "description": "Clips: MP4, MOV, WebM, MKV, GIF; the fields `fps`, `num_frames`, `start`, `end` are for them.",
    },
    "fps": {"type": "number", "exclusiveMinimum": 0},
    "num_frames": {"type": "integer", "minimum": 1},
    "start": {"type": "number", "minimum": 0},
    "end": {"type": "number", "exclusiveMinimum": 0},
    "prompt": {"type": "string", "minLength": 1, "description": "The question."},
}
CHAT_FORM = {"$ref": "#/components/schemas/ChatForm"}

# ---- the routes

_CHAT = Operation(
    tag="chat",
    summary="Ask about pictures, as with OpenAI",
    description=(
        "OpenAI's chat completions. Pictures travel inside the request, as `data:` URLs or bare base64, or as files of "
        "a form. What a request leaves out, the model's own generation_config.json says. With `stream` the answer "
        "comes as server-sent events. One that fails after its beginning ends with an error in place of `[DONE]`."
    ),
    takes={JSON: wire.ChatRequest, FORM: CHAT_FORM},
    answers={
        200: Answer(
            "The answer, whole or as a stream.",
            {
                JSON: wire.ChatCompletion,
                EVENTS: Events({"": (wire.ChatChunk, wire.ErrorEnvelope)}, last="[DONE]"),
            },
        ),
        **_refusals(wire.ErrorEnvelope, *ASKING),
    },
    examples={
        JSON: {
            "A question about a picture": _asked("What is in the picture?"),
            "As a stream": _asked("What is in the picture?", stream=True, stream_options={"include_usage": True}),
            "Into a JSON schema": _asked(
                "Which shape is it, and how many are there?",
                response_format={"type": "json_schema", "json_schema": {"name": "shapes", "schema": SHAPE_SCHEMA}},
            ),
            "By calling a tool": _asked(
                "Report the shape.",
                tools=[{"type": "function", "function": {"name": "report", "parameters": SHAPE_SCHEMA}}],
                tool_choice="required",
            ),
            "The next turn of a conversation": {
                "messages": [
                    {"role": "system", "content": "Answer in one word."},
                    *_asked("What is in the picture?")["messages"],  # type: ignore[misc]
                    {"role": "assistant", "content": "A circle."},
                    {"role": "user", "content": "What color is it?"},
                ],
                "temperature": 0,
                "max_tokens": 20,
            },
        },
        FORM: {"Two fields": {"image": [PICTURE], "prompt": "What is in the picture?"}},
    },
)
_TASK_REFUSALS = _refusals(wire_tasks.TaskReply, 400, 408, 413, 415, 500, *BUSY)
_TASK_EXAMPLES = {
    JSON: {
        "A question": _task("vqa", text="Is there a red circle?"),
        "A caption": _task("captioning", options={"max_tokens": 40}),
        "The text in the picture": _task("ocr", options={"max_tokens": 40}),
        "Into your schema": _task("extract", options={"schema": SHAPE_SCHEMA}),
        "A chart": {"task": "chart_parse", "images": [f"data:image/png;base64,{CHART_PICTURE}"]},
        "Where something is": _task("ground", text="the red circle"),
        "A clip, as its frames": {"task": "video_qa", "videos": [[DATA_URL] * 4], "options": {"max_tokens": 40}},
        "A document, page by page": {
            "task": "doc_analyze",
            "documents": [f"data:application/pdf;base64,{DOCUMENT}"],
            "options": {"max_tokens": 40},
        },
    }
}
_TASK_EVENTS = Events(
    {
        "progress": (wire.Progress, wire_tasks.PageEvent),
        "token": (wire_tasks.TokenEvent,),
        "final": (wire_tasks.TaskResult,),
        "error": (wire_tasks.TaskReply,),
    }
)
_INFER = Operation(
    tag="tasks",
    summary="Ask one question by the name of its task",
    description=(
        "The answer comes with a confidence from the probabilities of its tokens; structured tasks add `data` and a "
        "confidence for every value. Each task's result has a schema of its own, such as ChartParseResult. With "
        "`options.stream` it comes as events."
    ),
    takes={JSON: wire_tasks.TaskRequest},
    answers={
        200: Answer("The answer, whole or as a stream.", {JSON: wire_tasks.TaskReply, EVENTS: _TASK_EVENTS}),
        **_TASK_REFUSALS,
    },
    examples=_TASK_EXAMPLES,
)
_INFER_STREAM = replace(
    _INFER,
    summary="The same as /infer, always as a stream",
    description=(
        "One question by the name of its task; its answer as server-sent events: `token` for each piece of text, then "
        "`final` or, when it fails after its beginning, `error`."
    ),
    answers={200: Answer("The answer, piece by piece.", {EVENTS: _TASK_EVENTS}), **_TASK_REFUSALS},
)
_NO_SUCH_MODEL = Operation(
    tag="chat",
    summary="Refused: the model here answers chats",
    description="Always 404 with the code `unsupported`; use /v1/chat/completions.",
    takes={JSON: {}},
    answers=_refusals(wire.ErrorEnvelope, 404),
    examples={JSON: {"Any body": {}}},
)

FILE_ID, BATCH_ID = "file-0123456789abcdef01234567", "batch_0123456789abcdef01234567"  # of no file and no batch
_LINE = {
    "custom_id": "first",
    "method": "POST",
    "url": "/v1/chat/completions",
    "body": _asked("What is in the picture?", max_tokens=20),
}
_FILE_PATH = {"file_id": {"in": "path", "schema": {"type": "string"}, "example": FILE_ID}}
_BATCH_PATH = {"batch_id": {"in": "path", "schema": {"type": "string"}, "example": BATCH_ID}}


def _page(most: int, after: str) -> dict[str, dict[str, object]]:
    """The parameters of a list."""
    about = "Only those that come after this one in the list."
    return {
        "after": {"in": "query", "description": about, "schema": {"type": "string"}, "example": after},
        "limit": {"in": "query", "schema": {"type": "integer", "minimum": 1, "maximum": most}, "example": 10},
    }


_BATCHES: Mapping[str, Operation] = {
    "POST /v1/files": Operation(
        tag="batches",
        summary="Upload the questions of a batch",
        description="A file of JSON lines, each with custom_id, method, url and body; other files travel in requests.",
        takes={
            FORM: {
                "type": "object",
                "properties": {
                    "file": {"type": "string", "format": "binary"},
                    "purpose": {"const": "batch"},
                    "expires_after[anchor]": {"const": "created_at"},
                    "expires_after[seconds]": {
                        "type": "integer",
                        "minimum": wire_batch.HOUR_S,
                        "maximum": wire_batch.KEEP_S,
                    },
                },
                "required": ["file", "purpose"],
            }
        },
        answers=_ok("The file, kept.", wire_batch.File) | _refusals(wire.ErrorEnvelope, 400, 408, 413, 415, 500, 503),
        examples={
            FORM: {
                "One question": {
                    "file": base64.b64encode(json.dumps(_LINE).encode()).decode(),
                    "purpose": "batch",
                }
            }
        },
    ),
    "GET /v1/files": Operation(
        tag="batches",
        summary="The files that are kept",
        description="The newest first, unless `order` says `asc`.",
        parameters=_page(10_000, FILE_ID)
        | {
            "order": {"in": "query", "schema": {"enum": ["asc", "desc"]}, "example": "desc"},
            "purpose": {"in": "query", "schema": {"type": "string"}, "example": "batch"},
        },
        answers=_ok("The list.", wire_batch.FileList) | _refusals(wire.ErrorEnvelope, 400, 404, 500, 503),
    ),
    "GET /v1/files/{file_id}": Operation(
        tag="batches",
        summary="One file, without its content",
        description="Its size, name, purpose and when it goes.",
        parameters=_FILE_PATH,
        answers=_ok("The file.", wire_batch.File) | _refusals(wire.ErrorEnvelope, 404, 500, 503),
    ),
    "GET /v1/files/{file_id}/content": Operation(
        tag="batches",
        summary="The content of a file",
        description="As it was uploaded or, for a batch's answers, written.",
        parameters=_FILE_PATH,
        answers=_ok("Its bytes.", {"type": "string", "format": "binary"}, "application/octet-stream")
        | _refusals(wire.ErrorEnvelope, 404, 500, 503),
    ),
    "DELETE /v1/files/{file_id}": Operation(
        tag="batches",
        summary="Delete a file",
        description="Not while a batch reads it.",
        parameters=_FILE_PATH,
        answers=_ok("It is gone.", wire_batch.FileDeleted) | _refusals(wire.ErrorEnvelope, 404, 409, 500, 503),
    ),
    "POST /v1/batches": Operation(
        tag="batches",
        summary="Have the questions of a file answered",
        description="When nobody is waiting for an answer; what was accepted is finished also after a restart.",
        takes={JSON: wire_batch.BatchRequest},
        answers=_ok("The batch, waiting.", wire_batch.Batch)
        | _refusals(wire.ErrorEnvelope, 400, 404, 408, 413, 415, 500, 503),
        examples={
            JSON: {
                "All questions of a file": {
                    "input_file_id": FILE_ID,
                    "endpoint": "/v1/chat/completions",
                    "completion_window": "24h",
                }
            }
        },
    ),
    "GET /v1/batches": Operation(
        tag="batches",
        summary="The batches",
        description="The newest first.",
        parameters=_page(100, BATCH_ID),
        answers=_ok("The list.", wire_batch.BatchList) | _refusals(wire.ErrorEnvelope, 400, 404, 500, 503),
    ),
    "GET /v1/batches/{batch_id}": Operation(
        tag="batches",
        summary="How far a batch is",
        description="When it is completed, `output_file_id` and `error_file_id` lead to its answers.",
        parameters=_BATCH_PATH,
        answers=_ok("The batch.", wire_batch.Batch) | _refusals(wire.ErrorEnvelope, 404, 500, 503),
    ),
    "POST /v1/batches/{batch_id}/cancel": Operation(
        tag="batches",
        summary="Cancel a batch",
        description="What is answered already is kept.",
        parameters=_BATCH_PATH,
        answers=_ok("The batch, being cancelled.", wire_batch.Batch)
        | _refusals(wire.ErrorEnvelope, 404, 409, 500, 503),
    ),
    "POST /v1/moderations": Operation(
        tag="chat",
        summary="Whether texts and pictures are harmful",
        description="OpenAI's moderations. 404 on a server without a moderator, such as one that was just installed.",
        takes={JSON: wire_moderation.ModerationRequest},
        answers=_refusals(wire.ErrorEnvelope, 404)
        | _ok("What was found.", wire_moderation.Moderation)
        | _refusals(wire.ErrorEnvelope, 400, 408, 413, 415, 500, 503),
        examples={JSON: {"A text": {"input": "I will water the plants."}}},
    ),
}

OPERATIONS: Mapping[str, Operation] = {
    "GET /health": Operation(
        tag="running",
        summary="Whether a question would be answered",
        description="For load balancers and start scripts.",
        answers=HEALTHY,
    ),
    "GET /readyz": Operation(
        tag="running", summary="The same as /health", description="As Kubernetes names it.", answers=HEALTHY
    ),
    "GET /healthz": Operation(
        tag="running",
        summary="Whether the process answers at all",
        description="True while the model loads, too.",
        answers=_ok("It does.", _one_of("status", "alive")),
    ),
    "GET /version": Operation(
        tag="running",
        summary="The version of the server",
        description="As in `sightline --version`.",
        answers=_ok(
            "Its version.",
            {"type": "object", "properties": {"version": {"type": "string"}}, "required": ["version"]},
        ),
    ),
    "GET /openapi.json": Operation(
        tag="running",
        summary="This document",
        description="OpenAPI 3.2, made from the types that the server itself reads and writes.",
        answers=_ok("The document.", {"type": "object", "required": ["openapi", "info", "paths"]}),
    ),
    "GET /metrics": Operation(
        tag="running",
        summary="Figures for Prometheus",
        description="docs/metrics.md names them.",
        answers=_ok("The figures, in Prometheus's text format.", {"type": "string"}, PROMETHEUS),
    ),
    "GET /v1/status": Operation(
        tag="running",
        summary="What the server is busy with",
        description="Open answers, limits, memory and totals since the start.",
        answers=_ok("The state of this moment.", wire_status.Status),
    ),
    "GET /v1/models": Operation(
        tag="chat",
        summary="The models that answer",
        description="There is one.",
        answers=_ok("The list.", wire.ModelList),
    ),
    "GET /v1/models/{name}": Operation(
        tag="chat",
        summary="One model",
        description="By its id in any case, or by the id it has on the hub.",
        parameters={"name": {"in": "path", "schema": {"type": "string"}, "example": "sightline-demo"}},
        answers=_ok("The model.", wire.Model) | _refusals(wire.ErrorEnvelope, 404),
    ),
    "POST /v1/chat/completions": _CHAT,
    "POST /v1/estimate": replace(
        _CHAT,
        summary="What a question would take",
        description="The body of a chat, prepared and not answered: tokens, sizes, memory, seconds to the first token.",
        answers=_ok("The estimate.", wire.Estimate) | _refusals(wire.ErrorEnvelope, *ASKING),
        examples={
            JSON: {"A question about a picture": _asked("What is in the picture?", max_tokens=200)},
            FORM: {"Two fields": {"image": [PICTURE], "prompt": "What is in the picture?"}},
        },
    ),
    "POST /infer": _INFER,
    "POST /infer_stream": _INFER_STREAM,
    "POST /v1/infer": replace(_INFER, summary="The same as /infer"),
    "POST /v1/infer_stream": replace(_INFER_STREAM, summary="The same as /infer_stream"),
    **_BATCHES,
    "POST /v1/completions": _NO_SUCH_MODEL,
    "POST /v1/embeddings": _NO_SUCH_MODEL,
}
