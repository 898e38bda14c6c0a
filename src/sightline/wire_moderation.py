"""The JSON of OpenAI's moderations. Knows no HTTP and no category by name."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import ConfigDict, Discriminator, Field, Tag, ValidationError

from sightline.errors import InvalidRequest, MissingField, UnsupportedField
from sightline.strict_json import shown
from sightline.wire import TextPart, Wire, field_path, field_refusal

MAX_INPUTS = 128


class _Sent(Wire):
    """Fields we do not know are refused by name."""

    model_config = ConfigDict(extra="forbid", populate_by_name=False)


class PictureUrl(_Sent):
    url: str


class PicturePart(_Sent):
    type: Literal["image_url"]
    image_url: PictureUrl


def _input_tag(value: object) -> str | None:
    if isinstance(value, list):
        return "<texts>" if all(isinstance(item, str) for item in value) else "<parts>"
    return "<text>" if isinstance(value, str) else None


def _part_tag(value: object) -> str | None:
    kind = value.get("type") if isinstance(value, dict) else None
    return f"<{kind}>" if kind in ("text", "image_url") else None


# Tags in angle brackets keep the branches of a union out of the paths in error messages; see `wire.field_path`.
Part = Annotated[
    Annotated[TextPart, Tag("<text>")] | Annotated[PicturePart, Tag("<image_url>")],
    Discriminator(
        _part_tag,
        custom_error_type="invalid_value",
        custom_error_message="a part of the input must be of type 'text' or 'image_url'",
    ),
]
Texts = Annotated[tuple[str, ...], Field(strict=False, min_length=1, max_length=MAX_INPUTS)]
Parts = Annotated[tuple[Part, ...], Field(strict=False, max_length=MAX_INPUTS)]
Input = Annotated[
    Annotated[str, Tag("<text>")] | Annotated[Texts, Tag("<texts>")] | Annotated[Parts, Tag("<parts>")],
    Discriminator(
        _input_tag,
        custom_error_type="invalid_value",
        custom_error_message="input must be a text, an array of texts, or an array of text and image_url parts",
    ),
]


class ModerationRequest(_Sent):
    """POST /v1/moderations: texts, each judged alone, or parts, judged together."""

    input: Input
    model: str | None = None


def parse_moderation(body: object) -> ModerationRequest:
    """A moderation request out of parsed JSON. Raises InvalidRequest, MissingField or UnsupportedField."""
    if not isinstance(body, dict):
        raise InvalidRequest(
            f"Invalid request format: the body is {shown(body)}; send a JSON object", code="invalid_json"
        )
    if body.get("input") is None:
        raise MissingField("'input' is missing; send a text, texts, or text and image_url parts", param="input")
    try:
        return ModerationRequest.model_validate(body)
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        param = field_path(first["loc"])
        if first["type"] == "extra_forbidden":
            raise UnsupportedField(f"'{param}' is not known here", param=param) from None
        raise field_refusal(first) from None


class Judged(Wire):
    """What was said about one input. Keys are OpenAI's categories."""

    flagged: bool
    categories: dict[str, bool]
    category_scores: dict[str, float]
    category_applied_input_types: dict[str, tuple[Literal["text", "image"], ...]]


class Moderation(Wire):
    id: str
    model: str
    results: tuple[Judged, ...]
