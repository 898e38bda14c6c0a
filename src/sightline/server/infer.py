"""Translates between the bodies of the task API and our values, both ways. Knows no sockets and no engine."""

from __future__ import annotations

import json
import time
from collections.abc import AsyncGenerator, Mapping, Sequence
from contextlib import aclosing
from dataclasses import replace
from typing import Any

from sightline import wire
from sightline.backends import Answer
from sightline.errors import (
    ContentTooLarge,
    DocumentTooLarge,
    ImageTooLarge,
    InvalidImage,
    InvalidRequest,
    InvalidVideo,
    MissingField,
    Overloaded,
    SightlineError,
    Unavailable,
    UnknownImageFormat,
    UnsupportedImage,
    VideoTooLarge,
    VideoTooLong,
)
from sightline.server import openai
from sightline.server.answers import Opening, watched
from sightline.server.inline import Read
from sightline.tasks import asking
from sightline.tasks.answering import Reading, Result
from sightline.tasks.catalogue import Task, find
from sightline.tasks.documents import DocumentReading
from sightline.types import Conversation, Document, Image, Progress, Sampling, Video, VideoInfo
from sightline.wire_tasks import Metadata, Options, PageEvent, TaskReply, TaskRequest, TaskResult, TokenEvent

ROUTES = ("/infer", "/infer_stream")  # how the paths end that have these bodies

# The first kind that an error is of gives its code. What is none of them is our fault.
CODES: Mapping[type[SightlineError], int] = {
    InvalidImage: 1001,
    InvalidVideo: 1001,
    VideoTooLong: 1002,
    ImageTooLarge: 1003,
    VideoTooLarge: 1003,
    DocumentTooLarge: 1003,
    ContentTooLarge: 1003,
    InvalidRequest: 1000,
    Overloaded: 2001,
    Unavailable: 2002,
}
OUR_FAULT = 5000
PAGE_OPTIONS = ("pages", "dpi", "password")
CLIP_OPTIONS = ("fps", "num_frames", "start", "end")
IMAGE_WAY_OUT = "convert to JPG or PNG (supported are JPEG, PNG, WebP, BMP, GIF and HEIC)"
NAMED_FIELDS = ("images[", "videos[", "documents[", "options.")  # of ours; below this nobody knows a message's place


def question(
    request: TaskRequest, defaults: Sampling, read: Read, *, instructed: bool
) -> tuple[Task, Conversation, Sampling]:
    """The task, what the model is asked and how its answer is drawn; its media as the bytes that `read` gives.

    `instructed`: with the task's instructions. Raises InvalidRequest and its kin, naming the field.
    """
    task = find(request.task)
    if request.documents:
        raise InvalidRequest(f"task '{task.name}' does not read 'documents'; use task 'doc_analyze'", param="documents")
    options = request.wishes
    _refuse_options(options, PAGE_OPTIONS, "documents", "doc_analyze")
    media = _clips(task, request, options, read) if task.max_videos else _images(task, request, options, read)
    asked = asking.conversation(task, media, request.text or "", instructed=instructed, schema=_schema(options))
    return task, asked, _sampling(task, options, defaults)


def _images(task: Task, request: TaskRequest, options: Options, read: Read) -> Sequence[Image]:
    if request.videos:
        raise InvalidRequest(f"task '{task.name}' does not watch 'videos'; use task 'video_qa'", param="videos")
    _refuse_options(options, CLIP_OPTIONS, "videos", "video_qa")
    sent = enumerate(request.images or ())
    return [Image(read(image, f"images[{index}]"), param=f"images[{index}]") for index, image in sent]


def _clips(task: Task, request: TaskRequest, options: Options, read: Read) -> Sequence[Video]:
    if request.images:
        raise InvalidRequest(
            f"task '{task.name}' watches 'videos', not 'images'; send the frames of a video as an array in 'videos', "
            "or ask about pictures with task 'vqa'",
            param="images",
        )
    wishes = {name: getattr(options, name) for name in CLIP_OPTIONS}
    sent = enumerate(request.videos or ())
    return [replace(openai.clip(video, f"videos[{index}]", read), **wishes) for index, video in sent]


def _refuse_options(options: Options, names: Sequence[str], medium: str, task: str) -> None:
    """Raise InvalidRequest for an option that only another task heeds."""
    for name in names:
        if getattr(options, name) is not None:
            raise InvalidRequest(
                f"options.{name} is for {medium}; leave it out or use task '{task}'", param=f"options.{name}"
            )


def _sampling(task: Task, options: Options, defaults: Sampling) -> Sampling:
    return asking.sampling(
        task,
        defaults,
        max_tokens=options.max_tokens,
        temperature=options.temperature,
        top_p=options.top_p,
        schema=_schema(options),
    )


def _schema(options: Options) -> str | None:
    """The caller's schema as text."""
    return None if options.answer_schema is None else json.dumps(options.answer_schema, ensure_ascii=False)


def analysis(request: TaskRequest, defaults: Sampling, read: Read) -> tuple[Task, Document, str, Sampling]:
    """The task, the document it reads, what it asks of each page and how that is answered. Raises as `question`."""
    task, documents = find(request.task), request.documents or ()
    for name, sent in (("images", request.images), ("videos", request.videos)):
        if sent:
            raise InvalidRequest(
                f"task '{task.name}' reads 'documents', not '{name}'; ask about pictures with task 'vqa' or 'ocr'",
                param=name,
            )
    if not documents:
        raise MissingField(f"'documents' is missing; task '{task.name}' needs a PDF", param="documents")
    if len(documents) > 1:
        raise InvalidRequest(
            f"documents has {len(documents)}, task '{task.name}' reads one PDF at a time; send one (pages that are "
            "pictures go into 'images', with task 'vqa' or 'ocr')",
            param="documents",
        )
    options, param = request.wishes, "documents[0]"
    _refuse_options(options, CLIP_OPTIONS, "videos", "video_qa")
    document = Document(
        read(documents[0], param, "document"), options.pages, options.dpi, options.password, param=param
    )
    text = (request.text or "").strip() or task.question
    assert text  # the task has a question of its own
    return task, document, text, _sampling(task, options, defaults)


def reply(request_id: str, task: Task, result: Result, started: float) -> TaskReply:
    """The body of a whole answer. `started` is the request's time.perf_counter()."""
    return TaskReply(request_id=request_id, code=0, msg="success", result=_result(task, result, started))


def _result(task: Task, result: Result, started: float) -> TaskResult:
    told = TaskResult(
        answer=result.answer,
        confidence=round(result.confidence, 4),
        metadata=Metadata(
            model=result.model,
            degraded=result.degraded,
            processing_time_ms=round((time.perf_counter() - started) * 1000),
            activated_experts=None if result.experts is None else round(result.experts, 2),
            input_tokens=result.input_tokens,
            output_tokens=result.output_tokens,
            stopped=result.stopped,
            **_watched(result.videos),
        ),
    )
    if not task.structured and result.data is None:
        return told
    fields = result.fields and {path: round(sure, 4) for path, sure in result.fields.items()}
    return told.model_copy(update={"data": result.data, "field_confidence": fields})


def _watched(seen: Sequence[VideoInfo]) -> dict[str, Any]:
    """What the metadata say of clips, where there are any."""
    return {"trimmed": any(video.trimmed for video in seen), **openai.videos(seen)} if seen else {}


async def events(task: Task, answer: Answer | Opening, started: float) -> AsyncGenerator[str, None]:
    """The answer as server-sent events: `token` for each piece of text, then `final`.

    An answer that is still being opened is one whose client wants `progress` events before the first token.
    """
    progress = isinstance(answer, Opening)
    if isinstance(answer, Opening):
        yield _event("progress", openai.progress(Progress("decoding")))
        (answer,) = await answer.answers()
    reading, index = Reading(task, answer), 0
    async with aclosing(reading.pieces()) as pieces:
        async for piece in watched(pieces, answer) if progress else pieces:
            if isinstance(piece, Progress):
                yield _event("progress", openai.progress(piece))
                continue
            yield _event("token", TokenEvent(token=piece, index=index))
            index += 1
    yield _event("final", _result(task, reading.result(), started))


async def analysis_events(reading: DocumentReading, started: float) -> AsyncGenerator[str, None]:
    """A document as server-sent events: `progress` for each page, `token` for the merged answer, then `final`."""
    done = 0
    async with aclosing(reading.pieces()) as pieces:
        async for piece in pieces:
            if isinstance(piece, str):
                yield _event("token", TokenEvent(token=piece, index=0))
                continue
            done += 1
            counted = {**piece.model_dump(), "stage": "page", "done": done, "pages": len(reading.pages)}
            yield _event("progress", PageEvent.model_validate(counted))
    yield _event("final", _result(reading.task, reading.result(), started))


def error_event(error: SightlineError, request_id: str) -> str:
    """The event that ends a stream which failed."""
    return _event("error", error_reply(error, request_id))


def error_reply(error: SightlineError, request_id: str) -> TaskReply:
    """The error as it goes over the wire; its message is safe to send."""
    code = next((code for kind, code in CODES.items() if isinstance(error, kind)), OUR_FAULT)
    of_unread_kind = isinstance(error, UnknownImageFormat | UnsupportedImage)
    msg = f"{error.message}; {IMAGE_WAY_OUT}" if of_unread_kind else error.message
    if error.param and error.param.startswith(NAMED_FIELDS) and error.param not in msg:
        msg += f" ({error.param})"
    return TaskReply(request_id=request_id, code=code, msg=msg, result=None)


def _event(name: str, body: wire.Wire) -> str:
    return f"event: {name}\ndata: {body.model_dump_json(exclude_unset=True)}\n\n"
