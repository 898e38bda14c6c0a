"""Streams answers as server-sent events, in OpenAI's chunks. Knows the connection; not where the deltas come from."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import AsyncGenerator, Awaitable, Callable, Iterator, Sequence

import structlog
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from sightline import wire
from sightline.backends import Answer
from sightline.errors import SightlineError
from sightline.server import openai
from sightline.server.answers import ClientGone, Opening, disconnected, merged, watched
from sightline.server.refusals import note, safe
from sightline.server.tools import CallReader
from sightline.types import Delta, Progress, Usage

PING_S = 10.0  # proxies cut a silent connection, many of them after 60 s
SEND_S = 60.0  # a reader who takes nothing for this long is gone
HEADERS = {"cache-control": "no-cache", "x-accel-buffering": "no"}  # the second one is for nginx

log = structlog.get_logger()


def chat_error(error: SightlineError, _: str) -> str:
    """The event that ends a chat stream which failed."""
    return f"data: {wire.envelope(error).model_dump_json()}\n\n"


class EventStream(Response):
    """A response whose `events` are sent as they come, with a comment as a ping while none comes.

    An error among the events is sent as `error_event` (of the error and the request id) and ends the stream. When the
    client goes away the events are closed and ClientGone is raised. `cleanup` runs in every case, after the events
    are closed.
    """

    media_type = "text/event-stream"

    def __init__(
        self,
        events: AsyncGenerator[str, None],
        *,
        request_id: str,
        cleanup: Callable[[], Awaitable[None]],
        error_event: Callable[[SightlineError, str], str] = chat_error,
        ping_s: float = PING_S,
    ):
        super().__init__(headers=HEADERS)
        del self.headers["content-length"]
        self.events = events
        self.request_id = request_id
        self.cleanup = cleanup
        self.error_event = error_event
        self.ping_s = ping_s
        self._sent_at = 0.0  # when the last event was handed over, in the event loop's time
        self._handing_over: float | None = None  # since when the reader is to take the next one

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        gone = asyncio.create_task(disconnected(receive))
        try:
            await send({"type": "http.response.start", "status": self.status_code, "headers": self.raw_headers})
            try:
                await self._send_events(send, gone)
            except SightlineError as error:
                await self._send_error(scope, send, error)
            except Exception as error:
                if isinstance(error, ClientGone):
                    raise
                log.exception("a stream broke off", request_id=self.request_id)
                await self._send_error(scope, send, error)
            await send({"type": "http.response.body", "body": b"", "more_body": False})
        finally:
            gone.cancel()
            await self.events.aclose()
            await self.cleanup()

    async def _send_error(self, scope: Scope, send: Send, error: Exception) -> None:
        said = safe(error, self.request_id)
        note(said, scope)
        if not await _taken(send, self.error_event(said, self.request_id)):
            raise ClientGone

    async def _send_events(self, send: Send, gone: asyncio.Task[None]) -> None:
        """Send the events until they end. In one task: another for each event costs 0.1 ms a token."""
        loop = asyncio.get_running_loop()
        keeper = asyncio.create_task(self._keep_open(send))
        limit = asyncio.timeout(None)

        def leave(_: asyncio.Task[None]) -> None:
            with contextlib.suppress(RuntimeError):  # all is sent, and this call was on its way
                limit.reschedule(loop.time())

        try:
            async with limit:
                gone.add_done_callback(leave)
                keeper.add_done_callback(leave)
                try:
                    await asyncio.sleep(0)
                    if gone.done():  # before the first event
                        raise ClientGone
                    async for event in self.events:
                        self._handing_over = loop.time()
                        await _send(send, event)
                        self._handing_over, self._sent_at = None, loop.time()
                finally:
                    gone.remove_done_callback(leave)
                    keeper.remove_done_callback(leave)
        except TimeoutError:
            if limit.expired():
                raise ClientGone from None
            raise
        finally:
            keeper.cancel()
            await asyncio.gather(keeper, return_exceptions=True)

    async def _keep_open(self, send: Send) -> None:
        """Ping while no event comes; returns when the reader has taken nothing for SEND_S."""
        loop = asyncio.get_running_loop()
        self._sent_at = loop.time()
        while True:
            since = self._handing_over
            due = self._sent_at + self.ping_s if since is None else since + SEND_S
            if (wait_s := due - loop.time()) > 0:
                await asyncio.sleep(min(wait_s, self.ping_s))
            elif since is None and await _taken(send, ": ping\n\n"):
                self._sent_at = loop.time()
            else:
                return


async def _send(send: Send, event: str) -> None:
    await send({"type": "http.response.body", "body": event.encode(), "more_body": True})


async def _taken(send: Send, event: str) -> bool:
    """Whether the reader took the event within SEND_S."""
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(SEND_S):
            await _send(send, event)
            return True
    return False


async def chat_events(
    caption: openai.Caption, answers: Sequence[Answer] | Opening, *, tools: bool, include_usage: bool, started: float
) -> AsyncGenerator[str, None]:
    """The chunks of a chat answer, then `[DONE]`. `started` is the request's time.perf_counter().

    Answers that are still being opened are those of a client that wants to be told how they get on.

    The chunk that finishes the last answer has our `sightline` object; usage, when asked for, has a chunk of its own.
    With `tools`, calls in the text are sent as such, each in one chunk when it is complete.
    """

    def event(chunk: wire.ChatChunk) -> str:
        if include_usage and "usage" not in chunk.model_fields_set:
            chunk = chunk.model_copy(update={"usage": None})
        return f"data: {chunk.model_dump_json(exclude_unset=True)}\n\n"

    progress = isinstance(answers, Opening)
    if isinstance(answers, Opening):
        yield event(openai.progress_chunk(caption, Progress("decoding")))
        answers = await answers.answers()
        caption = caption.of(answers[0])
    usages, running = [Usage() for _ in answers], len(answers)
    readers = [CallReader(tools=tools) for _ in answers]
    for index in range(len(answers)):
        yield event(openai.chunk(caption, index, wire.ChunkDelta(role="assistant", content="")))
    deltas = merged(answers)
    async for found in watched(deltas, answers[0]) if progress else deltas:
        if isinstance(found, Progress):
            yield event(openai.progress_chunk(caption, found))
            continue
        index, delta = found
        for piece in _pieces(readers[index], delta):
            # Once each: the log-probabilities are those of the tokens, wherever their text ended up.
            logprobs = () if piece.tool_calls else delta.logprobs
            yield event(openai.chunk(caption, index, piece, logprobs=logprobs))
        if delta.finish:
            usages[index], running = delta.usage or usages[index], running - 1
            last = openai.chunk(caption, index, wire.ChunkDelta(), finish=readers[index].finish(delta.finish))
            if not running:
                last = last.model_copy(update={"sightline": openai.report(caption, usages)})
            yield event(last)
    if include_usage:
        total_ms = (time.perf_counter() - started) * 1000
        yield event(openai.usage_chunk(caption, openai.usage(usages, total_ms)))
    yield "data: [DONE]\n\n"


def _pieces(reader: CallReader, delta: Delta) -> Iterator[wire.ChunkDelta]:
    """What a delta adds to the answer: its text first, then the calls it completes."""
    first = reader.calls
    text, calls = reader.push(delta.text)
    text += reader.flush() if delta.finish else ""
    if text or delta.logprobs:
        yield wire.ChunkDelta(content=text)
    for index, call in enumerate(map(openai.tool_call, calls), first):
        yield wire.ChunkDelta(
            tool_calls=(wire.ChunkToolCall(index=index, id=call.id, type="function", function=call.function),)
        )
