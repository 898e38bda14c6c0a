"""Opens the answers to one request, puts their deltas into one order, and stops them when the client goes away."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Coroutine, Sequence
from typing import Any, TypeVar

from starlette.types import Receive

from sightline.backends import Answer, Backend
from sightline.errors import InternalError
from sightline.server.openai import Outcome
from sightline.types import Conversation, Delta, Sampling

T = TypeVar("T")


class ClientGone(Exception):
    """The client closed its connection; nobody is left to answer."""


async def open_answers(
    backend: Backend, asked: Conversation, samplings: Sequence[Sampling], request_id: str
) -> tuple[Answer, ...]:
    """One answer per sampling, all or none: when one is refused, or the call is cancelled, the others are closed."""
    tasks = [asyncio.create_task(backend.generate(asked, sampling, request_id=request_id)) for sampling in samplings]
    try:
        return tuple(await asyncio.gather(*tasks))
    except BaseException:
        for task in tasks:
            task.cancel()
        outcomes = await asyncio.gather(*tasks, return_exceptions=True)
        await close_answers([outcome for outcome in outcomes if not isinstance(outcome, BaseException)])
        raise


async def close_answers(answers: Sequence[Answer]) -> None:
    """Cancel what still runs."""
    for answer in answers:
        await answer.aclose()


async def merged(answers: Sequence[Answer]) -> AsyncIterator[tuple[int, Delta]]:
    """The deltas of all answers as they come, each with its answer's index. Raises the first error of any."""
    # Unbounded, yet never large: an answer has at most `max_tokens` deltas, and the engine must not wait for a reader.
    arrived: asyncio.Queue[tuple[int, Delta | Exception]] = asyncio.Queue()
    tasks = [asyncio.create_task(_feed(index, answer, arrived)) for index, answer in enumerate(answers)]
    try:
        running = len(answers)
        while running:
            index, delta = await arrived.get()
            if isinstance(delta, Exception):
                raise delta
            running -= delta.finish is not None
            yield index, delta
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


async def _feed(index: int, answer: Answer, arrived: asyncio.Queue[tuple[int, Delta | Exception]]) -> None:
    finished = False
    try:
        async for delta in answer:
            finished = delta.finish is not None
            arrived.put_nowait((index, delta))
        if not finished:
            raise InternalError("an answer ended without its finish reason")
    except Exception as error:  # crosses to the consumer, who raises it
        arrived.put_nowait((index, error))


async def collect(answers: Sequence[Answer]) -> tuple[Outcome, ...]:
    """All answers, whole."""
    outcomes = tuple(Outcome() for _ in answers)
    async for index, delta in merged(answers):
        outcomes[index].add(delta)
    return outcomes


async def disconnected(receive: Receive) -> None:
    """Returns when the client has gone. Only after the body was read: it takes the connection's messages."""
    while (await receive())["type"] != "http.disconnect":
        pass


async def while_connected(receive: Receive, work: Coroutine[Any, Any, T]) -> T:
    """The result of `work`; cancels it and raises ClientGone when the client goes away first."""
    job = asyncio.create_task(work)
    gone = asyncio.create_task(disconnected(receive))
    try:
        await asyncio.wait((job, gone), return_when=asyncio.FIRST_COMPLETED)
        if job.done():
            return job.result()
        raise ClientGone
    finally:
        for task in (job, gone):
            task.cancel()
        await asyncio.gather(job, gone, return_exceptions=True)
