"""Follows every answer from its question to its end: which are open, what they cost in sum, how fast the last were.

Knows no HTTP and no content: only whose answer it is, times and counts.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass
from typing import Protocol

from sightline.backends import Answer, Backend, Place
from sightline.types import Conversation, Delta, Lane, PictureInfo, Progress, Sampling, Usage, VideoInfo

RECENT = 32  # answers; older ones may be from another load

_now = time.perf_counter


class Watcher(Protocol):
    """Is told what happens to answers, when it happens. All times in seconds."""

    def first_token(self, seconds: float) -> None: ...

    def next_token(self, seconds: float) -> None: ...

    def answer_ended(self, task: str, finish: str, seconds: float) -> None: ...


@dataclass(slots=True)
class Totals:
    """Of the answers that ended with at least one token, also of those that were cancelled, since the start."""

    answers: int = 0
    prompt_tokens: int = 0
    cached_tokens: int = 0
    image_tokens: int = 0
    completion_tokens: int = 0
    pictures: int = 0
    pictures_cached: int = 0

    def add(self, usage: Usage, pictures: int) -> None:
        self.answers += 1
        self.prompt_tokens += usage.prompt_tokens
        self.cached_tokens += usage.cached_tokens
        self.image_tokens += usage.image_tokens
        self.completion_tokens += usage.completion_tokens
        self.pictures += pictures
        self.pictures_cached += max(0, pictures - usage.encoded_images)


@dataclass(slots=True, eq=False)
class Entry:
    """One answer that has not ended; `answer` is None while its pictures are decoded."""

    request_id: str
    task: str
    began: float
    answer: Answer | None = None
    first: float | None = None  # when its first token came, and the latest one
    latest: float = 0.0
    written: int = 0

    @property
    def age_s(self) -> float:
        return _now() - self.began

    @property
    def progress(self) -> Progress:
        return self.answer.progress if self.answer else Progress("decoding")


@dataclass(frozen=True, slots=True)
class Pace:
    """How fast one answer was. No `tokens_per_s` when there was no second token."""

    first_token_s: float
    tokens_per_s: float | None


class Ledger:
    """The answers of one backend. Belongs to the event loop."""

    def __init__(self, backend: Backend, watcher: Watcher):
        self._backend = backend
        self._watcher = watcher
        self._open: dict[Entry, None] = {}  # in the order of asking
        self.totals = Totals()
        self.recent: deque[Pace] = deque(maxlen=RECENT)

    @property
    def open(self) -> Sequence[Entry]:
        """The answers that have not ended, oldest first."""
        return tuple(self._open)

    async def generate(
        self,
        conversation: Conversation,
        sampling: Sampling,
        *,
        request_id: str,
        task: str = "chat",
        lane: Lane = "interactive",
        place: Place | None = None,
    ) -> Answer:
        """The backend's `generate`, kept in the books until the answer ends or is closed."""
        entry = Entry(request_id, task, _now())
        self._open[entry] = None
        try:
            entry.answer = await self._backend.generate(
                conversation, sampling, request_id=request_id, lane=lane, place=place
            )
        except BaseException:
            del self._open[entry]
            raise
        return _Followed(self, entry, entry.answer)

    def note(self, entry: Entry, delta: Delta) -> None:
        """Learn from the next delta of an answer."""
        now = _now()
        if delta.tokens:
            if entry.first is None:
                entry.first = now
                self._watcher.first_token(now - entry.began)
            else:
                self._watcher.next_token(now - entry.latest)
            entry.latest = now
            entry.written += len(delta.tokens)
        if delta.finish:
            if delta.usage:
                self._note_pace(entry, delta.usage)
            self.end(entry, delta.finish)

    def _note_pace(self, entry: Entry, usage: Usage) -> None:
        if entry.first is not None:
            measured = usage.completion_tokens > 1 and usage.decode_ms > 0
            rate = (usage.completion_tokens - 1) / usage.decode_ms * 1000 if measured else None
            self.recent.append(Pace(entry.first - entry.began, rate))

    def end(self, entry: Entry, finish: str) -> None:
        """Strike an answer out, and book what it cost if it had begun; harmless when it has ended before."""
        if entry in self._open:
            del self._open[entry]
            if entry.answer and entry.first is not None:
                self.totals.add(entry.answer.usage, len(entry.answer.pictures))
            self._watcher.answer_ended(entry.task, finish, entry.age_s)


class _Followed:
    """An answer whose deltas the ledger sees."""

    def __init__(self, ledger: Ledger, entry: Entry, answer: Answer):
        self._ledger = ledger
        self._entry = entry
        self._answer = answer

    @property
    def pictures(self) -> tuple[PictureInfo, ...]:
        return self._answer.pictures

    @property
    def videos(self) -> tuple[VideoInfo, ...]:
        return self._answer.videos

    @property
    def dropped_turns(self) -> int:
        return self._answer.dropped_turns

    @property
    def prompt_tokens(self) -> int:
        return self._answer.prompt_tokens

    @property
    def model(self) -> str:
        return self._answer.model

    @property
    def degraded(self) -> bool:
        return self._answer.degraded

    @property
    def progress(self) -> Progress:
        return self._answer.progress

    @property
    def usage(self) -> Usage:
        return self._answer.usage

    def __aiter__(self) -> AsyncIterator[Delta]:
        return self

    async def __anext__(self) -> Delta:
        try:
            delta = await self._answer.__anext__()
        except StopAsyncIteration:
            raise
        except Exception:
            self._ledger.end(self._entry, "failed")
            raise
        self._ledger.note(self._entry, delta)
        return delta

    async def aclose(self) -> None:
        await self._answer.aclose()
        self._ledger.end(self._entry, "cancelled")
