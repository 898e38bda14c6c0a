"""One answer on its way from the engine thread to whoever asked, in a thread or in an event loop."""

from __future__ import annotations

import asyncio
import threading
from collections import deque
from collections.abc import Callable, Iterator

from sightline.errors import SightlineError
from sightline.types import Delta, Progress, Usage


class Stream:
    """The deltas of one answer, in order; the last one has `finish`. Iterate it plainly or with `async for`.

    Closing it cancels the work: the engine frees everything within one step. Errors of the engine are raised by the
    iteration. One consumer only. `progress` is replaced by the engine, `usage` asks it; any thread may look at both.
    """

    def __init__(self, on_close: Callable[[], None]):
        self._on_close = on_close
        self._changed = threading.Condition()
        self._items: deque[Delta | SightlineError] = deque()
        self._ended = False
        self._waiter: tuple[asyncio.AbstractEventLoop, asyncio.Future[None]] | None = None
        self.closed = False
        self.progress = Progress("queued")
        self.usage: Callable[[], Usage] = Usage  # what the answer has cost so far

    def __iter__(self) -> Iterator[Delta]:
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._items or self._ended)
                if not self._items:
                    return
                item = self._items.popleft()
            yield self._delta(item)

    def __aiter__(self) -> Stream:
        return self

    async def __anext__(self) -> Delta:
        loop = asyncio.get_running_loop()
        while True:
            with self._changed:
                if self._items:
                    return self._delta(self._items.popleft())
                if self._ended:
                    raise StopAsyncIteration
                future = loop.create_future()
                self._waiter = (loop, future)
            await future

    def close(self) -> None:
        """Stop: no more deltas. May be called from any thread, any number of times."""
        with self._changed:
            ended, self.closed, self._ended = self._ended, True, True
            self._items.clear()
            self._wake()
        if not ended:
            self._on_close()

    def put(self, item: Delta | SightlineError) -> None:
        """Engine only: hand over the next delta, or the error that ends the answer."""
        with self._changed:
            if self._ended:
                return
            self._items.append(item)
            self._ended = isinstance(item, SightlineError) or item.finish is not None
            self._wake()

    def _wake(self) -> None:
        self._changed.notify_all()
        if self._waiter:
            loop, future = self._waiter
            self._waiter = None
            if not loop.is_closed():
                loop.call_soon_threadsafe(_resolve, future)

    @staticmethod
    def _delta(item: Delta | SightlineError) -> Delta:
        if isinstance(item, SightlineError):
            raise item
        return item


def _resolve(future: asyncio.Future[None]) -> None:
    if not future.done():
        future.set_result(None)
