"""Follows the answer to a task until it ends, or goes in circles, and says what it is worth. Knows no HTTP."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Literal

from sightline.backends import Answer
from sightline.errors import InternalError, InvalidRequest
from sightline.strict_json import read_json
from sightline.tasks import confidence
from sightline.tasks.catalogue import Task
from sightline.tasks.repetition import goes_in_circles
from sightline.types import TokenLogprob, Usage, VideoInfo
from sightline.wire_tasks import fits

Stopped = Literal["end", "length", "repetition"]


@dataclass(frozen=True, slots=True)
class Result:
    """A finished answer. `data` and `fields`, the confidence in each value of it, are None unless it is whole JSON.

    `experts` is None when no answer was counted.
    """

    answer: str
    confidence: float
    data: Any
    fields: Mapping[str, float] | None
    stopped: Stopped
    input_tokens: int
    output_tokens: int
    experts: float | None
    model: str
    degraded: bool = False  # a lighter model than was asked
    videos: tuple[VideoInfo, ...] = ()


@dataclass(slots=True)
class Reading:
    """One answer as it is read: take all `pieces`, then the `result`."""

    task: Task
    answer: Answer
    _text: str = ""
    _tokens: list[TokenLogprob] = field(default_factory=list)
    _written: int = 0
    _stopped: Stopped | None = None
    _usage: Usage | None = None

    @property
    def written(self) -> int:
        """Tokens so far."""
        return len(self._tokens)

    @property
    def so_far(self) -> float:
        """The confidence in all tokens so far, brackets and keys included."""
        return confidence.of_tokens(self._tokens)

    async def pieces(self) -> AsyncGenerator[str, None]:
        """The text as it comes. Closes the answer when it goes in circles; what was written until then stays."""
        async for delta in self.answer:
            self._text += delta.text
            self._tokens += delta.logprobs
            self._written += len(delta.tokens)
            if delta.finish:
                self._stopped, self._usage = "length" if delta.finish == "length" else "end", delta.usage
            elif delta.text and goes_in_circles(self._text):
                self._stopped = "repetition"
                await self.answer.aclose()
                self._usage = replace(self.answer.usage, completion_tokens=self._written)
            if delta.text:
                yield delta.text
            if self._stopped:
                return
        raise InternalError("an answer ended without its finish reason")

    async def whole(self) -> Result:
        """The result, for those who do not care for the pieces."""
        async for _ in self.pieces():
            pass
        return self.result()

    def result(self) -> Result:
        """What became of the answer; only after `pieces` has ended."""
        assert self._stopped
        data = self._data()
        fields = None
        sure = confidence.of_tokens(self._tokens)
        if data is not None:
            sure, fields = confidence.of_json(self._tokens)
        return Result(
            answer=self._text,
            confidence=sure,
            data=data,
            fields=fields,
            stopped=self._stopped,
            input_tokens=self.answer.prompt_tokens,
            output_tokens=self._usage.completion_tokens if self._usage else self._written,
            experts=self._usage.experts if self._usage else None,
            model=self.answer.model,
            degraded=self.answer.degraded,
            videos=self.answer.videos,
        )

    def _data(self) -> Any:
        """The answer of a structured task as values, checked against the task's own kind.

        What was not cut off satisfies its schema, because the grammar saw to it; a backend may be without grammars. A
        few schemas allow what our own JSON reader refuses, such as a hundred levels. Then there is no data.
        """
        if not self.task.structured or self._stopped != "end":
            return None
        try:
            data = read_json(self._text.encode())
        except InvalidRequest:
            return None
        if self.task.writes and not fits(self.task.writes, data):
            return None
        return self.task.refine(data, self.answer.pictures) if self.task.refine else data
