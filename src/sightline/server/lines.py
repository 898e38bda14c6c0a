"""Answers one line of a batch with what the live route would have said. Knows no connection, no queue and no file."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

import structlog

from sightline import wire, wire_batch, wire_tasks
from sightline.errors import ModelLoading, Overloaded, ShuttingDown
from sightline.server import infer, openai
from sightline.server.answers import close_answers, collect, open_answers
from sightline.server.refusals import error_body, safe
from sightline.tasks.answering import Reading
from sightline.tasks.catalogue import find

if TYPE_CHECKING:
    from sightline.server.app import Service

TASK = "batch"  # what /v1/status and the metrics call it

log = structlog.get_logger()


async def answer_line(service: Service, endpoint: str, body: object, request_id: str) -> wire_batch.Answered:
    """The status and the body of the answer, be it a refusal. Raises Unavailable when it should be asked later."""
    service.admit()
    try:
        asking = _task if endpoint.endswith(infer.ROUTES) else _chat
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


async def _chat(service: Service, body: object, request_id: str) -> wire.Wire:
    started = time.perf_counter()
    asked = wire.parse_chat(body)
    conversation, samplings = await service.chat_meant(asked)
    answers = await open_answers(service.ledger, conversation, samplings, request_id, TASK, "bulk")
    try:
        outcomes = await collect(answers)
    finally:
        await close_answers(answers)
    caption = openai.Caption(request_id, service.backend.model_id, int(time.time())).of(answers[0])
    total_ms = (time.perf_counter() - started) * 1000
    return openai.completion(caption, outcomes, total_ms, tools=bool(conversation.tools), logprobs=bool(asked.logprobs))


async def _task(service: Service, body: object, request_id: str) -> wire.Wire:
    started = time.perf_counter()
    asked = wire_tasks.parse_task(body)
    if find(asked.task).paged:
        reading = await service.document_meant(asked, request_id, TASK)
        return infer.reply(request_id, reading.task, await reading.whole(), started)
    task, conversation, sampling = await service.task_meant(asked)
    answers = await open_answers(service.ledger, conversation, (sampling,), request_id, TASK, "bulk")
    try:
        result = await Reading(task, answers[0]).whole()
    finally:
        await close_answers(answers)
    return infer.reply(request_id, task, result, started)
