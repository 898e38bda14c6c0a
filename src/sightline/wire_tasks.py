"""The JSON of the task API: one question about pictures, one answer with its worth. Knows no HTTP and no task."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import ConfigDict, Field, ValidationError

from sightline.errors import InvalidRequest, MissingField, UnsupportedField
from sightline.strict_json import shown
from sightline.wire import Video, Wire, field_path, field_refusal
from sightline.wire_parts import FileOrFrames


class _Sent(Wire):
    """Fields we do not know are refused by name."""

    model_config = ConfigDict(extra="forbid", populate_by_name=False)


class Options(_Sent):
    max_tokens: int | None = Field(None, ge=1, lt=2**31)
    temperature: float | None = Field(None, ge=0, le=2)
    top_p: float | None = Field(None, ge=0, le=1)
    stream: bool | None = None
    progress: bool | None = None
    answer_schema: dict[str, Any] | None = Field(None, alias="schema")
    pages: str | None = Field(None, max_length=1000)
    dpi: int | None = Field(None, ge=18, le=1200)
    password: str | None = Field(None, max_length=127)
    fps: float | None = Field(None, gt=0)
    num_frames: int | None = Field(None, ge=1)
    start: float | None = Field(None, ge=0)
    end: float | None = Field(None, gt=0)


class TaskRequest(_Sent):
    """POST /infer and /infer_stream. None means: not given."""

    task: str
    images: Annotated[tuple[str, ...], Field(strict=False, max_length=1000)] | None = None
    videos: Annotated[tuple[FileOrFrames, ...], Field(strict=False, max_length=1000)] | None = None
    documents: Annotated[tuple[str, ...], Field(strict=False, max_length=1000)] | None = None
    text: str | None = None
    options: Options | None = None

    @property
    def wishes(self) -> Options:
        """The options, all of them None where none were sent."""
        return self.options or Options.model_validate({})


def parse_task(body: object) -> TaskRequest:
    """A task request out of parsed JSON. Raises InvalidRequest, MissingField or UnsupportedField naming the field."""
    if not isinstance(body, dict):
        raise InvalidRequest(
            f"Invalid request format: the body is {shown(body)}; send a JSON object", code="invalid_json"
        )
    if body.get("task") is None:
        raise MissingField("Invalid request format: missing 'task' field", param="task")
    try:
        return TaskRequest.model_validate(body)
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        if first["type"] != "extra_forbidden":
            raise field_refusal(first) from None
        param, asked = field_path(first["loc"]), Options if first["loc"][0] == "options" else TaskRequest
        known = ", ".join(model_field.alias or name for name, model_field in asked.model_fields.items())
        raise UnsupportedField(f"'{param}' is not known here; known are {known}", param=param) from None


class Metadata(Wire):
    """What the answer took and why it ended. `activated_experts` is null when no answer was counted."""

    processing_time_ms: int
    activated_experts: float | None
    input_tokens: int
    output_tokens: int
    stopped: Literal["end", "length", "repetition"]
    trimmed: bool | None = None
    videos: tuple[Video, ...] = ()


class TaskResult(Wire):
    """`data` and `field_confidence` are there for structured tasks; null when the answer is not whole."""

    answer: str
    confidence: float
    metadata: Metadata
    data: Any = None
    field_confidence: dict[str, float] | None = None


class TaskReply(Wire):
    """Every body that is no stream, errors too; `code` 0 is success, and only then there is a `result`."""

    request_id: str
    code: int
    msg: str
    result: TaskResult | None


class PageError(Wire):
    """Why a page was not read."""

    code: str | None
    message: str


class PageAnswer(Wire):
    """What was found on one page. With an `error` there is no answer."""

    page: int
    answer: str
    confidence: float
    stopped: Literal["end", "length", "repetition"] | None
    error: PageError | None


class Merged(Wire):
    """The answer for the whole document. `by` "pages": the pages' own answers in a row; "model": put together by it."""

    answer: str
    citations: tuple[int, ...]
    by: Literal["model", "pages"]
    confidence: float


class Analysis(Wire):
    """The `data` of task doc_analyze."""

    pages: tuple[PageAnswer, ...]
    merged: Merged


class PageEvent(PageAnswer):
    """One page was read: the `done`th of `pages`."""

    stage: Literal["page"]
    done: int
    pages: int


class TokenEvent(Wire):
    token: str
    index: int
