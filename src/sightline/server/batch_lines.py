"""The lines of a batch's files: the input taken apart, the results put into words. Knows no queue and no route."""

from __future__ import annotations

import secrets
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from sightline import strict_json, wire_batch
from sightline.errors import ContentTooLarge, InvalidRequest, SightlineError
from sightline.store.records import LineResult, NewLine

MAX_LINES = 50_000
ERRORS_SHOWN = 100  # of a file without a usable line


class UnusableInput(Exception):
    """A file that makes no batch at all; `errors` say why."""

    def __init__(self, *errors: wire_batch.LineError):
        super().__init__(errors)
        self.errors = errors


def read_lines(path: Path, endpoint: str, max_line_bytes: int) -> list[NewLine]:
    """Where the lines are, each checked as far as this can be done without asking it; blank ones are passed over.

    A line that cannot be asked has its refusal and spoils no other. Raises UnusableInput when none can be asked, or
    when there are too many.
    """
    found: list[NewLine] = []
    errors: list[wire_batch.LineError] = []
    first_use: dict[str, int] = {}
    for number, offset, size, raw in _raw_lines(path, max_line_bytes):
        if len(found) == MAX_LINES:
            raise UnusableInput(_too_many())
        name = None
        try:
            if raw is None:
                raise ContentTooLarge(
                    f"it has {size} bytes, the limit is {max_line_bytes}; send smaller or fewer pictures"
                )
            value = strict_json.read_json(raw)
            name = wire_batch.custom_id(value)
            question = wire_batch.parse_question(value, endpoint)
            if question.custom_id in first_use:
                raise InvalidRequest(
                    f"custom_id {question.custom_id[:80]!r} stands in line {first_use[question.custom_id]} already",
                    param="custom_id",
                    code="duplicate_custom_id",
                )
            first_use[question.custom_id] = number
            found.append(NewLine(number, question.custom_id, offset, size))
        except InvalidRequest as error:
            errors.append(_line_error(error, number))
            found.append(NewLine(number, name, offset, size, refused(name, errors[-1]).row))
    if not found:
        empty = wire_batch.LineError(code="empty_file", message="the file has no line", param="input_file_id")
        raise UnusableInput(empty)
    if len(errors) == len(found):
        raise UnusableInput(*errors[:ERRORS_SHOWN])
    return found


def _raw_lines(path: Path, most: int) -> Iterator[tuple[int, int, int, bytes | None]]:
    """(number from 1, offset, size, bytes) of each line that is not blank; no bytes of one that is over `most`."""
    with path.open("rb") as content:
        number = offset = 0
        while raw := content.readline(most + 1):
            number, size, start = number + 1, len(raw), offset
            whole = size <= most or raw.endswith(b"\n")
            while not raw.endswith(b"\n") and (raw_rest := content.readline(most + 1)):
                size, raw = size + len(raw_rest), raw_rest
            offset += size
            if not whole:
                yield number, start, size, None
            elif raw.strip():
                yield number, start, size, raw


def _too_many() -> wire_batch.LineError:
    return wire_batch.LineError(
        code="too_many_lines",
        message=f"the file has more than {MAX_LINES} lines, the limit; split it into several batches",
        param="input_file_id",
        line=MAX_LINES + 1,
    )


def _line_error(error: SightlineError, number: int) -> wire_batch.LineError:
    # Said of bodies, true of lines: of which each is the first line of its own JSON.
    message = error.message.replace("Invalid request format: the body is", "it is").replace("at line 1, ", "at ")
    return wire_batch.LineError(
        code=error.error_code or "invalid_value", message=f"line {number}: {message}", param=error.param, line=number
    )


def refused(custom_id: str | None, error: wire_batch.LineError) -> LineResult:
    """The result of a line that was never asked, or never answered."""
    row = wire_batch.Result(id=_result_id(), custom_id=custom_id, response=None, error=error)
    return LineResult(row.model_dump_json(), ok=False)


def answered(custom_id: str | None, response: wire_batch.Answered) -> LineResult:
    """The result of a line that was asked: what its route said, and its tokens."""
    row = wire_batch.Result(id=_result_id(), custom_id=custom_id, response=response, error=None)
    asked, cached, written = _tokens(response.body)
    return LineResult(row.model_dump_json(), response.status_code == 200, asked, cached, written)


def _tokens(body: dict[str, Any]) -> tuple[int, int, int]:
    """Of the prompt, of it cached, of the answer: as a chat tells it, or as a task does."""
    if usage := body.get("usage"):
        return usage["prompt_tokens"], usage["prompt_tokens_details"]["cached_tokens"], usage["completion_tokens"]
    metadata = (body.get("result") or {}).get("metadata") or {}
    return metadata.get("input_tokens", 0), 0, metadata.get("output_tokens", 0)


def _result_id() -> str:
    return "batch_req_" + secrets.token_hex(12)
