"""Works off the queue of batches in the background: validates, asks line by line, ends them. Knows no route.

One loop decides; each line is a task of its own, under a lease with a heartbeat. What is asked goes the way of live
requests, as bulk. Whatever stops the process, the queue knows what is left.
"""

from __future__ import annotations

import asyncio
import contextlib
import secrets
from collections.abc import Awaitable, Callable
from typing import Protocol

import structlog

from sightline import strict_json, wire_batch
from sightline.errors import (
    InvalidRequest,
    NotFound,
    ShuttingDown,
    SightlineError,
    StorageUnavailable,
    Unavailable,
)
from sightline.server.batch_lines import UnusableInput, answered, read_lines, refused
from sightline.server.storage import Storage
from sightline.store.records import Lease, LineResult, StoredBatch

LEASE_S = 30.0
HEARTBEAT_S = 10.0
MAX_ATTEMPTS = 2
RETRY_S = 5.0  # after the storage refused
CLOSING_S = 2.0  # for results that are there to be written

log = structlog.get_logger()


class AnswerLine(Protocol):
    """Answers the body of a line as the route `endpoint` would. Raises Unavailable when it should be asked later."""

    def __call__(self, endpoint: str, body: object, request_id: str) -> Awaitable[wire_batch.Answered]: ...


class BatchWork:
    """`start` it in the running loop, `wake` it when the queue changed; `stop` it before the backend, then `close`."""

    def __init__(
        self,
        storage: Storage,
        answer: AnswerLine,
        ready: Callable[[], Awaitable[None]],
        *,
        lines_at_once: int,
        max_line_bytes: int,
    ):
        self._storage = storage
        self._answer = answer
        self._ready = ready
        self._lines_at_once = lines_at_once
        self._max_line_bytes = max_line_bytes
        self._owner = secrets.token_hex(8)
        self._changed = asyncio.Event()
        self._running: dict[asyncio.Task[None], Lease] = {}
        self._loop: asyncio.Task[None] | None = None
        self._beginning: asyncio.Task[bool] | None = None
        self._not_before = 0.0  # no line is asked earlier, in the loop's time
        self._stopping = False

    def start(self) -> None:
        self._loop = asyncio.create_task(self._work())

    def wake(self) -> None:
        self._changed.set()

    def stop(self) -> None:
        """Begin no more lines. Those that run may go on until `close`."""
        self._stopping = True
        if self._loop:
            self._loop.cancel()

    async def close(self) -> None:
        """Stop. Lines that were not answered go back into the queue."""
        self.stop()
        under_way = [task for task in (self._loop, self._beginning) if task]
        await asyncio.gather(*under_way, return_exceptions=True)
        if self._running:
            await asyncio.wait(self._running, timeout=CLOSING_S)
        await self._stop_lines(None)

    async def _work(self) -> None:
        if not self._storage.begun:
            await self._changed.wait()  # for the first batch ever
        try:
            await self._ready()
        except SightlineError:
            return  # a server whose model cannot be loaded stops
        while not self._stopping:
            self._changed.clear()
            try:
                pause_s = await self._round()
            except StorageUnavailable:
                pause_s = RETRY_S
            except Exception:
                log.exception("the work on batches broke off; it goes on in a moment")
                pause_s = RETRY_S
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._changed.wait(), pause_s)

    async def _round(self) -> float | None:
        """Do what is due. Returns in how many seconds there is more, if nothing happens before; None: nothing."""
        batches = await self._storage.call(lambda store: store.batches.unfinished())
        now = self._storage.clock()
        due: list[float] = []
        for batch in batches:
            if batch.status == "validating":
                await self._validate(batch)
                self.wake()
            elif batch.status != "in_progress" or now >= batch.expires_at or batch.all_answered:
                await self._stop_lines(batch.id)
                await self._finish(batch)
            else:
                due.append(batch.expires_at - now)
        due += await self._fill()
        return min(due, default=None)

    async def _fill(self) -> list[float]:
        """Ask as many lines as may be asked at once."""
        wait_s = self._not_before - asyncio.get_running_loop().time()
        if wait_s > 0:
            return [wait_s]
        while len(self._running) < self._lines_at_once:
            self._beginning = asyncio.create_task(self._begin_line())
            if not await asyncio.shield(self._beginning):  # a lease that was taken must find its holder
                break
        return []

    async def _begin_line(self) -> bool:
        lease = await self._storage.call(lambda store: store.batches.lease(self._owner, LEASE_S))
        if lease is None:
            return False
        if self._stopping:
            await self._give_back(lease)
            return False
        task = asyncio.create_task(self._line(lease))
        self._running[task] = lease
        task.add_done_callback(self._line_ended)
        return True

    def _line_ended(self, task: asyncio.Task[None]) -> None:
        del self._running[task]
        self.wake()
        if not task.cancelled() and (error := task.exception()):
            log.error("a line of a batch broke off", exc_info=error)

    async def _validate(self, batch: StoredBatch) -> None:
        try:
            found = await self._storage.call(
                lambda store: read_lines(store.files.content(batch.input_file_id), batch.endpoint, self._max_line_bytes)
            )
        except (UnusableInput, NotFound) as error:
            errors = _errors(error)
            await self._storage.call(lambda store: store.batches.fail(batch.id, errors))
            log.info("batch failed", id=batch.id, error=errors[0]["code"])
            return
        await self._storage.call(lambda store: store.batches.begin(batch.id, found))
        log.info("batch begun", id=batch.id, lines=len(found))

    async def _finish(self, batch: StoredBatch) -> None:
        cancelled = batch.status == "cancelling"
        code, why = ("batch_cancelled", "was cancelled") if cancelled else ("batch_expired", "expired")
        error = wire_batch.LineError(code=code, message=f"the batch {why} before this line was answered")
        ended = await self._storage.call(
            lambda store: store.batches.finish(batch.id, lambda name: refused(name, error).row)
        )
        log.info(f"batch {ended.status}", id=batch.id, completed=ended.completed, failed=ended.failed)

    async def _stop_lines(self, batch_id: str | None) -> None:
        """Stop the running lines of one batch, or of all."""
        stopped = [task for task, lease in self._running.items() if batch_id in (None, lease.batch_id)]
        for task in stopped:
            task.cancel()
        await asyncio.gather(*stopped, return_exceptions=True)

    # ---- one line

    async def _line(self, lease: Lease) -> None:
        """Answer a line and write its result, or give it back."""
        beating = asyncio.create_task(self._beat(lease, asyncio.current_task()))
        try:
            await self._keep(lease, await self._result(lease))
        except Unavailable as error:
            await self._give_back(lease)
            self._not_before = asyncio.get_running_loop().time() + (error.retry_after_s or RETRY_S)
            self._stopping = self._stopping or isinstance(error, ShuttingDown)
        except asyncio.CancelledError:
            await self._give_back(lease)
            raise
        finally:
            beating.cancel()

    async def _result(self, lease: Lease) -> LineResult:
        if lease.attempts >= MAX_ATTEMPTS:
            return refused(lease.custom_id, _crashed(lease))
        request_id = "req_" + secrets.token_hex(12)
        try:
            raw = await self._storage.call(
                lambda store: store.files.piece(lease.input_file_id, lease.offset, lease.size)
            )
            question = wire_batch.parse_question(strict_json.read_json(raw), lease.endpoint)
        except InvalidRequest as error:  # somebody changed the file behind our back
            return refused(lease.custom_id, wire_batch.LineError(code=str(error.error_code), message=error.message))
        return answered(lease.custom_id, await self._answer(lease.endpoint, question.body, request_id))

    async def _keep(self, lease: Lease, result: LineResult) -> None:
        """Write the result, however long the storage refuses it: it took longer to make."""
        while True:
            try:
                if not await self._storage.call(lambda store: store.batches.close(lease, result)):
                    log.info("a late result was not taken", batch=lease.batch_id, line=lease.number)
                return
            except StorageUnavailable:
                await asyncio.sleep(RETRY_S)

    async def _beat(self, lease: Lease, line: asyncio.Task[None] | None) -> None:
        """Keep the lease while the line is worked on; stop the line when the lease was lost."""
        while True:
            await asyncio.sleep(HEARTBEAT_S)
            try:
                held = await self._storage.call(lambda store: store.batches.extend(lease, LEASE_S))
            except StorageUnavailable:
                continue  # the lease may end, and the fence decides then
            if not held and line:
                line.cancel()

    async def _give_back(self, lease: Lease) -> None:
        try:
            await self._storage.call(lambda store: store.batches.give_back(lease))
        except StorageUnavailable:
            log.warning("a line could not be given back; it is free again when its lease ends", batch=lease.batch_id)


def _errors(error: UnusableInput | NotFound) -> list[dict[str, object]]:
    if isinstance(error, UnusableInput):
        return [each.model_dump() for each in error.errors]
    return [wire_batch.LineError(code="not_found", message=error.message, param="input_file_id").model_dump()]


def _crashed(lease: Lease) -> wire_batch.LineError:
    return wire_batch.LineError(
        code="worker_crashed",
        message=f"line {lease.number}: the server ended {lease.attempts} times while it answered this line; "
        "it was not tried again",
        line=lease.number,
    )
