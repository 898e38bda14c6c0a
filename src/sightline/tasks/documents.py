"""Reads a document page by page, one question each, and puts the answers together. Knows no HTTP and no PDF.

Only one question is ever with the engine, so a long document takes its turns like everybody else.
"""

from __future__ import annotations

import asyncio
import math
from collections.abc import AsyncGenerator, Sequence
from contextlib import aclosing
from dataclasses import dataclass, field, replace
from typing import Final, Protocol

from sightline.backends import Answer
from sightline.errors import InvalidRequest, Overloaded, PromptTooLong, SightlineError
from sightline.tasks.answering import Reading, Result, Stopped
from sightline.tasks.asking import instructions
from sightline.tasks.catalogue import Task, merging
from sightline.types import Conversation, Grammar, Message, Page, Sampling, Text
from sightline.wire_tasks import Analysis, Merged, PageAnswer, PageError

# A merged answer below this confidence is not shown: the pages' own answers are listed instead. A model that cannot
# merge writes what the schema forces it to, and its own probabilities say so (docs/log.md has figures).
SURE: Final = 0.5

# A merged answer that is worth less than this after so many tokens is not written to its end.
HOPELESS: Final = 0.25
HOPE_TOKENS: Final = 48

Finding = tuple[tuple[int, ...], str]  # a statement and the pages it stands on


class Ask(Protocol):
    """Queues one question with the engine."""

    async def __call__(self, conversation: Conversation, sampling: Sampling) -> Answer: ...


@dataclass(slots=True)
class DocumentReading:
    """A document as it is read, with the interface of `Reading`: take all `pieces`, then the `result`."""

    task: Task
    pages: Sequence[Page]
    question: str
    sampling: Sampling
    ask: Ask
    instructed: bool  # each page is asked about with the task's instructions
    _answers: list[PageAnswer] = field(default_factory=list)
    _results: list[Result] = field(default_factory=list)  # of every question, for what it all took
    _refusal: SightlineError | None = None
    _merged: Merged | None = None

    async def pieces(self) -> AsyncGenerator[str | PageAnswer, None]:
        """Each page's answer when it is there, then the merged answer, line by line.

        A page that cannot be read says so in its answer; when none can, the first one's error is raised.
        """
        for page in self.pages:
            answer = await self._read(page)
            self._answers.append(answer)
            yield answer
        if self._refusal and all(answer.error for answer in self._answers):
            raise self._refusal
        self._merged = await self._merge()
        yield self._merged.answer

    async def whole(self) -> Result:
        """The result, for those who do not care for the pieces."""
        async for _ in self.pieces():
            pass
        return self.result()

    def result(self) -> Result:
        """What became of the document; only after `pieces` has ended."""
        merged = self._merged
        assert merged
        fields = {f"pages[{at}].answer": page.confidence for at, page in enumerate(self._answers) if not page.error}
        experts = [result.experts for result in self._results if result.experts is not None]
        cut: list[Stopped] = [page.stopped for page in self._answers if page.stopped not in ("end", None)]
        return Result(
            answer=merged.answer,
            confidence=merged.confidence,
            data=Analysis(pages=tuple(self._answers), merged=merged).model_dump(),
            fields=fields | {"merged.answer": merged.confidence},
            stopped=cut[0] if cut else "end",
            input_tokens=sum(result.input_tokens for result in self._results),
            output_tokens=sum(result.output_tokens for result in self._results),
            experts=math.fsum(experts) / len(experts) if experts else None,
            model=self._results[0].model,
        )

    async def _read(self, page: Page) -> PageAnswer:
        user = Message("user", (page, Text(self.question)))
        asked = Conversation((instructions(self.task), user) if self.instructed else (user,), may_drop_turns=False)
        try:
            result = await self._answered(self.task, asked, self.sampling)
            assert result
        except InvalidRequest as error:
            self._refusal = self._refusal or error
            told = PageError(code=error.error_code, message=error.message)
            return PageAnswer(page=page.number, answer="", confidence=0.0, stopped=None, error=told)
        sure = round(result.confidence, 4)
        return PageAnswer(page=page.number, answer=result.answer, confidence=sure, stopped=result.stopped, error=None)

    async def _answered(self, task: Task, asked: Conversation, sampling: Sampling, least: float = 0.0) -> Result | None:
        """The answer, whole. None, and no more is written, once the confidence in it has sunk below `least`."""
        answer = await self._queued(asked, sampling)
        reading = Reading(task, answer)
        try:
            async with aclosing(reading.pieces()) as pieces:
                async for _ in pieces:
                    if reading.written >= HOPE_TOKENS and reading.so_far < least:
                        return None
        finally:
            await answer.aclose()
        self._results.append(reading.result())
        return self._results[-1]

    async def _queued(self, asked: Conversation, sampling: Sampling) -> Answer:
        """The question's place in the queue. Once a page has been answered, a full queue is waited for."""
        while True:
            try:
                return await self.ask(asked, sampling)
            except Overloaded as error:
                if not self._results:
                    raise
                await asyncio.sleep(error.retry_after_s or 0)

    # ---- merging

    async def _merge(self) -> Merged:
        read = [answer for answer in self._answers if not answer.error]
        findings: list[Finding] = [((answer.page,), answer.answer) for answer in read]
        if len(findings) > 1:
            before = len(self._results)
            statements = await self._merged_findings(findings)
            if statements:
                sure = min(result.confidence for result in self._results[before:])
                return _merged(statements, "model", sure)
        return _merged(findings, "pages", math.fsum(answer.confidence for answer in read) / len(read))

    async def _merged_findings(self, findings: Sequence[Finding]) -> list[Finding] | None:
        """The findings put together: at once when they fit the context, else half by half. None when that fails."""
        try:
            statements = await self._asked_to_merge(findings)
        except PromptTooLong:
            if len(findings) < 2:
                return None
        else:
            return statements
        middle = len(findings) // 2
        halves: list[Finding] = []
        for half in (findings[:middle], findings[middle:]):
            part = await self._merged_findings(half)
            if part is None:
                return None
            halves += part
        shorter = sum(len(text) for _, text in halves) < sum(len(text) for _, text in findings)
        return await self._merged_findings(halves) if shorter else halves

    async def _asked_to_merge(self, findings: Sequence[Finding]) -> list[Finding] | None:
        """One question to the model. Raises PromptTooLong; None for an answer that is not whole or not sure."""
        numbers = sorted({number for pages, _ in findings for number in pages})
        task = merging(numbers)
        shown = "\n\n".join(f"Page {', '.join(map(str, pages))}: {text}" for pages, text in findings)
        user = Message("user", (Text(f"Question: {self.question}\n\n{shown}"),))
        sampling = replace(self.sampling, max_tokens=task.max_tokens, grammar=Grammar(task.schema))
        asked = Conversation((instructions(task), user), may_drop_turns=False)
        try:
            result = await self._answered(task, asked, sampling, HOPELESS)
        except PromptTooLong:
            raise
        except InvalidRequest:
            return None
        if result is None:
            return None
        if result.stopped == "length" and result.output_tokens < task.max_tokens:
            raise PromptTooLong("the answers of the pages leave no room for the merged one")
        if result.data is None or result.confidence < SURE:
            return None
        return [(tuple(sorted(set(told["pages"]))), told["text"]) for told in result.data["statements"]]


def _merged(findings: Sequence[Finding], by: str, sure: float) -> Merged:
    """The findings as one text, a line each, with the pages they stand on."""
    lines = [" ".join((text.strip(), *(f"[p. {number}]" for number in pages))) for pages, text in findings]
    citations = sorted({number for pages, _ in findings for number in pages})
    return Merged.model_validate(
        {"answer": "\n".join(lines), "citations": tuple(citations), "by": by, "confidence": round(sure, 4)}
    )
