"""The JSON of the OpenAI chat API: what we accept, what we refuse by name, what we answer. Knows no HTTP, no pixels."""

from __future__ import annotations

import difflib
import json
import re
from collections.abc import Mapping
from typing import Annotated, Any, Literal

from pydantic import (
    AfterValidator,
    BeforeValidator,
    Field,
    ValidationError,
    WithJsonSchema,
)
from pydantic_core import ErrorDetails, PydanticCustomError

from sightline.errors import InvalidRequest, MissingField, SightlineError, UnsupportedField
from sightline.strict_json import shown
from sightline.wire_parts import Content, PictureSizes
from sightline.wire_parts import PageChoice as PageChoice  # noqa: PLC0414
from sightline.wire_parts import TextPart as TextPart  # noqa: PLC0414
from sightline.wire_parts import Wire as Wire  # noqa: PLC0414

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
# Of other APIs, and of our own forms and tasks.
PARTS_OF_MESSAGES = ("prompt", "text", "image", "images", "video", "videos", "file", "documents")


# ---- the request


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
    include_progress: bool | None = None


# What the two validators below refuse, as the description of the API has it.
TOOL_SCHEMA = {
    "type": "object",
    "properties": {
        "type": {"const": "function"},
        "function": {
            "type": "object",
            "properties": {"name": {"type": "string", "pattern": r"^[A-Za-z0-9_.\-]{1,64}$"}},
            "required": ["name"],
        },
    },
    "required": ["type", "function"],
}
AnyNamedTool = Annotated[
    dict[str, Any],
    WithJsonSchema(
        {
            "type": "object",
            "properties": {
                "type": {"const": "function"},
                "function": {"type": "object", "properties": {"name": {"type": "string"}}, "required": ["name"]},
            },
            "required": ["type", "function"],
        }
    ),
]


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


def _stops(value: object) -> object:
    if not isinstance(value, str | list):
        raise PydanticCustomError("invalid_value", f"stop is {shown(value)}; send a string or an array of strings")
    return [value] if isinstance(value, str) else value


Penalty = Annotated[float, Field(ge=-2, le=2)]
StopString = Annotated[str, Field(min_length=1, max_length=256)]
SeveralStops = Annotated[tuple[StopString, ...], Field(strict=False, max_length=16)]
StopStrings = Annotated[SeveralStops, BeforeValidator(_stops, json_schema_input_type=StopString | SeveralStops)]
# A tool stays as it came, because the prompt shows it to the model as it came.
Tool = Annotated[dict[str, Any], AfterValidator(_tool), WithJsonSchema(TOOL_SCHEMA)]
TokenId = Annotated[str, WithJsonSchema({"type": "string", "pattern": "^[0-9]{1,9}$"})]
Biases = Annotated[
    dict[TokenId, Annotated[float, Field(ge=-100, le=100)]], AfterValidator(_bias), Field(max_length=1024)
]
ToolChoice = Annotated[
    Literal["none", "auto", "required"] | NamedTool | None,
    BeforeValidator(_tool_choice, json_schema_input_type=Literal["none", "auto", "required"] | AnyNamedTool | None),
]


class ChatRequest(PictureSizes):
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
    logit_bias: Biases | None = None
    logprobs: bool | None = None
    top_logprobs: int | None = Field(None, ge=0, le=20)
    response_format: ResponseFormat | None = None
    tools: Annotated[tuple[Tool, ...], Field(strict=False, max_length=128)] | None = None
    tool_choice: ToolChoice = None
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
    if body.get("messages") is None:
        raise MissingField("Invalid request format: missing 'messages' field", param="messages")
    for name in TEMPLATE_FIELDS:
        if body.get(name) is not None:
            raise InvalidRequest(
                f"'{name}' is not accepted: the chat template belongs to the model; send plain messages",
                param=name,
                code="template_not_allowed",
            )
    for name, harmless in UNSUPPORTED.items():
        if body.get(name) is not None and not _among(body[name], harmless):
            allowed = " or ".join(json.dumps(value) for value in harmless)
            way_out = f"leave it out or send {allowed}" if allowed else "leave it out"
            raise UnsupportedField(f"'{name}' is not supported; {way_out}", param=name)
    for name in body.keys() - ChatRequest.model_fields.keys() - UNSUPPORTED.keys() - HARMLESS:
        if body[name] is not None:
            near = difflib.get_close_matches(str(name)[:64], ChatRequest.model_fields, 1)
            way_out = f"did you mean '{near[0]}'?" if near else "leave it out"
            way_out = "it belongs into a message's content" if name in PARTS_OF_MESSAGES else way_out
            raise UnsupportedField(f"{shown(name)} is not a field we know; {way_out}", param=str(name)[:64])
    try:
        return ChatRequest.model_validate(body)
    except ValidationError as error:
        raise field_refusal(error.errors(include_url=False)[0]) from None


def check_fields(kind: type[Wire], fields: Mapping[str, object]) -> None:
    """Raise InvalidRequest for a field that a part of this kind would not take, by its own name."""
    try:
        kind.model_validate(fields)
    except ValidationError as error:
        raise field_refusal(error.errors(include_url=False)[0]) from None


def _among(value: object, known: tuple[object, ...]) -> bool:
    """Whether JSON calls the value equal to one of them. Python says that 1 is True."""
    return any(value == each and isinstance(value, bool) == isinstance(each, bool) for each in known)


def field_refusal(error: ErrorDetails) -> SightlineError:
    """What is wrong with one field, in JSON's words."""
    param, kind, message = field_path(error["loc"]), error["type"], error["msg"]
    if kind == "missing":
        return MissingField(f"'{param}' is missing; it is required", param=param)
    if kind in ("unsupported_parameter", "invalid_value"):
        refused = UnsupportedField if kind == "unsupported_parameter" else InvalidRequest
        return refused(message if message.startswith(param) else f"{message} ({param})", param=param)
    message = JSON_WORDS.get(kind, message[:1].lower() + message[1:])
    message = message.replace("tuple should", "array should").replace(" after validation", "")
    return InvalidRequest(f"{param} is {shown(error['input'])}: {message}", param=param)


def field_path(loc: tuple[int | str, ...]) -> str:
    """("messages", 0, "<array>", "text") -> "messages[0].text"."""
    steps = [f"[{step}]" if isinstance(step, int) else f".{step}" for step in loc if not str(step).startswith("<")]
    return "".join(steps).removeprefix(".")


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
    """A picture as the caller sent it, upright, and as the model saw it.

    The page of a document has its number too, what was done to it where it was cleaned, and how many letters came out
    blank because no font for them is at hand.
    """

    width: int
    height: int
    resized_width: int
    resized_height: int
    tokens: int
    page: int | None = None
    turned_degrees: float | None = None
    denoised: bool | None = None
    binarised: bool | None = None
    missing_letters: int | None = None


class Video(Wire):
    """A clip as the caller sent it, upright, and as the model saw it: `seconds` of its frames, and the `timestamps` it
    was told, one for two frames. There only when there are clips."""

    width: int
    height: int
    resized_width: int
    resized_height: int
    tokens: int
    frames: int
    seconds: tuple[float, ...]
    timestamps: tuple[float, ...]
    trimmed: bool


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
    videos: tuple[Video, ...] = ()


class Progress(Wire):
    """Where an answer is before its first token; types.Progress says what the fields mean."""

    stage: Literal["decoding", "queued", "looking", "reading", "answering"]
    place: int
    wait_s: float | None
    done: int
    total: int


class ProgressReport(Wire):
    """Our own addition to a stream that asked for it."""

    progress: Progress


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
    videos: tuple[Video, ...] = ()


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
    sightline: Report | ProgressReport | None = None


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
