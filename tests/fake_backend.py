"""A backend without a model, for tests: plays set deltas, waits and crashes, and remembers what was asked of it."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

from sightline.backends import State
from sightline.errors import ShuttingDown, SightlineError
from sightline.types import (
    Conversation,
    Delta,
    Document,
    EngineStats,
    Estimate,
    Lane,
    Page,
    PictureInfo,
    Progress,
    Sampling,
    Usage,
    VideoInfo,
)

USAGE = Usage(prompt_tokens=10, image_tokens=4, cached_tokens=3, completion_tokens=2, queue_ms=1, encoded_images=1)
Step = Delta | BaseException | asyncio.Event | Progress  # an event is waited for, progress shows from then on


def says(*texts: str) -> tuple[Delta, ...]:
    """The deltas of an answer that finishes by itself."""
    return (*(Delta(text) for text in texts), Delta(finish="stop", usage=USAGE))


class FakeAnswer:
    def __init__(self, steps: Sequence[Step], asked: Conversation, sampling: Sampling, lane: Lane = "interactive"):
        self.steps = list(steps)
        self.asked = asked
        self.sampling = sampling
        self.lane = lane
        self.pictures = (PictureInfo(original=(40, 60), resized=(32, 64), tokens=4),)
        self.videos: tuple[VideoInfo, ...] = ()
        self.dropped_turns = 2
        self.prompt_tokens = 10
        self.model = "sightline-demo"
        self.degraded = False
        self.progress = Progress("queued")
        self.usage = USAGE
        self.closed = asyncio.Event()
        self.cut = asyncio.Event()

    def __aiter__(self) -> FakeAnswer:
        return self

    async def __anext__(self) -> Delta:
        while self.steps:
            step = self.steps.pop(0)
            if isinstance(step, asyncio.Event):
                await self._until(step)
            elif isinstance(step, BaseException):
                raise step
            elif isinstance(step, Progress):
                self.progress = step
            else:
                return step
        raise StopAsyncIteration

    async def _until(self, event: asyncio.Event) -> None:
        waits = [asyncio.create_task(each.wait()) for each in (event, self.cut)]
        try:
            await asyncio.wait(waits, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for wait in waits:
                wait.cancel()
        if self.cut.is_set():
            raise ShuttingDown("stopped")

    async def aclose(self) -> None:
        self.closed.set()


class FakePlace:
    """Room for `held` answers, until it is left."""

    def __init__(self, lane: Lane, held: int, lighter: bool):
        self.lane = lane
        self.held = held
        self.lighter = lighter

    def leave(self, answers: int | None = None) -> None:
        self.held -= self.held if answers is None else min(answers, self.held)


class FakeBackend:
    """`steps` is what every answer does; `refusal` is raised instead of answering."""

    def __init__(self, *steps: Step, refusal: Exception | None = None, hold: asyncio.Event | None = None):
        self.steps = steps or says("Hel", "lo")
        self.refusal = refusal
        self.hold = hold  # `generate` waits for it
        self.model_id = "sightline-demo"
        self.aliases = ("Sightline/Demo-VL",)
        self.created = 1_700_000_000
        self.defaults = Sampling(temperature=0.3, top_k=20)
        self.takes_instructions = False
        self.max_context: int | None = 4096
        self.state: State = "ready"
        self.detail = ""
        self.progress = "reading"
        self.stats: EngineStats | None = EngineStats(
            kv_blocks=100, kv_blocks_in_use=7, kv_blocks_kept=5, preemptions=1, drafted=9, accepted=4
        )
        self.failure: SightlineError | None = None
        self.full: SightlineError | None = None  # what `reserve` raises
        self.places: list[FakePlace] = []
        self.answers: list[FakeAnswer] = []
        self.asking = asyncio.Event()  # `generate` was called
        self.withdrawn = asyncio.Event()  # `generate` was cancelled
        self.guess = Estimate(
            prompt_tokens=10,
            pictures=(PictureInfo(original=(40, 60), resized=(32, 64), tokens=2), PictureInfo((32, 32), (32, 32), 1)),
            dropped_turns=1,
            room=100,
            first_token_s=0.12345,
            unmeasured=None,
            peak_bytes=1 << 30,
        )
        self.closings: list[float] = []

    async def start(self) -> None:
        pass

    async def ready(self) -> None:
        if self.failure:
            raise self.failure

    def reserve(self, lane: Lane = "interactive", answers: int = 1, *, lighter: bool = False) -> FakePlace:
        if self.full:
            raise self.full
        self.places.append(FakePlace(lane, answers, lighter))
        return self.places[-1]

    async def generate(
        self,
        conversation: Conversation,
        sampling: Sampling,
        *,
        request_id: str,
        lane: Lane = "interactive",
        place: FakePlace | None = None,
    ) -> FakeAnswer:
        self.asking.set()
        try:
            if self.hold:
                await self.hold.wait()
        except asyncio.CancelledError:
            self.withdrawn.set()
            raise
        if self.refusal:
            raise self.refusal
        answer = FakeAnswer(self.steps, conversation, sampling, lane)
        self.answers.append(answer)
        return answer

    async def pages(self, document: Document) -> tuple[Page, ...]:
        if self.refusal:
            raise self.refusal
        return tuple(Page(document, number) for number in (1, 2, 3))

    async def estimate(self, conversation: Conversation, sampling: Sampling) -> Estimate:
        if self.refusal:
            raise self.refusal
        self.estimated = (conversation, sampling)
        return self.guess

    async def close(self, drain_s: float) -> None:
        self.closings.append(drain_s)
        for answer in self.answers:
            answer.cut.set()
