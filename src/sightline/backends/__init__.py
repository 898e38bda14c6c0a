"""The one protocol every engine answers to, whether it computes here or elsewhere. Knows no HTTP and no tensors."""

from __future__ import annotations

from collections.abc import AsyncIterable
from typing import Literal, Protocol

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

State = Literal["loading", "ready", "failed"]


class Answer(AsyncIterable[Delta], Protocol):
    """An answer as it grows. The last delta has `finish` and `usage`; iteration ends after it.

    Iterating raises a SightlineError when the engine fails or shuts down midway.
    """

    async def __anext__(self) -> Delta: ...

    @property
    def pictures(self) -> tuple[PictureInfo, ...]:
        """What became of each picture the model saw, in the conversation's order; dropped turns have none."""
        ...

    @property
    def videos(self) -> tuple[VideoInfo, ...]:
        """What became of each clip, in the same way."""
        ...

    @property
    def dropped_turns(self) -> int:
        """How many of the conversation's oldest turns the model did not see, because the context does not hold them."""
        ...

    @property
    def prompt_tokens(self) -> int: ...

    @property
    def model(self) -> str:
        """The id of the model that answers."""
        ...

    @property
    def degraded(self) -> bool:
        """Whether that is a lighter one than was asked, which had no room."""
        ...

    @property
    def progress(self) -> Progress:
        """Where the answer is now. Cheap: whoever shows it may look as often as it likes."""
        ...

    @property
    def usage(self) -> Usage:
        """What the answer has cost so far, also when it was cancelled."""
        ...

    async def aclose(self) -> None:
        """Cancel: no step that begins after this works for the answer. Harmless after the end, and twice."""
        ...


class Place(Protocol):
    """Room in the queue of a lane, held for answers whose question is still being made ready."""

    def leave(self, answers: int | None = None) -> None:
        """Give back what was held for so many answers, or for all that are left. Harmless when nothing is."""
        ...


class Backend(Protocol):
    """An engine with one model. `start` it, `await ready()`, `generate` as often as wanted, `close` it."""

    @property
    def model_id(self) -> str:
        """The name under which the model is served, in lower case."""
        ...

    @property
    def aliases(self) -> tuple[str, ...]:
        """Other names a request may use, such as the hub id; compared without regard to case."""
        ...

    @property
    def created(self) -> int:
        """When the model's weights were written, in seconds since 1970."""
        ...

    @property
    def defaults(self) -> Sampling:
        """The sampling of a request that asks for nothing, from the model's generation_config."""
        ...

    @property
    def takes_instructions(self) -> bool:
        """Whether a task's role, steps and output form go before its question. A model may know bare questions only."""
        ...

    @property
    def max_context(self) -> int | None:
        """Most tokens of prompt and answer together; None until it is known."""
        ...

    @property
    def state(self) -> State: ...

    @property
    def detail(self) -> str:
        """Why `state` is "failed", for the operator's log; empty otherwise."""
        ...

    @property
    def stats(self) -> EngineStats | None:
        """What the engine has in hand; None until it has loaded."""
        ...

    @property
    def progress(self) -> str:
        """What loading is busy with, for people to read."""
        ...

    async def start(self) -> None:
        """Begin to load; returns at once and never raises. Failure shows in `state` and from `ready`."""
        ...

    async def ready(self) -> None:
        """Wait until the model can answer. Raises the SightlineError that stopped it."""
        ...

    def reserve(self, lane: Lane = "interactive", answers: int = 1, *, lighter: bool = False) -> Place:
        """Hold room for so many answers before anything is fetched or decoded for them. The caller leaves it.

        With `lighter`, it may be with a lighter model, if there is one and the model itself has none. Raises
        Overloaded when there is none at all, and what else `generate` would raise for any question.
        """
        ...

    async def generate(
        self,
        conversation: Conversation,
        sampling: Sampling,
        *,
        request_id: str,
        lane: Lane = "interactive",
        place: Place | None = None,
    ) -> Answer:
        """Queue a conversation; returns once it is prepared and has its place in the queue of its lane.

        Work in the "bulk" lane gets what the interactive one leaves, and has a waiting limit of its own. `place` is
        what was reserved in the lane; the call takes and leaves room for one answer of it. Without it, room is looked
        for first. Every error that is the caller's is raised here, before the first delta. Cancelling the call
        withdraws it.
        """
        ...

    async def pages(self, document: Document) -> tuple[Page, ...]:
        """The pages that a document names. Raises what is wrong with it, and for more pages than a task may have."""
        ...

    async def estimate(self, conversation: Conversation, sampling: Sampling) -> Estimate:
        """What an answer would take. Prepares the prompt, so it raises what `generate` would raise for it."""
        ...

    async def close(self, drain_s: float) -> None:
        """Refuse new questions with ShuttingDown, let running answers go on for at most `drain_s`, end the rest.

        Answers that are cut off raise ShuttingDown. May be called again with a shorter time; later calls are harmless.
        """
        ...
