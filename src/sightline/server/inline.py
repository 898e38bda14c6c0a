"""Takes the bytes of a medium out of the text that stands for it in JSON. Knows base64; never what is inside."""

from __future__ import annotations

import base64
import re
from collections.abc import Mapping
from typing import Protocol

from sightline.errors import (
    EmptyImage,
    InvalidBase64,
    InvalidDocument,
    InvalidMediaUrl,
    InvalidRequest,
    InvalidVideo,
    RemoteMediaDisabled,
)
from sightline.strict_json import shown
from sightline.types import Medium

# Spaces and line breaks are taken out first: the `base64` command wraps its lines.
BLANKS = re.compile(r"[ \t\r\n]")
FILE_NAME = re.compile(r"\.(jpe?g|png|webp|bmp|gif|heic|mp4|webm|mov|mkv|pdf)$", re.IGNORECASE)
OTHER_CHARACTER = re.compile(r"[^A-Za-z0-9+/=]|=(?==*[^=])")
PATH = re.compile(r"(\.{0,2}/|~|\\|[A-Za-z]:[\\/])")

BEGINNINGS: Mapping[Medium, str] = {
    "image": "Invalid image data: cannot decode image",
    "video": "Invalid video data: cannot decode video",
    "document": "Invalid document data: cannot read document",
}
SAMPLES: Mapping[Medium, str] = {
    "image": "data:image/jpeg;base64,…",
    "video": "data:video/mp4;base64,…",
    "document": "data:application/pdf;base64,…",
}
UNREADABLE: Mapping[Medium, type[InvalidRequest]] = {
    "image": InvalidBase64,
    "video": InvalidVideo,
    "document": InvalidDocument,
}
EMPTY: Mapping[Medium, type[InvalidRequest]] = {**UNREADABLE, "image": EmptyImage}


class Read(Protocol):
    """Gives the bytes that a text in a request stands for; raises an InvalidRequest that names `param`."""

    def __call__(self, text: str, param: str, medium: Medium = "image") -> bytes: ...


def is_address(text: str) -> bool:
    """Whether the text is the address of a medium on the web, not the medium."""
    return text[:16].lstrip().lower().startswith(("http:", "https:"))


def inline_bytes(text: str, param: str, medium: Medium = "image") -> bytes:
    """The bytes of a base64 data URL, or of bare base64: people forget the prefix.

    The MIME type is not read; what the bytes are shows when they are decoded. Raises RemoteMediaDisabled for http(s)
    addresses, InvalidMediaUrl for others and for file names, and the medium's own error for what is no base64.
    """
    if is_address(text):
        raise RemoteMediaDisabled(
            f"{param}: this server does not fetch media by URL; send the {medium} itself, as {SAMPLES[medium]}, in "
            "place of the address (the operator can allow hosts with SIGHTLINE_MEDIA_HOSTS)",
            param=param,
        )
    data = _base64_text(text, param, medium)
    if BLANKS.search(data):
        data = BLANKS.sub("", data)
    if not data:
        raise _refusal(EMPTY, "it is empty", param, medium)
    try:
        return base64.b64decode(data, validate=True)
    except ValueError:
        if PATH.match(text):  # only now: base64 of a JPEG begins with a slash
            raise _no_file(param, medium) from None
        way_out = f"send the file's bytes as base64, best as {SAMPLES[medium]}"
        raise _refusal(UNREADABLE, f"it is not base64 ({_flaw(data)}); {way_out}", param, medium) from None


def _flaw(data: str) -> str:
    """What keeps a text without blanks from being base64."""
    other = OTHER_CHARACTER.search(data)
    if other:
        return f"character {other.start() + 1} is {shown(other[0])}"
    if len(data) % 4:
        return f"its {len(data)} characters are not whole groups of four; the end may be missing"
    return "its end has too many '='"


def _base64_text(text: str, param: str, medium: Medium) -> str:
    """What should be base64. Raises for a text that says itself that it is something else."""
    scheme, colon, _ = text[:64].partition(":")
    if not colon:
        if FILE_NAME.search(text[-6:]):
            raise _no_file(param, medium)
        return text
    if scheme.strip().lower() != "data":
        if PATH.match(text):
            raise _no_file(param, medium)
        raise InvalidMediaUrl(
            f"addresses of the kind {scheme.strip()[:20]!r} are not read; send the {medium} as {SAMPLES[medium]} "
            f"({param})",
            param=param,
            code=f"invalid_{medium}_url",
        )
    header, comma, data = text[len(scheme) + 1 :].partition(",")
    if not comma:
        raise _refusal(UNREADABLE, "the data URL has no comma before its data", param, medium)
    if not header.lower().endswith(";base64"):
        raise _refusal(UNREADABLE, "the data URL does not say ;base64; other encodings are not read", param, medium)
    return data


def _no_file(param: str, medium: Medium) -> InvalidMediaUrl:
    return InvalidMediaUrl(
        f"this looks like the name of a file, which the server cannot see; send the file itself, as {SAMPLES[medium]} "
        f"({param})",
        param=param,
        code=f"invalid_{medium}_url",
    )


def _refusal(kinds: Mapping[Medium, type[InvalidRequest]], reason: str, param: str, medium: Medium) -> InvalidRequest:
    return kinds[medium](f"{BEGINNINGS[medium]}: {reason} ({param})", param=param)
