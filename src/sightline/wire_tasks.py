"""The JSON of the task API: what is asked, what is answered, what an answer is made of. Knows no HTTP and no task."""

from __future__ import annotations

import json
from functools import cache
from typing import Annotated, Any, Final, Literal

from pydantic import BaseModel, ConfigDict, Field, RootModel, ValidationError
from pydantic.json_schema import GenerateJsonSchema

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


Confidence = Annotated[float, Field(ge=0, le=1)]


class Metadata(Wire):
    """What the answer took and why it ended. `activated_experts` is null when no answer was counted.

    `model` is the one that answered; `degraded` says that it is a lighter one than was asked, which had no room.
    """

    model: str
    degraded: bool
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
    confidence: Confidence
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
    confidence: Confidence
    stopped: Literal["end", "length", "repetition"] | None
    error: PageError | None


class Merged(Wire):
    """The answer for the whole document. `by` "pages": the pages' own answers in a row; "model": put together by it."""

    answer: str
    citations: tuple[int, ...]
    by: Literal["model", "pages"]
    confidence: Confidence


class Analysis(Wire):
    """The `data` of a document: what each page says, and what all of them say together."""

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


# ---- what structured answers are made of, for decoding, for checking and for the API's description


class Data(Wire):
    """Exactly these fields, in this order."""

    model_config = ConfigDict(extra="forbid")


class Point(Data):
    x: float | str
    y: float


class Series(Data):
    name: str
    points: Annotated[tuple[Point, ...], Field(strict=False)]


class Chart(Data):
    """The numbers of a chart. An empty string stands for what is not written in it."""

    chart_type: str
    title: str
    x_axis: str
    y_axis: str
    series: Annotated[tuple[Series, ...], Field(strict=False)]


# Qwen3-VL gives corners as left, top, right, bottom, in thousandths of the picture's width and height.
BOX_SCALE: Final = 1000
Corners = Annotated[
    tuple[Annotated[int, Field(ge=0, le=BOX_SCALE)], ...], Field(strict=False, min_length=4, max_length=4)
]


class Box(Data):
    bbox_2d: Corners
    label: str


class Boxes(RootModel[Annotated[tuple[Box, ...], Field(strict=False)]]):
    """As the model writes them."""


class FoundBox(Box):
    """Left, top, right, bottom: `bbox_2d` in thousandths, `bbox_pixels` in pixels of the picture as sent, upright."""

    bbox_pixels: Annotated[tuple[int, ...], Field(min_length=4, max_length=4)]


class FoundBoxes(RootModel[tuple[FoundBox, ...]]):
    """What was found, each thing with its box."""


class Statement(Data):
    """What is said of a document, and the pages it stands on."""

    text: str
    pages: Annotated[tuple[int, ...], Field(strict=False, min_length=1)]


class Statements(Data):
    statements: Annotated[tuple[Statement, ...], Field(strict=False, min_length=1)]


Kind = type[BaseModel]


class Untitled(GenerateJsonSchema):
    """Without titles, which only repeat the names."""

    def field_title_should_be_set(self, schema: Any) -> bool:
        return False


@cache
def schema_text(kind: Kind) -> str:
    """The JSON schema of what the model writes, as text."""
    return json.dumps(kind.model_json_schema(schema_generator=Untitled))


def fits(kind: Kind, value: object) -> bool:
    """Whether a parsed JSON value is of this kind."""
    try:
        kind.model_validate(value)
    except ValidationError:
        return False
    return True
