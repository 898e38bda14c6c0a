"""The values a request is made of, once it has left JSON behind. Knows no HTTP, no arrays, no files."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

Role = Literal["system", "user", "assistant", "tool"]
FinishReason = Literal["stop", "length", "tool_calls"]
Precision = Literal["exact", "int8", "int4"]
Medium = Literal["image", "video", "document"]
Lane = Literal["interactive", "bulk"]  # somebody sits and waits, or nobody does
Stage = Literal["decoding", "queued", "looking", "reading", "answering"]


@dataclass(frozen=True, slots=True)
class Text:
    """A piece of text inside a message."""

    text: str


@dataclass(frozen=True, slots=True)
class Image:
    """An encoded picture (JPEG, PNG, WebP, BMP, GIF, HEIC) as the caller sent it, with the sizes it asked for.

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
    """An encoded clip (MP4, MOV, WebM, MKV, GIF) as the caller sent it, or its `frames` as encoded pictures.

    `fps` and `num_frames` say how many frames the model shall see, `start` and `end` (seconds) from where; for `frames`
    `fps` says how far apart they are. The pixel counts are those of one frame. `param` as for pictures.
    """

    data: bytes = field(default=b"", repr=False)
    frames: tuple[bytes, ...] = field(default=(), repr=False)
    fps: float | None = None
    num_frames: int | None = None
    start: float | None = None
    end: float | None = None
    min_pixels: int | None = None
    max_pixels: int | None = None
    param: str | None = None


@dataclass(frozen=True, slots=True)
class Document:
    """A PDF as the caller sent it: each page it names becomes a picture.

    `pages` is a list of numbers and ranges ("1-3,7"), None for all; `dpi` None is the server's. The pixel counts are
    those of one page. `param` as for pictures.
    """

    data: bytes = field(repr=False)
    pages: str | None = None
    dpi: int | None = None
    password: str | None = field(default=None, repr=False)
    min_pixels: int | None = None
    max_pixels: int | None = None
    param: str | None = None


@dataclass(frozen=True, slots=True)
class Page:
    """One page of a document, counted from 1."""

    document: Document
    number: int


Part = Text | Image | Video | Document | Page


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
    """What the answer must look like: any JSON object, or JSON that satisfies `schema` (JSON text).

    `param` says where in the request the schema stood, for error messages ("options.schema").
    """

    schema: str | None = None
    param: str | None = field(default=None, compare=False)


@dataclass(frozen=True, slots=True)
class Calls:
    """What the answer must look like: tool calls. `functions` are names with the schema of the arguments (JSON text).

    `needed` False lets text stand before the calls or instead of them; `several` allows more than one. `param` as for
    `Grammar`.
    """

    functions: tuple[tuple[str, str], ...]
    needed: bool
    several: bool
    param: str | None = field(default=None, compare=False)


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
    encoded_patches: int = 0  # the same of clips, by their temporal patches
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
class Progress:
    """Where an answer is. `decoding`: its pictures are being decoded, it has no place in the queue yet.

    `place`: how many requests in the queue are ahead of it. `wait_s`: expected seconds until its first token when no
    cache helps, None while nobody has measured what that takes. `done` of `total`: pictures while `looking`, tokens
    of the prompt while `reading`; 0 of 0 in the other stages. A prompt with several pictures goes to and fro between
    those two.
    """

    stage: Stage
    place: int = 0
    wait_s: float | None = None
    done: int = 0
    total: int = 0


@dataclass(frozen=True, slots=True)
class EngineStats:
    """A snapshot of the engine for metrics and tests. Blocks that are `kept` hold what a later request may share.

    `problem` is what the idle self-check found, None when all is accounted for.
    """

    running: int = 0
    waiting: int = 0  # interactive requests
    waiting_bulk: int = 0
    steps: int = 0
    preemptions: int = 0
    drafted: int = 0  # tokens guessed and tried
    accepted: int = 0  # those of them that were right
    kv_blocks: int = 0
    kv_blocks_in_use: int = 0
    kv_blocks_kept: int = 0
    vision_cache_bytes: int = 0
    problem: str | None = None


@dataclass(frozen=True, slots=True)
class PageInfo:
    """What was done to a page before the model saw it. `turned`: degrees, counter-clockwise, to set a scan straight.

    `missing` letters came out blank: their font is neither in the document nor on this machine.
    """

    number: int
    turned: float = 0.0
    denoised: bool = False
    binarised: bool = False
    missing: int = 0


@dataclass(frozen=True, slots=True)
class PictureInfo:
    """What became of one picture: its own upright size and the size the model saw, in pixels (height, width).

    The own size of a document's `page` is the one at which it was drawn.
    """

    original: tuple[int, int]
    resized: tuple[int, int]
    tokens: int
    page: PageInfo | None = None


@dataclass(frozen=True, slots=True)
class VideoInfo:
    """What became of one clip: sizes of a frame as for pictures, the second of each frame the model saw, and the
    seconds it was told, one for each pair of them. `trimmed`: the rest was longer than the server reads."""

    original: tuple[int, int]
    resized: tuple[int, int]
    tokens: int
    times: tuple[float, ...]
    timestamps: tuple[float, ...]
    trimmed: bool


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
    videos: tuple[VideoInfo, ...] = ()
