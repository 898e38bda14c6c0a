"""Translates between the bodies of the task API and our values, both ways. Knows no sockets and no engine."""

from __future__ import annotations

import json
import time
from collections.abc import AsyncGenerator, Mapping
from contextlib import aclosing

from sightline import wire
from sightline.errors import (
    ContentTooLarge,
    ImageTooLarge,
    InvalidImage,
    InvalidRequest,
    Overloaded,
    SightlineError,
    Unavailable,
    UnsupportedField,
)
from sightline.server.inline import inline_bytes
from sightline.tasks import asking
from sightline.tasks.answering import Reading, Result
from sightline.tasks.catalogue import Task, find
from sightline.types import Conversation, Image, Sampling
from sightline.wire_tasks import Metadata, Options, TaskReply, TaskRequest, TaskResult, TokenEvent

ROUTES = ("/infer", "/infer_stream")  # how the paths end that have these bodies

# The first kind that an error is of gives its code. What is none of them is our fault.
CODES: Mapping[type[SightlineError], int] = {
    InvalidImage: 1001,
    ImageTooLarge: 1003,
    ContentTooLarge: 1003,
    InvalidRequest: 1000,
    Overloaded: 2001,
    Unavailable: 2002,
}
OUR_FAULT = 5000
IMAGE_WAY_OUT = "convert to JPG or PNG (supported are JPEG, PNG, WebP, BMP and GIF)"


def question(request: TaskRequest, defaults: Sampling) -> tuple[Task, Conversation, Sampling]:
    """The task, what the model is asked and how its answer is drawn; pictures decoded from base64, not from JPEG.

    Raises InvalidRequest and its kin, naming the field.
    """
    task = find(request.task)
    for name, sent in (("videos", request.videos), ("documents", request.documents)):
        if sent:
            raise UnsupportedField(f"'{name}' is not supported yet; send pages or frames as 'images'", param=name)
    images = []
    for index, image in enumerate(request.images or ()):
        param = f"images[{index}]"
        images.append(Image(inline_bytes(image, param), param=param))
    options = request.options or Options.model_validate({})
    schema = options.answer_schema
    return (
        task,
        asking.conversation(task, images, request.text or ""),
        asking.sampling(
            task,
            defaults,
            max_tokens=options.max_tokens,
            temperature=options.temperature,
            top_p=options.top_p,
            schema=None if schema is None else json.dumps(schema, ensure_ascii=False),
        ),
    )


def reply(request_id: str, task: Task, result: Result, started: float) -> TaskReply:
    """The body of a whole answer. `started` is the request's time.perf_counter()."""
    return TaskReply(request_id=request_id, code=0, msg="success", result=_result(task, result, started))


def _result(task: Task, result: Result, started: float) -> TaskResult:
    told = TaskResult(
        answer=result.answer,
        confidence=round(result.confidence, 4),
        metadata=Metadata(
            processing_time_ms=round((time.perf_counter() - started) * 1000),
            activated_experts=None if result.experts is None else round(result.experts, 2),
            input_tokens=result.input_tokens,
            output_tokens=result.output_tokens,
            stopped=result.stopped,
        ),
    )
    if not task.structured:
        return told
    fields = result.fields and {path: round(sure, 4) for path, sure in result.fields.items()}
    return told.model_copy(update={"data": result.data, "field_confidence": fields})


async def events(reading: Reading, started: float) -> AsyncGenerator[str, None]:
    """The answer as server-sent events: `token` for each piece of text, then `final`."""
    index = 0
    async with aclosing(reading.pieces()) as pieces:
        async for piece in pieces:
            yield _event("token", TokenEvent(token=piece, index=index))
            index += 1
    yield _event("final", _result(reading.task, reading.result(), started))


def error_event(error: SightlineError, request_id: str) -> str:
    """The event that ends a stream which failed."""
    return _event("error", error_reply(error, request_id))


def error_reply(error: SightlineError, request_id: str) -> TaskReply:
    """The error as it goes over the wire; its message is safe to send."""
    code = next((code for kind, code in CODES.items() if isinstance(error, kind)), OUR_FAULT)
    msg = f"{error.message}; {IMAGE_WAY_OUT}" if isinstance(error, InvalidImage) else error.message
    if error.param and error.param.startswith("images[") and error.param not in msg:
        msg += f" ({error.param})"
    return TaskReply(request_id=request_id, code=code, msg=msg, result=None)


def _event(name: str, body: wire.Wire) -> str:
    return f"event: {name}\ndata: {body.model_dump_json(exclude_unset=True)}\n\n"
