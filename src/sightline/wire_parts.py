"""The JSON of a message's content: text, pictures, clips, documents, in any order. Knows no message and no answer."""

from __future__ import annotations

from typing import Annotated, Final, Literal, NoReturn

from pydantic import BaseModel, BeforeValidator, ConfigDict, Discriminator, Field, Tag, model_validator
from pydantic_core import PydanticCustomError

from sightline.strict_json import shown

PARTS = ("text", "image_url", "image", "video_url", "video", "file")
UNSUPPORTED_PARTS = ("input_audio", "audio", "audio_url", "image_embeds")
# Fields that say how a medium is to be seen, ours and those of other programs. Where they are not read they are
# refused, though other unknown fields are ignored: the answer would be about something else.
WISHES: Final = frozenset(
    (
        *("min_pixels", "max_pixels", "resized_height", "resized_width", "pages", "dpi", "password"),
        *("fps", "num_frames", "start", "end", "min_frames", "max_frames", "total_pixels", "sample_fps", "raw_fps"),
        *("nframes", "video_start", "video_end"),
    )
)
OUR_NAMES: Final = {"nframes": "num_frames", "video_start": "start", "video_end": "end"}  # of Qwen's own tools


class Wire(BaseModel):
    """Base of all bodies. Strict: "1" is not 1. Inside messages, fields we do not know are ignored."""

    model_config = ConfigDict(frozen=True, strict=True, extra="ignore", populate_by_name=True)


class Pixels(Wire):
    """Sizes asked for, in pixels. They may lower the model's own limits, never raise them."""

    min_pixels: int | None = Field(None, ge=1)
    max_pixels: int | None = Field(None, ge=1)


class PictureSizes(Pixels):
    resized_height: int | None = Field(None, ge=1)
    resized_width: int | None = Field(None, ge=1)


class TextPart(Wire):
    type: Literal["text"]
    text: str


class OfMedium(Wire):
    """A part that is no text, or the object in it that holds the medium. Refuses the wishes that it does not read."""

    @model_validator(mode="before")
    @classmethod
    def _known_wishes(cls, value: object) -> object:
        if not isinstance(value, dict):
            holds = next(iter(cls.model_fields))
            raise PydanticCustomError("invalid_value", f'{shown(value)} is no object; send {{"{holds}": …}}')
        for name in sorted(WISHES.intersection(value) - cls.model_fields.keys()):
            if value[name] is not None:
                raise PydanticCustomError("unsupported_parameter", cls._way_out(name))
        return value

    @classmethod
    def _way_out(cls, name: str) -> str:
        """What to do about a wish that is not read here."""
        if OUR_NAMES.get(name) in cls.model_fields:
            return f"'{name}' is not read; here it is called '{OUR_NAMES[name]}'"
        if "type" not in cls.model_fields:
            return f"'{name}' is not read inside this object; such fields stand beside the part's 'type'"
        known = ", ".join(sorted(WISHES & cls.model_fields.keys()))
        return f"'{name}' is not read in a part of this type; known are {known}"


class ImageUrl(OfMedium):
    url: str
    detail: Literal["auto", "low", "high"] | None = None


class ImageUrlPart(OfMedium, PictureSizes):
    type: Literal["image_url"]
    image_url: ImageUrl


class ImagePart(OfMedium, PictureSizes):
    """The form of Qwen's own examples."""

    type: Literal["image"]
    image: str


class PageChoice(Wire):
    """Which pages of a PDF, as "1-3,7", at how many dots per inch, and the password of an encrypted one."""

    pages: str | None = Field(None, max_length=1000)
    dpi: int | None = Field(None, ge=18, le=1200)
    password: str | None = Field(None, max_length=127)


class FileContent(OfMedium):
    """`file_id` is OpenAI's word for a file that was uploaded before; it is refused by name."""

    file_data: str | None = None
    filename: str | None = None
    file_id: str | None = None


class FilePart(OfMedium, PageChoice, Pixels):
    type: Literal["file"]
    file: FileContent


class VideoWishes(Pixels):
    """How many frames of a clip the model shall see, and from where; `start` and `end` in seconds."""

    fps: float | None = Field(None, gt=0)
    num_frames: int | None = Field(None, ge=1)
    start: float | None = Field(None, ge=0)
    end: float | None = Field(None, gt=0)


class VideoUrl(OfMedium):
    url: str


class VideoUrlPart(OfMedium, VideoWishes):
    type: Literal["video_url"]
    video_url: VideoUrl


def _content_tag(value: object) -> str | None:
    return "<string>" if isinstance(value, str) else "<array>" if isinstance(value, list) else None


Frames = Annotated[tuple[str, ...], Field(strict=False)]
FileOrFrames = Annotated[
    Annotated[str, Tag("<string>")] | Annotated[Frames, Tag("<array>")],
    Discriminator(
        _content_tag,
        custom_error_type="invalid_value",
        custom_error_message="a video must be a string, or an array of frames",
    ),
]


class VideoPart(OfMedium, VideoWishes):
    """The form of Qwen's own examples: a file, or its frames as pictures."""

    type: Literal["video"]
    video: FileOrFrames


def _refuse_part(value: object) -> NoReturn:
    if not isinstance(value, dict):
        raise PydanticCustomError("invalid_value", "a content part must be an object with a 'type'")
    kind = value.get("type")
    if kind in UNSUPPORTED_PARTS:
        raise PydanticCustomError("unsupported_parameter", f"content parts of type '{kind}' are not supported yet")
    raise PydanticCustomError(
        "invalid_value", f"content part has type {shown(kind)}; known are {', '.join(map(repr, PARTS))}"
    )


def _part_tag(value: object) -> str:
    kind = value.get("type") if isinstance(value, dict) else None
    return f"<{kind}>" if kind in PARTS else "<other>"


# Tags in angle brackets keep the branches of a union out of the paths in error messages; see `field_path`.
Part = Annotated[
    Annotated[TextPart, Tag("<text>")]
    | Annotated[ImageUrlPart, Tag("<image_url>")]
    | Annotated[ImagePart, Tag("<image>")]
    | Annotated[FilePart, Tag("<file>")]
    | Annotated[VideoUrlPart, Tag("<video_url>")]
    | Annotated[VideoPart, Tag("<video>")]
    | Annotated[TextPart, BeforeValidator(_refuse_part), Tag("<other>")],
    Discriminator(_part_tag),
]
# JSON has lists only, so a list is what a tuple field takes; the items stay strict.
Parts = Annotated[tuple[Part, ...], Field(strict=False, max_length=1000)]
Content = Annotated[
    Annotated[str, Tag("<string>")] | Annotated[Parts, Tag("<array>")],
    Discriminator(
        _content_tag,
        custom_error_type="invalid_value",
        custom_error_message="content must be a string or array",
    ),
]
