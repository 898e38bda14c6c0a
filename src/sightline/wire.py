"""The JSON of the OpenAI chat API: what we accept, what we refuse by name, what we answer. Knows no HTTP, no pixels."""

from __future__ import annotations

import difflib
import json
import re
import reprlib
from collections import Counter
from collections.abc import Mapping
from typing import Annotated, Any, Literal, NoReturn

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Discriminator,
    Field,
    Tag,
    ValidationError,
)
from pydantic_core import ErrorDetails, PydanticCustomError

from sightline.errors import InvalidRequest, MissingField, SightlineError, UnsupportedField

MAX_DEPTH = 100
# Counted before parsing: each comma or bracket may become an object of 50 bytes and more. Base64 has none of them.
MAX_VALUES = 500_000

# Fields that would change the answer if we had them, with the values that change nothing. None is always accepted.
UNSUPPORTED: Mapping[str, tuple[object, ...]] = {
    "audio": (),
    "modalities": (["text"],),
    "prediction": (),
    "web_search_options": (),
    "functions": (),
    "function_call": (),
    "service_tier": ("auto", "default"),
    "reasoning_effort": (),
    "verbosity": ("medium",),
    "best_of": (1,),
    "echo": (False,),
    "use_beam_search": (False,),
    "length_penalty": (1.0,),
    "min_tokens": (0,),
    "stop_token_ids": ([],),
    "bad_words": ([],),
    "prompt_logprobs": (),
    "logits_processors": (),
    "guided_json": (),
    "guided_regex": (),
    "guided_choice": (),
    "guided_grammar": (),
    "structured_outputs": (),
    "mm_processor_kwargs": (),
    "continue_final_message": (False,),
    "add_generation_prompt": (True,),
}
# Fields that say nothing about the answer; every other unknown one is refused, because it may be a misspelt known one.
HARMLESS = frozenset(
    (
        "user",
        "metadata",
        "store",
        "safety_identifier",
        "prompt_cache_key",
        "prompt_cache_retention",
        "request_id",
        "priority",
    )
)
# What pydantic calls a tuple or a model is an array or an object to the caller.
JSON_WORDS: Mapping[str, str] = {
    "tuple_type": "input should be an array",
    "dict_type": "input should be an object",
    "model_type": "input should be an object",
}
TEMPLATE_FIELDS = ("chat_template", "chat_template_kwargs")
UNSUPPORTED_PARTS = ("video", "video_url", "file", "input_audio", "audio", "audio_url", "image_embeds")


class Wire(BaseModel):
    """Base of all bodies. Strict: "1" is not 1. Inside messages, fields we do not know are ignored."""

    model_config = ConfigDict(frozen=True, strict=True, extra="ignore", populate_by_name=True)


# ---- the request


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


class ImageUrl(Wire):
    url: str
    detail: Literal["auto", "low", "high"] | None = None


class ImageUrlPart(PictureSizes):
    type: Literal["image_url"]
    image_url: ImageUrl


class ImagePart(PictureSizes):
    """The form of Qwen's own examples."""

    type: Literal["image"]
    image: str


def _refuse_part(value: object) -> NoReturn:
    if not isinstance(value, dict):
        raise PydanticCustomError("invalid_value", "a content part must be an object with a 'type'")
    kind = value.get("type")
    if kind in UNSUPPORTED_PARTS:
        raise PydanticCustomError("unsupported_parameter", f"content parts of type '{kind}' are not supported yet")
    raise PydanticCustomError(
        "invalid_value", f"content part has type {shown(kind)}; known are 'text', 'image_url' and 'image'"
    )


def _part_tag(value: object) -> str:
    kind = value.get("type") if isinstance(value, dict) else None
    return f"<{kind}>" if kind in ("text", "image_url", "image") else "<other>"


def _content_tag(value: object) -> str | None:
    return "<string>" if isinstance(value, str) else "<array>" if isinstance(value, list) else None


# Tags in angle brackets keep the branches of a union out of the paths in error messages; see `field_path`.
Part = Annotated[
    Annotated[TextPart, Tag("<text>")]
    | Annotated[ImageUrlPart, Tag("<image_url>")]
    | Annotated[ImagePart, Tag("<image>")]
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


class CalledFunction(Wire):
    name: str = Field(min_length=1, max_length=256)
    arguments: str


class ToolCall(Wire):
    id: str | None = None
    type: Literal["function"] = "function"
    function: CalledFunction


class ChatMessage(Wire):
    role: Literal["system", "developer", "user", "assistant", "tool"]
    content: Content | None = None
    tool_calls: Annotated[tuple[ToolCall, ...], Field(strict=False, max_length=128)] | None = None
    tool_call_id: str | None = None
    reasoning_content: str | None = None


class JsonSchema(Wire):
    name: str | None = None
    body: dict[str, Any] = Field(alias="schema")


class ResponseFormat(Wire):
    type: Literal["text", "json_object", "json_schema"]
    json_schema: JsonSchema | None = None


class StreamOptions(Wire):
    include_usage: bool | None = None


def _tool(value: dict[str, Any]) -> dict[str, Any]:
    function = value.get("function")
    name = function.get("name") if isinstance(function, dict) else None
    if value.get("type") != "function" or not isinstance(name, str) or not re.fullmatch(r"[\w.-]{1,64}", name, re.A):
        raise PydanticCustomError(
            "invalid_value",
            'a tool must be {"type": "function", "function": {"name": …}}, the name 1 to 64 of letters, digits, "_.-"',
        )
    return value


class NamedTool(Wire):
    """The tool that must be called."""

    name: str


def _tool_choice(value: object) -> object:
    if value in (None, "none", "auto", "required"):
        return value
    function = value.get("function") if isinstance(value, dict) and value.get("type") == "function" else None
    if isinstance(function, dict) and isinstance(function.get("name"), str):
        return NamedTool(name=function["name"])
    raise PydanticCustomError(
        "invalid_value",
        f'tool_choice is {shown(value)}; send "none", "auto", "required" or '
        '{"type": "function", "function": {"name": …}}',
    )


def _bias(value: dict[str, float]) -> dict[str, float]:
    for token in value:
        if not re.fullmatch(r"[0-9]{1,9}", token):
            raise PydanticCustomError("invalid_value", f"logit_bias has the key {shown(token)}; keys are token ids")
    return value


Penalty = Annotated[float, Field(ge=-2, le=2)]
StopStrings = Annotated[
    tuple[Annotated[str, Field(min_length=1, max_length=256)], ...],
    BeforeValidator(lambda value: [value] if isinstance(value, str) else value),
    Field(strict=False, max_length=16),
]
# A tool stays as it came, because the prompt shows it to the model as it came.
Tool = Annotated[dict[str, Any], AfterValidator(_tool)]


class ChatRequest(Pixels):
    """POST /v1/chat/completions. None means: not given."""

    model: str | None = None
    messages: Annotated[tuple[ChatMessage, ...], Field(strict=False, min_length=1, max_length=2000)]
    temperature: float | None = Field(None, ge=0, le=2)
    max_tokens: int | None = Field(None, ge=1, lt=2**31)
    max_completion_tokens: int | None = Field(None, ge=1, lt=2**31)
    top_p: float | None = Field(None, ge=0, le=1)
    top_k: int | None = Field(None, ge=-1, lt=2**31)
    min_p: float | None = Field(None, ge=0, le=1)
    seed: int | None = Field(None, ge=-(2**63), lt=2**63)
    stop: StopStrings | None = None
    n: int | None = Field(None, ge=1, le=8)
    presence_penalty: Penalty | None = None
    frequency_penalty: Penalty | None = None
    repetition_penalty: float | None = Field(None, gt=0, le=2)
    logit_bias: Annotated[dict[str, Annotated[float, Field(ge=-100, le=100)]], AfterValidator(_bias)] | None = Field(
        None, max_length=1024
    )
    logprobs: bool | None = None
    top_logprobs: int | None = Field(None, ge=0, le=20)
    response_format: ResponseFormat | None = None
    tools: Annotated[tuple[Tool, ...], Field(strict=False, max_length=128)] | None = None
    tool_choice: Annotated[Literal["none", "auto", "required"] | NamedTool | None, BeforeValidator(_tool_choice)] = None
    parallel_tool_calls: bool | None = None
    stream: bool | None = None
    stream_options: StreamOptions | None = None
    ignore_eos: bool | None = None
    truncation: Literal["auto", "disabled"] | None = None


def parse_chat(body: object) -> ChatRequest:
    """A chat request out of parsed JSON. Raises InvalidRequest, MissingField or UnsupportedField naming the field."""
    if not isinstance(body, dict):
        raise InvalidRequest(
            f"Invalid request format: the body is {shown(body)}; send a JSON object", code="invalid_json"
        )
    for name in TEMPLATE_FIELDS:
        if body.get(name) is not None:
            raise InvalidRequest(
                f"'{name}' is not accepted: the chat template belongs to the model; send plain messages",
                param=name,
                code="template_not_allowed",
            )
    for name, harmless in UNSUPPORTED.items():
        if body.get(name) is not None and body[name] not in harmless:
            allowed = " or ".join(json.dumps(value) for value in harmless)
            way_out = f"leave it out or send {allowed}" if allowed else "leave it out"
            raise UnsupportedField(f"'{name}' is not supported; {way_out}", param=name)
    for name in body.keys() - ChatRequest.model_fields.keys() - UNSUPPORTED.keys() - HARMLESS:
        if body[name] is not None:
            near = difflib.get_close_matches(str(name)[:64], ChatRequest.model_fields, 1)
            way_out = f"did you mean '{near[0]}'?" if near else "leave it out"
            raise UnsupportedField(f"{shown(name)} is not a field we know; {way_out}", param=str(name)[:64])
    if body.get("messages") is None:
        raise MissingField("Invalid request format: missing 'messages' field", param="messages")
    try:
        return ChatRequest.model_validate(body)
    except ValidationError as error:
        raise field_refusal(error.errors(include_url=False)[0]) from None


def field_refusal(error: ErrorDetails) -> SightlineError:
    """What is wrong with one field, in JSON's words."""
    param, kind, message = field_path(error["loc"]), error["type"], error["msg"]
    if kind == "missing":
        return MissingField(f"'{param}' is missing; it is required", param=param)
    if kind == "unsupported_parameter":
        return UnsupportedField(f"{message} ({param})", param=param)
    if kind == "invalid_value":
        return InvalidRequest(f"{message} ({param})", param=param)
    message = JSON_WORDS.get(kind, message[:1].lower() + message[1:])
    message = message.replace("tuple should", "array should").replace(" after validation", "")
    return InvalidRequest(f"{param} is {shown(error['input'])}: {message}", param=param)


def field_path(loc: tuple[int | str, ...]) -> str:
    """("messages", 0, "<array>", "text") -> "messages[0].text"."""
    steps = [f"[{step}]" if isinstance(step, int) else f".{step}" for step in loc if not str(step).startswith("<")]
    return "".join(steps).removeprefix(".")


_SHORT = reprlib.Repr()
_SHORT.maxstring = 80


def shown(value: object) -> str:
    """A value as an error message shows it: JSON's words, and never long."""
    if value is None or isinstance(value, bool):
        return json.dumps(value)
    return _SHORT.repr(value)


# ---- strict JSON


def read_json(raw: bytes) -> object:
    """Strict JSON: UTF-8, no duplicate keys, no NaN or Infinity, nothing after the value, at most 100 levels deep.

    Raises InvalidRequest with code `invalid_json`.
    """
    if sum(raw.count(mark) for mark in (b",", b"[", b"{")) > MAX_VALUES:
        raise _bad_json(f"it has more than {MAX_VALUES} values")
    try:
        value = json.loads(
            raw.decode(), object_pairs_hook=_no_duplicates, parse_constant=_no_constant, parse_float=_finite
        )
        if re.search(rb"\\u[dD][89a-fA-F]", raw):  # half of a surrogate pair cannot be written as UTF-8
            json.dumps(value, ensure_ascii=False).encode()
    except json.JSONDecodeError as error:
        raise _bad_json(f"{error.msg} at line {error.lineno}, column {error.colno}") from None
    except UnicodeError:
        raise _bad_json("it is not valid UTF-8 text") from None
    except RecursionError:
        raise _bad_json(f"it is nested deeper than {MAX_DEPTH} levels") from None
    except ValueError:  # what is left: Python refuses integers of more than 4300 digits
        raise _bad_json("it has a number with too many digits") from None
    _limit_depth(value)
    return value


def _limit_depth(value: object) -> None:
    level = [value]
    for _ in range(MAX_DEPTH + 1):
        containers = [item for item in level if isinstance(item, dict | list)]
        level = [inner for item in containers for inner in (item.values() if isinstance(item, dict) else item)]
        if not containers:
            return
    raise _bad_json(f"it is nested deeper than {MAX_DEPTH} levels")


def _no_duplicates(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        twice, _ = Counter(name for name, _ in pairs).most_common(1)[0]
        raise _bad_json(f"the key {shown(twice)} stands twice in one object")
    return found


def _no_constant(name: str) -> NoReturn:
    raise _bad_json(f"{name} is not JSON")


def _finite(digits: str) -> float:
    number = float(digits)
    if number in (float("inf"), float("-inf")):
        raise _bad_json(f"the number {shown(digits)} is too large")
    return number


def _bad_json(reason: str) -> InvalidRequest:
    return InvalidRequest(f"Invalid request format: the body is not valid JSON: {reason}", code="invalid_json")


# ---- the answer. Dump with exclude_unset: what was set is sent, null included.


class PromptTokensDetails(Wire):
    cached_tokens: int
    image_tokens: int


class Usage(Wire):
    prompt_tokens: int
    completion_tokens: int
    total_tokens: int
    total_time_ms: int
    prompt_tokens_details: PromptTokensDetails


class Picture(Wire):
    """A picture as the caller sent it, upright, and as the model saw it."""

    width: int
    height: int
    resized_width: int
    resized_height: int
    tokens: int


class Report(Wire):
    """Our own addition to an answer: what it took."""

    model: str
    degraded: bool
    queue_ms: float
    vision_ms: float
    prefill_ms: float
    decode_ms: float
    images: tuple[Picture, ...]
    cached_images: int
    dropped_turns: int


class EstimatedPicture(Picture):
    resized: bool


class Estimate(Wire):
    """What a chat request would take; see docs/api.md."""

    object: Literal["estimate"]
    model: str
    prompt_tokens: int
    image_tokens: int
    max_tokens: int
    dropped_turns: int
    images: tuple[EstimatedPicture, ...]
    seconds_to_first_token: float | None
    unmeasured: str | None
    peak_memory_bytes: int


class RivalLogprob(Wire):
    token: str
    logprob: float
    bytes: tuple[int, ...]


class Logprob(RivalLogprob):
    top_logprobs: tuple[RivalLogprob, ...]


class Logprobs(Wire):
    content: tuple[Logprob, ...]
    refusal: None


class AnswerMessage(Wire):
    role: Literal["assistant"]
    content: str | None
    refusal: None
    tool_calls: tuple[ToolCall, ...] | None = None


class Choice(Wire):
    index: int
    message: AnswerMessage
    logprobs: Logprobs | None
    finish_reason: Literal["stop", "length", "tool_calls"]


class ChatCompletion(Wire):
    id: str
    object: Literal["chat.completion"]
    created: int
    model: str
    choices: tuple[Choice, ...]
    usage: Usage
    sightline: Report


class ChunkToolCall(ToolCall):
    """A call inside a stream; `index` is its place among the calls of the answer."""

    index: int


class ChunkDelta(Wire):
    role: Literal["assistant"] | None = None
    content: str | None = None
    tool_calls: tuple[ChunkToolCall, ...] | None = None


class ChunkChoice(Wire):
    index: int
    delta: ChunkDelta
    logprobs: Logprobs | None
    finish_reason: Literal["stop", "length", "tool_calls"] | None


class ChatChunk(Wire):
    id: str
    object: Literal["chat.completion.chunk"]
    created: int
    model: str
    choices: tuple[ChunkChoice, ...]
    usage: Usage | None = None
    sightline: Report | None = None


class Model(Wire):
    id: str
    object: Literal["model"]
    created: int
    owned_by: str
    max_model_len: int | None


class ModelList(Wire):
    object: Literal["list"]
    data: tuple[Model, ...]


class ErrorBody(Wire):
    message: str
    type: str
    param: str | None
    code: str | None


class ErrorEnvelope(Wire):
    error: ErrorBody


def envelope(error: SightlineError) -> ErrorEnvelope:
    """The error as it goes over the wire; its message is safe to send."""
    body = ErrorBody(message=error.message, type=error.type, param=error.param, code=error.error_code)
    return ErrorEnvelope(error=body)
