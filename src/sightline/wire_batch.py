"""The JSON of OpenAI's files and batches, and of the lines in their JSONL. Knows no HTTP and no database."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import ConfigDict, Field, ValidationError

from sightline.errors import InvalidRequest, UnsupportedField
from sightline.strict_json import shown
from sightline.wire import Wire, field_path, field_refusal

HOUR_S, DAY_S = 3600, 86400
WINDOW_S = DAY_S
KEEP_S = 30 * DAY_S  # of a file that does not say; OpenAI's own for batches
ENDPOINTS = ("/v1/chat/completions", "/infer", "/v1/infer")
MAX_CUSTOM_ID = 512


class _Sent(Wire):
    """Fields we do not know are refused by name."""

    model_config = ConfigDict(extra="forbid", populate_by_name=False)


class ExpiresAfter(_Sent):
    anchor: Literal["created_at"]
    seconds: int = Field(ge=HOUR_S, le=KEEP_S)


class BatchRequest(_Sent):
    """POST /v1/batches."""

    input_file_id: str
    endpoint: str
    completion_window: Literal["24h"]
    metadata: (
        Annotated[
            dict[Annotated[str, Field(max_length=64)], Annotated[str, Field(max_length=512)]], Field(max_length=16)
        ]
        | None
    ) = None
    output_expires_after: ExpiresAfter | None = None


def parse_batch(body: object) -> BatchRequest:
    """A new batch out of parsed JSON. Raises InvalidRequest, MissingField or UnsupportedField naming the field."""
    if not isinstance(body, dict):
        raise InvalidRequest(
            f"Invalid request format: the body is {shown(body)}; send a JSON object", code="invalid_json"
        )
    try:
        asked = BatchRequest.model_validate(body)
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        if first["type"] != "extra_forbidden":
            raise field_refusal(first) from None
        param, known = field_path(first["loc"]), ", ".join(BatchRequest.model_fields)
        raise UnsupportedField(f"'{param}' is not known here; known are {known}", param=param) from None
    if asked.endpoint not in ENDPOINTS:
        raise InvalidRequest(
            f"endpoint is {shown(asked.endpoint)}; batches are answered for {', '.join(ENDPOINTS)}", param="endpoint"
        )
    return asked


def parse_keep(fields: dict[str, str]) -> int:
    """How many seconds a file is kept, from the form's `expires_after[anchor]` and `expires_after[seconds]`."""
    sent = {name: fields.get(f"expires_after[{name}]") for name in ("anchor", "seconds")}
    if sent == {"anchor": None, "seconds": None}:
        return KEEP_S
    try:
        return ExpiresAfter.model_validate(sent, strict=False).seconds
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        raise field_refusal(first | {"loc": ("expires_after", *first["loc"])}) from None


# ---- the lines of a batch


class Question(Wire):
    """One line of an input file. Its body is read by the route it is for, when its turn comes."""

    custom_id: str = Field(min_length=1, max_length=MAX_CUSTOM_ID)
    method: Literal["POST"]
    url: str
    body: dict[str, Any]


def parse_question(value: object, endpoint: str) -> Question:
    """A line out of parsed JSON. Raises InvalidRequest and its kin for one that `endpoint` cannot be asked."""
    if not isinstance(value, dict):
        raise InvalidRequest(f"it is {shown(value)}; send a JSON object", code="invalid_json")
    try:
        question = Question.model_validate(value)
    except ValidationError as error:
        raise field_refusal(error.errors(include_url=False)[0]) from None
    if question.url != endpoint:
        raise InvalidRequest(f"url is {shown(question.url)}, the batch is for {endpoint!r}", param="url")
    options = question.body.get("options")
    if question.body.get("stream") or (isinstance(options, dict) and options.get("stream")):
        raise UnsupportedField("a batch's answers cannot be streamed; leave 'stream' out", param="body.stream")
    return question


def custom_id(value: object) -> str | None:
    """The custom_id of a line that may be unusable otherwise; None when it has none that can be told."""
    found = value.get("custom_id") if isinstance(value, dict) else None
    return found if isinstance(found, str) and len(found) <= MAX_CUSTOM_ID else None


class Answered(Wire):
    """What the route said to a line, its error body included."""

    status_code: int
    request_id: str
    body: dict[str, Any]


class LineError(Wire):
    """Why a line was never asked. `line` counts from 1 in the input file."""

    code: str
    message: str
    param: str | None = None
    line: int | None = None


class Result(Wire):
    """One line of an output file, or of an error file."""

    id: str
    custom_id: str | None
    response: Answered | None
    error: LineError | None


# ---- files and batches as they are shown


class File(Wire):
    id: str
    object: Literal["file"] = "file"
    bytes: int
    created_at: int
    expires_at: int
    filename: str
    purpose: str
    status: Literal["processed"] = "processed"


class FileList(Wire):
    object: Literal["list"] = "list"
    data: tuple[File, ...]
    first_id: str | None
    last_id: str | None
    has_more: bool


class FileDeleted(Wire):
    id: str
    object: Literal["file"] = "file"
    deleted: Literal[True] = True


class BatchErrors(Wire):
    object: Literal["list"] = "list"
    data: tuple[LineError, ...]


class RequestCounts(Wire):
    total: int
    completed: int
    failed: int


class InputTokensDetails(Wire):
    cached_tokens: int


class OutputTokensDetails(Wire):
    reasoning_tokens: int


class BatchUsage(Wire):
    input_tokens: int
    input_tokens_details: InputTokensDetails
    output_tokens: int
    output_tokens_details: OutputTokensDetails
    total_tokens: int


class Batch(Wire):
    id: str
    object: Literal["batch"] = "batch"
    endpoint: str
    model: str
    errors: BatchErrors | None
    input_file_id: str
    completion_window: Literal["24h"] = "24h"
    status: Literal[
        "validating", "failed", "in_progress", "finalizing", "completed", "expired", "cancelling", "cancelled"
    ]
    output_file_id: str | None
    error_file_id: str | None
    created_at: int
    in_progress_at: int | None
    expires_at: int
    finalizing_at: int | None
    completed_at: int | None
    failed_at: int | None
    expired_at: int | None
    cancelling_at: int | None
    cancelled_at: int | None
    request_counts: RequestCounts
    usage: BatchUsage
    metadata: dict[str, str] | None


class BatchList(Wire):
    object: Literal["list"] = "list"
    data: tuple[Batch, ...]
    first_id: str | None
    last_id: str | None
    has_more: bool
