"""A model, and a lighter one that answers when the queue of the first is full. Knows two backends; has no queue itself.

It is loaded after the first, into the memory that this has left.
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, replace

import structlog

from sightline.backends import Answer, Backend, Place, State
from sightline.backends.local import LocalBackend
from sightline.errors import Overloaded, PromptTooLong, SightlineError
from sightline.settings import Settings
from sightline.types import Conversation, Document, EngineStats, Estimate, Lane, Page, Sampling

log = structlog.get_logger()


@dataclass(frozen=True, slots=True)
class _LighterPlace:
    """Room with the lighter model, and why there was none with the other."""

    place: Place
    refusal: Overloaded

    def leave(self, answers: int | None = None) -> None:
        self.place.leave(answers)


class WithLighter:
    """Both as one backend, which is the first but for what it had no room for. Its defaults hold for both."""

    def __init__(self, main: Backend, lighter: Backend):
        """Every answer of `lighter` is to say that it is `degraded`."""
        self._main = main
        self._lighter = lighter
        self._loading: asyncio.Task[None] | None = None

    @property
    def model_id(self) -> str:
        return self._main.model_id

    @property
    def aliases(self) -> tuple[str, ...]:
        return self._main.aliases

    @property
    def created(self) -> int:
        return self._main.created

    @property
    def defaults(self) -> Sampling:
        return self._main.defaults

    @property
    def takes_instructions(self) -> bool:
        return self._main.takes_instructions

    @property
    def max_context(self) -> int | None:
        return self._main.max_context

    @property
    def state(self) -> State:
        return self._main.state

    @property
    def detail(self) -> str:
        return self._main.detail

    @property
    def stats(self) -> EngineStats | None:
        return self._main.stats

    @property
    def progress(self) -> str:
        return self._main.progress

    async def start(self) -> None:
        await self._main.start()
        self._loading = asyncio.create_task(self._load_lighter())

    async def ready(self) -> None:
        """Wait for the first model; the lighter one may come later."""
        await self._main.ready()

    def reserve(self, lane: Lane = "interactive", answers: int = 1, *, lighter: bool = False) -> Place:
        try:
            return self._main.reserve(lane, answers)
        except Overloaded as refusal:
            if not lighter or self._lighter.state != "ready":
                raise
            try:
                return _LighterPlace(self._lighter.reserve(lane, answers), refusal)
            except Overloaded:
                raise refusal from None

    async def generate(
        self,
        conversation: Conversation,
        sampling: Sampling,
        *,
        request_id: str,
        lane: Lane = "interactive",
        place: Place | None = None,
    ) -> Answer:
        if not isinstance(place, _LighterPlace):
            return await self._main.generate(conversation, sampling, request_id=request_id, lane=lane, place=place)
        shorter = (self._lighter.max_context or 0) < (self._main.max_context or 0)
        if shorter:
            conversation = replace(conversation, may_drop_turns=False)
        try:
            return await self._lighter.generate(
                conversation, sampling, request_id=request_id, lane=lane, place=place.place
            )
        except PromptTooLong:
            if shorter:  # nobody asked for this context
                raise place.refusal from None
            raise

    async def pages(self, document: Document) -> tuple[Page, ...]:
        return await self._main.pages(document)

    async def estimate(self, conversation: Conversation, sampling: Sampling) -> Estimate:
        return await self._main.estimate(conversation, sampling)

    async def close(self, drain_s: float) -> None:
        if self._loading:
            self._loading.cancel()
        await asyncio.gather(self._main.close(drain_s), self._lighter.close(drain_s))

    async def _load_lighter(self) -> None:
        try:
            await self._main.ready()
            await self._lighter.ready()
            log.info(f"lighter model {self._lighter.model_id} is ready: it answers when the queue is full")
        except SightlineError:
            if self._lighter.state == "failed":
                log.error(f"the lighter model cannot be loaded: {self._lighter.detail}; a full queue is refused")
        except Exception:
            log.exception("the lighter model cannot be loaded; a full queue is refused")


def opened(settings: Settings) -> Backend:
    """The backend that the settings ask for, not started. Raises CheckpointError where a model is not to be found."""
    main = LocalBackend(settings)
    if not settings.lighter_model:
        return main
    return WithLighter(
        main, LocalBackend(settings.model_copy(update={"model": settings.lighter_model}), stands_in=True)
    )
