"""Reads a multipart form into the body of a chat request and its pictures, in memory. Knows no connection, no model.

The only door to python-multipart. Its own parser is driven here, not Starlette's form: that one writes files to disk.
"""

from __future__ import annotations

import asyncio
import base64
import re
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from python_multipart.exceptions import FormParserError
from python_multipart.multipart import MultipartParser, parse_options_header

from sightline import wire, wire_parts
from sightline.errors import ContentTooLarge, InvalidDocument, InvalidRequest, InvalidVideo, UnknownImageFormat
from sightline.server.inline import BEGINNINGS
from sightline.strict_json import read_json, shown
from sightline.types import Medium

MAX_PARTS = 1000
MAX_TEXT_BYTES = 1 << 20  # of a part that is no picture; longer than any context
# The parser goes byte by byte through what looks like a boundary: at worst 4 ms for a slice, 0.1 ms for pictures.
SLICE_BYTES = 16 << 10
PIECE_BYTES = 1 << 20  # of an upload, written at once
FILE_FIELDS: Mapping[str, tuple[Medium, type[InvalidRequest]]] = {  # with the error for what is no such file
    "image": ("image", UnknownImageFormat),
    "file": ("document", InvalidDocument),
    "video": ("video", InvalidVideo),
}
PAGE_FIELDS = tuple(wire_parts.PageChoice.model_fields)
CLIP_FIELDS = tuple(name for name in wire_parts.VideoWishes.model_fields if name not in wire_parts.Pixels.model_fields)
# Python's requests gives texts in `files` a filename too.
KNOWN_FIELDS = ("prompt", *PAGE_FIELDS, *CLIP_FIELDS, *wire.ChatRequest.model_fields)
NAME = re.compile(r"[^\x00-\x1f]{1,255}")  # no file of ours is so short and all text
# These are what they say; all other fields are JSON: 0.7, true, {"type": …}.
TEXT_FIELDS = ("model", "stop", "pages", "password")


@dataclass(slots=True)
class Part:
    """One part of a form. `filename` is None for plain fields; browsers send "" when no file was chosen."""

    name: str = ""
    filename: str | None = None
    data: bytearray = field(default_factory=bytearray)


async def read_form(chunks: AsyncIterator[bytes], content_type: str) -> tuple[Part, ...]:
    """The parts of the form, in their order. Raises InvalidRequest with code `invalid_form`, or ContentTooLarge."""
    reader = _Reader(content_type)
    async for chunk in chunks:
        for start in range(0, len(chunk), SLICE_BYTES):
            reader.feed(chunk[start : start + SLICE_BYTES])
            await asyncio.sleep(0)  # the event loop serves others between slices
    return reader.end()


async def read_upload(
    chunks: AsyncIterator[bytes], content_type: str, keep: Callable[[bytes], Awaitable[None]]
) -> tuple[Part, ...]:
    """As `read_form`, but what the field `file` holds goes to `keep`, piece by piece, and not into memory."""
    reader, held = _Reader(content_type), bytearray()
    async for chunk in chunks:
        for start in range(0, len(chunk), SLICE_BYTES):
            reader.feed(chunk[start : start + SLICE_BYTES])
            held += reader.take("file")
            if len(held) >= PIECE_BYTES:
                await keep(bytes(held))
                held.clear()
            await asyncio.sleep(0)
    parts = reader.end()
    await keep(bytes(held))
    return parts


def chat_body(parts: Sequence[Part]) -> tuple[dict[str, object], tuple[bytes, ...]]:
    """The body that `wire.parse_chat` takes, and the encoded pictures. Empty fields count as not sent.

    Documents and clips stand in the body, each with the fields of the form that are for its kind. Raises InvalidRequest
    for a form without a prompt or a file, and for what has no place in it.
    """
    fields: dict[str, str] = {}
    files: dict[str, list[bytes]] = {name: [] for name in FILE_FIELDS}
    for part in parts:
        if part.name in FILE_FIELDS:
            files[part.name] += [_file(part)] if part.data or part.filename else []
            continue
        if part.filename is not None and part.name not in KNOWN_FIELDS:
            raise InvalidRequest(
                f"the form has a file in the field {shown(part.name)}; files belong into 'image', 'file' or 'video'",
                param=part.name,
            )
        if part.name in fields:
            raise InvalidRequest(f"the form has the field {shown(part.name)} twice; send it once", param=part.name)
        fields[part.name] = _text(part)
    if "messages" in fields:
        raise InvalidRequest(
            "a form has no 'messages'; send 'prompt' and 'image', or the whole conversation as application/json",
            param="messages",
        )
    prompt = fields.pop("prompt", "")
    if not prompt.strip():
        raise InvalidRequest("prompt is empty; send the question in the form field 'prompt'", param="prompt")
    if not any(files.values()):
        raise InvalidRequest(
            "the form has no picture; send a file in the field 'image', a PDF in 'file' or a clip in 'video', or ask "
            "as application/json without one",
            param="image",
        )
    body: dict[str, object] = {name: _value(name, text) for name, text in fields.items() if text}
    pages, clip = _taken(body, PAGE_FIELDS, "file", files), _taken(body, CLIP_FIELDS, "video", files)
    wire.check_fields(wire_parts.PageChoice, pages)  # here they are the form's own fields, in the body a part's
    wire.check_fields(wire_parts.VideoWishes, clip)
    content = [
        *({"type": "file", "file": {"file_data": _text_of(data)}, **pages} for data in files["file"]),
        *({"type": "video_url", "video_url": {"url": _text_of(data)}, **clip} for data in files["video"]),
        {"type": "text", "text": prompt},
    ]
    return body | {"messages": [{"role": "user", "content": content}]}, tuple(files["image"])


def _file(part: Part) -> bytes:
    """The bytes of a file. Raises for its name in their place, which is what curl sends without an @."""
    try:
        name = NAME.fullmatch(part.data.decode()) if part.filename is None else None
    except UnicodeDecodeError:
        name = None
    if name:
        medium, error = FILE_FIELDS[part.name]
        raise error(
            f"{BEGINNINGS[medium]}: the form field {part.name!r} is the text {shown(name[0])}, not a file; with curl, "
            f"send a file as {part.name}=@{name[0][:80]}",
            param=part.name,
        )
    return bytes(part.data)


def _taken(
    body: dict[str, object], names: Sequence[str], of: str, files: Mapping[str, Sequence[bytes]]
) -> dict[str, object]:
    """The fields of these names, out of the body; they are for the files in the field `of`."""
    taken = {name: body.pop(name) for name in names if name in body}
    for name in taken:
        if not files[of]:
            raise InvalidRequest(
                f"{name!r} is for files in the field {of!r}, and the form has none; leave it out", param=name
            )
    return taken


def _text_of(data: bytes) -> str:
    return base64.b64encode(data).decode()


def _text(part: Part) -> str:
    try:
        return part.data.decode()
    except UnicodeDecodeError:
        raise InvalidRequest(f"the form field {shown(part.name)} is not valid UTF-8 text", param=part.name) from None


def _value(name: str, text: str) -> object:
    """What the text of a field stands for. Text that is not JSON stays text, for `parse_chat` to refuse by name."""
    if name in TEXT_FIELDS:
        return text
    if text in ("True", "False"):  # Python's form libraries write a bool so
        return text == "True"
    try:
        return read_json(text.encode())
    except InvalidRequest:
        return text


class _Reader:
    """Puts parts together from the parser's calls."""

    def __init__(self, content_type: str):
        boundary = parse_options_header(content_type)[1].get(b"boundary")
        if not boundary:
            raise _unreadable("its content type names no boundary; let the client library set the content type")
        callbacks: Any = {
            "on_part_begin": self._begin,
            "on_part_data": self._data,
            "on_header_field": self._header_name,
            "on_header_value": self._header_value,
            "on_header_end": self._header_end,
            "on_headers_finished": self._headers_end,
            "on_end": self._end,
        }
        try:
            self._parser = MultipartParser(boundary, callbacks)
        except FormParserError:
            length = len(boundary)
            raise _unreadable(f"its boundary has {length} bytes, too many; let the client library set it") from None
        self._parts: list[Part] = []
        self._header = (b"", b"")
        self._disposition = ""
        self._ended = False

    def feed(self, data: bytes) -> None:
        try:
            self._parser.write(data)
        except FormParserError as error:
            headers = "header count" in str(error) or "header size" in str(error)
            garbled = "it is not divided as its boundary says; let an HTTP library write it"
            raise _unreadable("a part has too many or too long headers" if headers else garbled) from None

    def end(self) -> tuple[Part, ...]:
        if not self._ended:
            raise _unreadable("it ends before its closing boundary")
        return tuple(self._parts)

    def take(self, name: str) -> bytes:
        """What has come of the parts of this name since it was asked last; taken out of them."""
        found = [part for part in self._parts if part.name == name]
        piece = b"".join(bytes(part.data) for part in found)
        for part in found:
            part.data.clear()
        return piece

    def _begin(self) -> None:
        if len(self._parts) == MAX_PARTS:
            raise _unreadable(f"it has more than {MAX_PARTS} parts")
        self._parts.append(Part())
        self._disposition = ""

    def _header_name(self, data: bytes, start: int, end: int) -> None:
        name, value = self._header
        self._header = (name + data[start:end], value)

    def _header_value(self, data: bytes, start: int, end: int) -> None:
        name, value = self._header
        self._header = (name, value + data[start:end])

    def _header_end(self) -> None:
        name, value = self._header
        if name.lower() == b"content-disposition":
            self._disposition = value.decode("latin-1")
        self._header = (b"", b"")

    def _headers_end(self) -> None:
        kind, options = parse_options_header(self._disposition)
        name = options.get(b"name")
        if kind != b"form-data" or not name:
            raise _unreadable(f"part {len(self._parts)} does not say its name in a Content-Disposition header")
        part = self._parts[-1]
        part.name = name.decode(errors="replace")
        filename = options.get(b"filename")
        part.filename = None if filename is None else filename.decode(errors="replace")

    def _data(self, data: bytes, start: int, end: int) -> None:
        part = self._parts[-1]
        part.data += data[start:end]
        if part.name not in FILE_FIELDS and len(part.data) > MAX_TEXT_BYTES:
            raise ContentTooLarge(
                f"the form field {shown(part.name)} has more than {MAX_TEXT_BYTES} bytes, the limit; shorten it",
                param=part.name,
            )

    def _end(self) -> None:
        self._ended = True


def _unreadable(reason: str) -> InvalidRequest:
    return InvalidRequest(f"Invalid request format: the body is not a multipart form: {reason}", code="invalid_form")
