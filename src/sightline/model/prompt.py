"""Writes a conversation the way Qwen3-VL was trained to read it and turns it into token ids.

Knows no pixels, no HTTP and no Jinja: the family's two chat templates are written out here. Only this file may write
a control token; text that a caller sent stays text, whatever it looks like.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import tokenizers

from sightline.errors import CheckpointError, InvalidRequest
from sightline.types import Conversation, Image, Message, Page, Text, ToolCall

Style = Literal["instruct", "thinking"]
Kind = Literal["image", "video"]


@dataclass(frozen=True, slots=True)
class Plain:
    """Text that is encoded as text: the template's own words and everything a caller sent."""

    text: str


@dataclass(frozen=True, slots=True)
class Special:
    """A control token, by its name in the vocabulary."""

    token: str


@dataclass(frozen=True, slots=True)
class Vision:
    """The place of one picture or video. `index` counts all of them in the conversation, in the caller's order."""

    kind: Kind
    index: int


Piece = Plain | Special | Vision


@dataclass(frozen=True, slots=True)
class Moment:
    """A temporal patch of a video: the second it shows, and its visual tokens."""

    second: float
    tokens: int


@dataclass(frozen=True, slots=True)
class VisualSpan:
    """The `count` pad tokens, from position `start` on, that stand for picture `index`, or a moment of such a video."""

    start: int
    count: int
    index: int
    kind: Kind


@dataclass(frozen=True, slots=True, eq=False)
class EncodedPrompt:
    """A prompt as the language model takes it: int32 ids [T] and where the visual features go."""

    token_ids: npt.NDArray[np.int32]
    spans: tuple[VisualSpan, ...]


_VISION_START, _VISION_END = "<|vision_start|>", "<|vision_end|>"
_PAD: dict[Kind, str] = {"image": "<|image_pad|>", "video": "<|video_pad|>"}
_LABEL: dict[Kind, str] = {"image": "Picture", "video": "Video"}
_CONTROL = re.compile(r"(<\|im_start\|>|<\|im_end\|>|</?tool_call>|</?tool_response>|</?think>)")
# Inside Jinja quotes a newline is written as backslash and n; a real one means the same.
_THINKING_PROMPT = re.compile(r"<\|im_start\|>assistant(?:\\n|\n)<think>")

_TOOLS_BEFORE = (
    "# Tools\n\nYou may call one or more functions to assist with the user query.\n\n"
    "You are provided with function signatures within <tools></tools> XML tags:\n<tools>"
)
_TOOLS_AFTER = (
    "\n</tools>\n\nFor each function call, return a json object with function name and arguments "
    "within <tool_call></tool_call> XML tags:\n"
    '<tool_call>\n{"name": <function-name>, "arguments": <args-json-object>}\n</tool_call>'
)


def read_template(folder: Path) -> str | None:
    """The chat template a checkpoint ships, newest kind of file first; None when it has none.

    Raises CheckpointError for a template file that cannot be read.
    """
    jinja = folder / "chat_template.jinja"
    try:
        if jinja.is_file():
            return jinja.read_text(encoding="utf-8")
        for path in (folder / "chat_template.json", folder / "tokenizer_config.json"):
            if path.is_file() and (template := _template_in(path)) is not None:
                return template
    except (OSError, UnicodeDecodeError) as error:
        raise CheckpointError(f"the chat template in {folder} cannot be read: {error}; download it again") from error
    return None


def style_of(template: str) -> Style:
    """Which of the two templates a checkpoint's Jinja text is: the Thinking one opens every answer with `<think>`."""
    return "thinking" if _THINKING_PROMPT.search(template) else "instruct"


def render(
    conversation: Conversation, *, style: Style, generation_prompt: bool = True, vision_ids: bool = False
) -> tuple[Piece, ...]:
    """Write a conversation as the checkpoint's chat template does; adjacent texts come out as one `Plain`.

    Instruct drops later system messages and the pictures of system and assistant messages; Thinking keeps both and
    drops the reasoning of answers before the last question. `vision_ids` numbers the pictures ("Picture 1: ").
    """
    messages = conversation.messages
    contents = _contents(messages, style, vision_ids)
    has_system = bool(messages) and messages[0].role == "system"
    pieces = _system_turn(contents[0] if has_system else None, conversation.tools)
    query = _last_query(messages, contents)
    for position, (message, content) in enumerate(zip(messages, contents, strict=True)):
        if message.role == "user" or (message.role == "system" and position and style == "thinking"):
            pieces += [*_own(f"<|im_start|>{message.role}\n"), *content, *_own("<|im_end|>\n")]
        elif message.role == "assistant" and style == "instruct":
            pieces += _instruct_answer(message, content)
        elif message.role == "assistant":
            last = position == len(messages) - 1
            pieces += _thinking_answer(message, content, after_query=position > query, last=last)
        elif message.role == "tool":
            first = position == 0 or messages[position - 1].role != "tool"
            last = position == len(messages) - 1 or messages[position + 1].role != "tool"
            pieces += _own("<|im_start|>user\n<tool_response>\n" if first else "\n<tool_response>\n")
            pieces += [*content, *_own("\n</tool_response><|im_end|>\n" if last else "\n</tool_response>")]
    if generation_prompt:
        pieces += _own("<|im_start|>assistant\n<think>\n" if style == "thinking" else "<|im_start|>assistant\n")
    return tuple(_joined(pieces))


def text_of(pieces: Iterable[Piece]) -> str:
    """The pieces as one string, byte for byte what the checkpoint's own template gives."""
    return "".join(_text(piece) for piece in pieces)


def encode_pieces(
    pieces: Sequence[Piece], tokenizer: Tokenizer, visual_tokens: Sequence[int | Sequence[Moment]]
) -> EncodedPrompt:
    """Token ids of rendered pieces; visual `index` becomes `visual_tokens[index]` pads between its two markers.

    A video becomes that for each of its moments, with the timestamp before it. This is the layout of transformers 4.57,
    Qwen's own code; 5.x leaves one more pair of markers around the whole.
    """
    ids: list[int] = []
    spans: list[VisualSpan] = []
    counts = _counts(pieces, visual_tokens)
    laid_out = _joined(part for piece in pieces for part in _laid_out(piece, visual_tokens))
    for piece in laid_out:
        if isinstance(piece, Plain):
            ids += tokenizer.encode(piece.text)
        elif isinstance(piece, Special):
            ids.append(tokenizer.special(piece.token))
        else:
            count = next(counts)
            spans.append(VisualSpan(start=len(ids), count=count, index=piece.index, kind=piece.kind))
            ids += [tokenizer.special(_PAD[piece.kind])] * count
    return EncodedPrompt(np.array(ids, dtype=np.int32), tuple(spans))


def _laid_out(piece: Piece, visual_tokens: Sequence[int | Sequence[Moment]]) -> list[Piece]:
    """A picture between its markers, a video as its moments between theirs, anything else as it is."""
    if not isinstance(piece, Vision):
        return [piece]
    framed: list[Piece] = [Special(_VISION_START), piece, Special(_VISION_END)]
    visual = visual_tokens[piece.index]
    if isinstance(visual, int):
        return framed
    laid_out: list[Piece] = []
    for moment in visual:
        laid_out += [Plain(f"<{moment.second:.1f} seconds>"), *framed]
    return laid_out


def _counts(pieces: Sequence[Piece], visual_tokens: Sequence[int | Sequence[Moment]]) -> Iterator[int]:
    """How many pads each picture and moment has, in the order of the prompt."""
    for piece in pieces:
        if isinstance(piece, Vision):
            visual = visual_tokens[piece.index]
            yield from [visual] if isinstance(visual, int) else [moment.tokens for moment in visual]


class Tokenizer:
    """A checkpoint's byte-level BPE. Immutable once loaded: any thread may use it, several at a time.

    Ids of `size` and above have no token (the model's output has more rows than the vocabulary).
    """

    def __init__(self, definition: str) -> None:
        """From the text of a tokenizer.json; for any other text, raises whatever is wrong with it (see `load`)."""
        parsed: dict[str, Any] = json.loads(definition)
        self.definition = definition
        self._added: dict[str, int] = {token["content"]: token["id"] for token in parsed["added_tokens"]}
        self._names: dict[int, str] = {index: name for name, index in parsed["model"]["vocab"].items()}
        foreign = set().union(*self._names.values()) - _BYTE_OF.keys()
        if foreign:
            raise ValueError(f"its vocabulary is not byte-level (it has {min(foreign)!r})")
        self._verbatim: dict[int, bytes] = {
            token["id"]: b"" if token["special"] else token["content"].encode() for token in parsed["added_tokens"]
        }
        self.size = max((*self._names, *self._verbatim)) + 1
        # Without added tokens nothing in a text can match one; without the other three nothing is cut or added.
        bare = parsed | {"added_tokens": [], "truncation": None, "padding": None, "post_processor": None}
        self._bpe = tokenizers.Tokenizer.from_str(json.dumps(bare))

    @classmethod
    def load(cls, folder: Path) -> Tokenizer:
        """Read `tokenizer.json`. Raises CheckpointError when it is missing, cut off or not a byte-level tokenizer."""
        path = folder / "tokenizer.json"
        try:
            return cls(path.read_text(encoding="utf-8"))
        except FileNotFoundError as error:
            raise CheckpointError(f"{path} is missing; download the checkpoint's tokenizer.json") from error
        except Exception as error:  # the tokenizers library raises bare Exception
            raise CheckpointError(f"{path} is not a tokenizer we can use: {error!r}; download it again") from error

    def encode(self, text: str) -> list[int]:
        """Ids of plain text, brought to NFC first. What looks like a control token is spelled out as text.

        Raises InvalidRequest for half a surrogate pair, which JSON can carry and UTF-8 cannot.
        """
        try:
            text.encode()
        except UnicodeEncodeError as error:
            bad = ord(text[error.start])
            raise InvalidRequest(f"text contains the lone surrogate U+{bad:04X}; send well-formed Unicode") from error
        ids: list[int] = self._bpe.encode(text, add_special_tokens=False).ids
        return ids

    def special(self, token: str) -> int:
        """The id of an added token such as `<|im_end|>`. Raises CheckpointError when the tokenizer lacks it."""
        if token not in self._added:
            raise CheckpointError(f"tokenizer.json has no token {token!r}; use the tokenizer of a Qwen3-VL checkpoint")
        return self._added[token]

    def token_bytes(self, token_id: int) -> bytes:
        """What a token adds to an answer, perhaps half a character; nothing for control tokens and unused ids."""
        if token_id in self._verbatim:
            return self._verbatim[token_id]
        return bytes(_BYTE_OF[char] for char in self._names.get(token_id, ""))


def _template_in(path: Path) -> str | None:
    """The `chat_template` of a JSON file: a string, or the one named "default" in a list of named ones."""
    try:
        template = json.loads(path.read_text(encoding="utf-8")).get("chat_template")
        if isinstance(template, list):
            template = {entry["name"]: entry["template"] for entry in template}.get("default")
    except (ValueError, AttributeError, KeyError, TypeError) as error:
        raise CheckpointError(f"{path} is cut off or not a JSON object: {error!r}; download it again") from error
    if template is not None and not isinstance(template, str):
        raise CheckpointError(f"{path}: chat_template is a {type(template).__name__}, not a text; download it again")
    return template


def _contents(messages: Sequence[Message], style: Style, vision_ids: bool) -> list[list[Piece]]:
    """Each message's parts as this style shows them. Counts what it hides too, so that `index` stays the caller's."""
    contents: list[list[Piece]] = []
    index = 0
    seen: dict[Kind, int] = {"image": 0, "video": 0}
    for position, message in enumerate(messages):
        pieces: list[Piece] = []
        for part in message.parts:
            if isinstance(part, Text):
                pieces.append(Plain(part.text))
                continue
            kind: Kind = "image" if isinstance(part, Image | Page) else "video"
            if style == "thinking" or message.role in ("user", "tool"):
                seen[kind] += 1
                if vision_ids:
                    # The Thinking template writes the leading system message before it starts to count.
                    number = 0 if message.role == "system" and position == 0 else seen[kind]
                    pieces.append(Plain(f"{_LABEL[kind]} {number}: "))
                pieces.append(Vision(kind, index))
            index += 1
        contents.append(_joined(pieces))
    return contents


def _system_turn(content: Sequence[Piece] | None, tools: Sequence[str]) -> list[Piece]:
    """The leading turn: the system message, the tools, both, or nothing at all."""
    if content is None and not tools:
        return []
    pieces: list[Piece] = [*_own("<|im_start|>system\n"), *(content or ())]
    if tools:
        if content is not None:
            pieces += _own("\n\n")
        pieces += _own(_TOOLS_BEFORE)
        # The template's `tojson`: the caller's key order, no escapes, ", " and ": ".
        pieces += [Plain("\n" + json.dumps(json.loads(tool), ensure_ascii=False)) for tool in tools]
        pieces += _own(_TOOLS_AFTER)
    return [*pieces, *_own("<|im_end|>\n")]


def _last_query(messages: Sequence[Message], contents: Sequence[Sequence[Piece]]) -> int:
    """Position of the last user message that is a question and not a tool's result; the last message when none is."""
    for position in range(len(messages) - 1, -1, -1):
        if messages[position].role == "user":
            text = text_of(contents[position])
            if not (text.startswith("<tool_response>") and text.endswith("</tool_response>")):
                return position
    return len(messages) - 1


def _instruct_answer(message: Message, content: Sequence[Piece]) -> list[Piece]:
    # The template asks whether the message has content, not whether any of it is shown.
    has_content = message.parts not in ((), (Text(""),))
    calls = _calls(message.tool_calls, after_text=has_content)
    return [*_own("<|im_start|>assistant\n"), *content, *calls, *_own("<|im_end|>\n")]


def _thinking_answer(message: Message, content: list[Piece], *, after_query: bool, last: bool) -> list[Piece]:
    """An answer with its reasoning while it still serves the last question, without it afterwards."""
    if message.reasoning is None:
        reasoning, content = _split_reasoning(content)
    else:
        reasoning = [Plain(message.reasoning)]
    calls = _calls(message.tool_calls, after_text=bool(text_of(content)))
    if after_query and (last or text_of(reasoning)):
        thought = _right_trimmed(_left_trimmed(reasoning))
        content = [*_own("<think>\n"), *thought, *_own("\n</think>\n\n"), *_left_trimmed(content)]
    return [*_own("<|im_start|>assistant\n"), *content, *calls, *_own("<|im_end|>\n")]


def _split_reasoning(content: list[Piece]) -> tuple[list[Piece], list[Piece]]:
    """Reasoning and answer of a text that holds both: before the first `</think>`, and after the last."""
    closes = [at for at, piece in enumerate(content) if isinstance(piece, Plain) and "</think>" in piece.text]
    if not closes:
        return [], content
    before = _text(content[closes[0]]).partition("</think>")[0]
    after = _text(content[closes[-1]]).rpartition("</think>")[2]
    reasoning = [*content[: closes[0]], Plain(before)]
    opens = [at for at, piece in enumerate(reasoning) if isinstance(piece, Plain) and "<think>" in piece.text]
    if opens:
        reasoning = [Plain(_text(reasoning[opens[-1]]).rpartition("<think>")[2]), *reasoning[opens[-1] + 1 :]]
    answer = [Plain(after), *content[closes[-1] + 1 :]]
    return _right_trimmed(_left_trimmed(reasoning)), _left_trimmed(answer)


def _calls(calls: Sequence[ToolCall], *, after_text: bool) -> list[Piece]:
    pieces: list[Piece] = []
    for call in calls:
        opening = "\n<tool_call>\n" if pieces or after_text else "<tool_call>\n"
        written = Plain(f'{{"name": "{call.name}", "arguments": {call.arguments}}}')
        pieces += [*_own(opening), written, *_own("\n</tool_call>")]
    return pieces


def _own(text: str) -> list[Piece]:
    """The template's own words, in which control tokens are control tokens. Never for a caller's text."""
    return [Special(bit) if _CONTROL.fullmatch(bit) else Plain(bit) for bit in _CONTROL.split(text) if bit]


def _joined(pieces: Iterable[Piece]) -> list[Piece]:
    """Adjacent texts as one and empty ones gone: BPE may merge across the seam, as it does for the whole string."""
    joined: list[Piece] = []
    for plain, run in groupby(pieces, key=lambda piece: isinstance(piece, Plain)):
        if not plain:
            joined += run
        elif text := text_of(run):
            joined.append(Plain(text))
    return joined


def _left_trimmed(pieces: list[Piece]) -> list[Piece]:
    """Without the newlines it starts with."""
    if pieces and isinstance(pieces[0], Plain):
        return [Plain(pieces[0].text.lstrip("\n")), *pieces[1:]]
    return pieces


def _right_trimmed(pieces: list[Piece]) -> list[Piece]:
    """Without the newlines it ends with."""
    if pieces and isinstance(pieces[-1], Plain):
        return [*pieces[:-1], Plain(pieces[-1].text.rstrip("\n"))]
    return pieces


def _text(piece: Piece) -> str:
    if isinstance(piece, Plain):
        return piece.text
    if isinstance(piece, Special):
        return piece.token
    return f"{_VISION_START}{_PAD[piece.kind]}{_VISION_END}"


def _byte_alphabet() -> dict[str, int]:
    """GPT-2's characters for the 256 bytes: printable Latin-1 is itself, the rest follow from U+0100 on."""
    itself = {*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)}
    rest = [byte for byte in range(256) if byte not in itself]
    return {chr(byte): byte for byte in itself} | {chr(0x100 + n): byte for n, byte in enumerate(rest)}


_BYTE_OF = _byte_alphabet()
