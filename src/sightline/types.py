"""The values a request is made of, once it has left JSON behind. Knows no HTTP, no arrays, no files."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

Role = Literal["system", "user", "assistant", "tool"]
FinishReason = Literal["stop", "length", "tool_calls"]
Precision = Literal["exact", "int8", "int4"]


@dataclass(frozen=True, slots=True)
class Text:
    """A piece of text inside a message."""

    text: str


@dataclass(frozen=True, slots=True)
class Image:
    """An encoded picture (JPEG, PNG, WebP, BMP) as the caller sent it, with the sizes it asked for.

    `param` says where in the request it stood, for error messages ("messages[0].content[1]").
    """

    data: bytes = field(repr=False)
    min_pixels: int | None = None
    max_pixels: int | None = None
    resized_height: int | None = None
    resized_width: int | None = None
    param: str | None = None


@dataclass(frozen=True, slots=True)
class Video:
    """A place for a video in a message. Decoding comes with its own capability; rendering knows it already."""

    data: bytes = field(default=b"", repr=False)
    param: str | None = None


Part = Text | Image | Video


@dataclass(frozen=True, slots=True)
class ToolCall:
    """A function call the assistant made; `arguments` is the JSON text exactly as produced."""

    name: str
    arguments: str
    id: str | None = None


@dataclass(frozen=True, slots=True)
class Message:
    """One turn of a conversation, its parts in the caller's order."""

    role: Role
    parts: tuple[Part, ...] = ()
    tool_calls: tuple[ToolCall, ...] = ()
    reasoning: str | None = None


@dataclass(frozen=True, slots=True)
class Grammar:
    """What the answer must look like: any JSON object, or JSON that satisfies `schema` (JSON text)."""

    schema: str | None = None


@dataclass(frozen=True, slots=True)
class Calls:
    """What the answer must look like: tool calls. `functions` are names with the schema of the arguments (JSON text).

    `needed` False lets text stand before the calls or instead of them; `several` allows more than one.
    """

    functions: tuple[tuple[str, str], ...]
    needed: bool
    several: bool


@dataclass(frozen=True, slots=True)
class Sampling:
    """How the next token is chosen. `temperature` 0 is greedy; `seed` None draws a fresh one.

    `top_logprobs` None means: no log-probabilities at all; 0 means: only the chosen token's.
    """

    temperature: float = 0.7
    top_p: float = 1.0
    top_k: int = 0  # 0 = all
    min_p: float = 0.0
    presence_penalty: float = 0.0
    frequency_penalty: float = 0.0
    repetition_penalty: float = 1.0
    logit_bias: Mapping[int, float] = field(default_factory=dict)
    seed: int | None = None
    stop: tuple[str, ...] = ()
    max_tokens: int = 512
    top_logprobs: int | None = None
    grammar: Grammar | Calls | None = None
    ignore_eos: bool = False


@dataclass(frozen=True, slots=True)
class Conversation:
    """What the model is asked: the messages so far and, as JSON texts, the tools it may call.

    A conversation that is longer than the context loses its oldest turns, unless `may_drop_turns` is False.
    """

    messages: tuple[Message, ...]
    tools: tuple[str, ...] = ()
    may_drop_turns: bool = True


@dataclass(frozen=True, slots=True)
class TokenLogprob:
    """One generated token, its log-probability (natural log) and its best rivals, best first."""

    token: str
    utf8: bytes  # its own bytes, which may be part of a character
    logprob: float
    top: tuple[tuple[str, bytes, float], ...] = ()


@dataclass(frozen=True, slots=True)
class Usage:
    """What one answer cost. Times in milliseconds; `cached_tokens` were taken from the KV cache."""

    prompt_tokens: int = 0
    image_tokens: int = 0
    cached_tokens: int = 0
    completion_tokens: int = 0
    queue_ms: float = 0.0
    vision_ms: float = 0.0
    prefill_ms: float = 0.0
    decode_ms: float = 0.0
    encoded_images: int = 0  # pictures that went through the vision tower, not through its cache
    experts: float = 0.0  # mean number of distinct experts per MoE layer; 0 for dense models


@dataclass(frozen=True, slots=True)
class Delta:
    """What one step added to an answer. The last delta of a stream has `finish` and `usage`."""

    text: str = ""
    tokens: tuple[int, ...] = ()
    logprobs: tuple[TokenLogprob, ...] = ()
    finish: FinishReason | None = None
    usage: Usage | None = None


@dataclass(frozen=True, slots=True)
class PictureInfo:
    """What became of one picture: its own upright size and the size the model saw, in pixels (height, width)."""

    original: tuple[int, int]
    resized: tuple[int, int]
    tokens: int


@dataclass(frozen=True, slots=True)
class Estimate:
    """What answering a conversation would take, without answering it.

    `room`: tokens the answer could have. `first_token_s`: seconds from the beginning of the work to the first token
    when no cache helps, None while `unmeasured` says what was never measured. `peak_bytes`: memory of the whole
    process while it answers this alone, by formula.
    """

    prompt_tokens: int
    pictures: tuple[PictureInfo, ...]
    dropped_turns: int
    room: int
    first_token_s: float | None
    unmeasured: str | None
    peak_bytes: int
