"""Answers a question whole, the same way for a live route without a stream and for a line of a batch.

Knows no connection, no queue and no file.
"""

from __future__ import annotations

import time
from collections.abc import Awaitable, Sequence
from typing import TYPE_CHECKING

import structlog

from sightline import wire, wire_batch, wire_tasks
from sightline.backends import Answer
from sightline.errors import ModelLoading, Overloaded, ShuttingDown
from sightline.server import infer, openai
from sightline.server.answers import close_answers, collect, open_answers
from sightline.server.refusals import error_body, safe
from sightline.tasks.answering import Reading
from sightline.tasks.catalogue import Task, find

if TYPE_CHECKING:
    from sightline.server.app import Service

OF_BATCH = "batch"  # what /v1/status and the metrics call the answers to a batch's lines

log = structlog.get_logger()


async def answer_chat(
    opening: Awaitable[Sequence[Answer]], caption: openai.Caption, started: float, *, tools: bool, logprobs: bool
) -> wire.ChatCompletion:
    """The answers to a chat, when they are open. `started` is the request's time.perf_counter()."""
    answers = await opening
    try:
        outcomes = await collect(answers)
    finally:
        await close_answers(answers)
    total_ms = (time.perf_counter() - started) * 1000
    return openai.completion(caption.of(answers[0]), outcomes, total_ms, tools=tools, logprobs=logprobs)


async def answer_task(
    opening: Awaitable[Sequence[Answer]], task: Task, request_id: str, started: float
) -> wire_tasks.TaskReply:
    """The answer to a task about pictures or a clip, when it is open. `started` as above."""
    answers = await opening
    try:
        result = await Reading(task, answers[0]).whole()
    finally:
        await close_answers(answers)
    return infer.reply(request_id, task, result, started)


async def answer_line(service: Service, endpoint: str, body: object, request_id: str) -> wire_batch.Answered:
    """What the live route would have said to a line: its status and body, be it a refusal.

    Raises Unavailable when the line should be asked later.
    """
    service.admit()
    try:
        asking = _task_line if endpoint.endswith(infer.ROUTES) else _chat_line
        said, status = await asking(service, body, request_id), 200
    except (Overloaded, ModelLoading, ShuttingDown):
        raise  # no fault of the line; too little memory or time may be one
    except Exception as error:
        told = safe(error, request_id)
        if told is not error:
            log.exception("a line of a batch failed", request_id=request_id)
        said, status = error_body(told, endpoint, request_id), told.status
    return wire_batch.Answered(
        status_code=status, request_id=request_id, body=said.model_dump(mode="json", exclude_unset=status == 200)
    )


async def _chat_line(service: Service, body: object, request_id: str) -> wire.Wire:
    started = time.perf_counter()
    asked = wire.parse_chat(body)
    place = service.backend.reserve("bulk", asked.n or 1)
    try:
        conversation, samplings = await service.chat_meant(asked)
        opening = open_answers(service.ledger, conversation, samplings, request_id, OF_BATCH, "bulk", place)
        caption = openai.Caption(request_id, service.backend.model_id, int(time.time()))
        tools, logprobs = bool(conversation.tools), bool(asked.logprobs)
        return await answer_chat(opening, caption, started, tools=tools, logprobs=logprobs)
    finally:
        place.leave()


async def _task_line(service: Service, body: object, request_id: str) -> wire.Wire:
    started = time.perf_counter()
    asked = wire_tasks.parse_task(body)
    place = service.backend.reserve("bulk")
    try:
        if find(asked.task).paged:
            reading = await service.document_meant(asked, request_id, OF_BATCH)
            place.leave()  # its pages wait in the queue by themselves
            return infer.reply(request_id, reading.task, await reading.whole(), started)
        task, conversation, sampling = await service.task_meant(asked)
        opening = open_answers(service.ledger, conversation, (sampling,), request_id, OF_BATCH, "bulk", place)
        return await answer_task(opening, task, request_id, started)
    finally:
        place.leave()
