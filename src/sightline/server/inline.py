"""Takes the bytes of a picture out of the text that stands for it in JSON. Knows base64; never what a picture is."""

from __future__ import annotations

import base64
import binascii
import re

from sightline.errors import InvalidImage, RemoteMediaDisabled

# Spaces and line breaks are taken out first: the `base64` command wraps its lines.
FILE_NAME = re.compile(r"\.(jpe?g|png|webp|bmp|gif)$", re.IGNORECASE)
BLANKS = re.compile(r"[ \t\r\n]")


def inline_bytes(text: str, param: str) -> bytes:
    """The bytes of a base64 data URL, or of bare base64: people forget the prefix.

    The MIME type is not read; what the bytes are shows when they are decoded. Raises RemoteMediaDisabled for http(s)
    addresses and InvalidImage for all else, naming `param`.
    """
    scheme, colon, rest = text.partition(":")
    scheme = scheme.strip().lower()
    if colon and scheme in ("http", "https"):
        raise RemoteMediaDisabled(
            f"{param}: this server does not fetch pictures by URL; send the picture itself, "
            "as data:image/jpeg;base64,… in place of the address",
            param=param,
        )
    if colon and scheme == "data":
        header, comma, text = rest.partition(",")
        if not comma:
            raise _undecodable("the data URL has no comma before its data", param)
        if not header.lower().endswith(";base64"):
            raise _undecodable("the data URL does not say ;base64; other encodings are not read", param)
    elif FILE_NAME.search(text[-5:]):
        raise _undecodable("this looks like a file name; send the file itself, as data:image/jpeg;base64,…", param)
    elif colon:
        raise _undecodable(f"addresses of the kind {scheme[:20]!r} are not read; send a data: URL with base64", param)
    if BLANKS.search(text):
        text = BLANKS.sub("", text)
    if not text:
        raise _undecodable("it is empty", param)
    try:
        return base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError) as error:  # ValueError: characters outside ASCII
        way_out = "send the file's bytes as base64, best as data:image/jpeg;base64,…"
        raise _undecodable(f"it is not base64 ({error}); {way_out}", param) from None


def _undecodable(reason: str, param: str) -> InvalidImage:
    return InvalidImage(f"Invalid image data: cannot decode image: {reason} ({param})", param=param)
