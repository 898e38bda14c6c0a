"""What the store takes and gives: rows as values. Knows no SQL, so a server can name them without loading any."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

Status = Literal["validating", "failed", "in_progress", "finalizing", "completed", "expired", "cancelling", "cancelled"]
ENDED: tuple[Status, ...] = ("failed", "completed", "expired", "cancelled")
Order = Literal["asc", "desc"]


@dataclass(frozen=True, slots=True)
class StoredFile:
    """A file of the data folder. Times in seconds since 1970."""

    id: str
    purpose: str
    filename: str
    bytes: int
    created_at: int
    expires_at: int


@dataclass(frozen=True, slots=True)
class StoredBatch:
    """A batch. `errors` says why it failed as a whole; of `total` lines, `completed` and `failed` are answered."""

    id: str
    endpoint: str
    input_file_id: str
    status: Status
    metadata: Mapping[str, str] | None
    errors: list[dict[str, Any]] | None
    created_at: int
    expires_at: int
    in_progress_at: int | None
    finalizing_at: int | None
    completed_at: int | None
    failed_at: int | None
    expired_at: int | None
    cancelling_at: int | None
    cancelled_at: int | None
    output_expires_s: int
    output_file_id: str | None
    error_file_id: str | None
    total: int
    completed: int
    failed: int
    input_tokens: int
    cached_tokens: int
    output_tokens: int

    @property
    def all_answered(self) -> bool:
        return self.completed + self.failed == self.total


@dataclass(frozen=True, slots=True)
class NewLine:
    """A line of an input file: where it stands, in bytes, and the `refusal` of one that cannot be asked."""

    number: int
    custom_id: str | None
    offset: int
    size: int
    refusal: str | None = None


@dataclass(frozen=True, slots=True)
class Lease:
    """The right to answer one line. `fence` tells it from every other lease of the line, earlier or later."""

    batch_id: str
    endpoint: str
    input_file_id: str
    number: int
    custom_id: str | None
    offset: int
    size: int
    attempts: int  # earlier leases whose holder was never heard of again
    fence: int


@dataclass(frozen=True, slots=True)
class LineResult:
    """The answer to a line as its row of the output file, or (not `ok`) of the error file, and its tokens."""

    row: str
    ok: bool
    input_tokens: int = 0
    cached_tokens: int = 0
    output_tokens: int = 0
