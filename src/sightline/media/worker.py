"""Decodes one untrusted picture after another inside a process with few rights. Knows pipes and Pillow; no requests.

`sandbox.py` starts it and says there what travels over the pipes. Pillow is imported here and nowhere else, and the
process imports no numpy: it is ready in 0.1 s and holds 20 MB.
"""

from __future__ import annotations

import ctypes
import io
import json
import os
import resource
import signal
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, BinaryIO, Final

# Image.open registers a parser by importing its module; without these lines it would import all of them.
import PIL.BmpImagePlugin
import PIL.GifImagePlugin
import PIL.Image
import PIL.JpegImagePlugin
import PIL.MpoImagePlugin  # JPEG files with a second picture inside, from phones
import PIL.PngImagePlugin
import PIL.TiffImagePlugin  # reads EXIF blocks; TIFF files are refused
import PIL.WebPImagePlugin

from sightline.errors import ImageTooLarge, InvalidImage, InvalidRequest
from sightline.media.images import ResizeRule, fit

READY: Final = b"R"  # written once, when requests are welcome
UNREADABLE: Final = "Invalid image data: cannot decode image"
SUPPORTED: Final = "send JPEG, PNG, WebP, BMP or GIF"
ORIENTATION: Final = 0x0112  # EXIF tag
UPRIGHT: Final = {
    2: PIL.Image.Transpose.FLIP_LEFT_RIGHT,
    3: PIL.Image.Transpose.ROTATE_180,
    4: PIL.Image.Transpose.FLIP_TOP_BOTTOM,
    5: PIL.Image.Transpose.TRANSPOSE,
    6: PIL.Image.Transpose.ROTATE_270,
    7: PIL.Image.Transpose.TRANSVERSE,
    8: PIL.Image.Transpose.ROTATE_90,
}
BAND_ROWS: Final = 256
# Bytes a pixel (measured) where a codec reports lack of memory as damage, so that memory must be reckoned beforehand.
WEBP_PIXEL_BYTES: Final = 19
PROGRESSIVE_PIXEL_BYTES: Final = 12

# Pillow's own guard knows two fixed sizes and does not name them; `decode` checks the caller's limit instead.
PIL.Image.MAX_IMAGE_PIXELS = None

# (format, offset, bytes found there); the first match decides, and no parser but that one ever runs.
PICTURES: Final = (
    ("JPEG", 0, b"\xff\xd8\xff"),
    ("PNG", 0, b"\x89PNG\r\n\x1a\n"),
    ("GIF", 0, b"GIF87a"),
    ("GIF", 0, b"GIF89a"),
    ("WebP", 8, b"WEBP"),
    ("BMP", 0, b"BM"),
)
OTHERS: Final = (
    ("a TIFF file", 0, b"II*\0"),
    ("a TIFF file", 0, b"MM\0*"),
    ("a TIFF file", 0, b"II+\0"),
    ("an AVIF picture", 4, b"ftypavif"),
    ("an AVIF picture", 4, b"ftypavis"),
    ("a HEIC picture", 4, b"ftyphe"),
    ("a HEIC picture", 4, b"ftypmif1"),
    ("a HEIC picture", 4, b"ftypmsf1"),
    ("a video", 4, b"ftyp"),
    ("a video", 0, b"\x1aE\xdf\xa3"),
    ("a JPEG 2000 picture", 4, b"jP  \r\n"),
    ("a JPEG 2000 picture", 0, b"\xff\x4f\xff\x51"),
    ("a JPEG XL picture", 0, b"\xff\x0a"),
    ("a JPEG XL picture", 4, b"JXL \r\n"),
    ("a Photoshop file", 0, b"8BPS"),
    ("an icon file", 0, b"\0\0\1\0"),
    ("a PostScript file", 0, b"%!PS"),
    ("a PostScript file", 0, b"\xc5\xd0\xd3\xc6"),
    ("a Windows metafile", 0, b"\xd7\xcd\xc6\x9a"),
    ("a Windows metafile", 40, b" EMF"),
    ("a FITS file", 0, b"SIMPLE  ="),
    ("an old Office or FlashPix file", 0, b"\xd0\xcf\x11\xe0"),
    ("a PDF", 0, b"%PDF"),
    ("a ZIP archive or Office file", 0, b"PK\3\4"),
    ("a gzip archive", 0, b"\x1f\x8b"),
    ("a program", 0, b"\x7fELF"),
    ("a program", 0, b"MZ"),
)


def decode(
    data: bytes, rule: ResizeRule, max_pixels: int, memory_bytes: int
) -> tuple[tuple[int, int], PIL.Image.Image]:
    """The upright picture's own (height, width), and its RGB pixels at the size `fit` gives.

    Transparent parts are laid on white, of an animation the first frame is taken. From there on the pixels are those of
    transformers 5.23's Pillow backend, bit for bit; greyscale of 16 bits is the exception, which it clips to white.

    Raises InvalidImage for what is not a whole picture of an allowed format, and ImageTooLarge, before any pixel is
    decoded, when the header announces more than `max_pixels` or clearly more than `memory_bytes` has room for.
    MemoryError remains for what the header does not tell.
    """
    kind = _picture_format(data)
    if kind == "WebP":  # opening it allocates the whole canvas
        max_pixels = min(max_pixels, memory_bytes // WEBP_PIXEL_BYTES)
        _check_size(_webp_size(data), max_pixels)
    if kind == "PNG" and b"IEND" not in data:  # Pillow is content once it has all pixels
        raise InvalidImage(f"{UNREADABLE} (the PNG ends too early; send the whole file)")
    try:
        image: PIL.Image.Image = PIL.Image.open(io.BytesIO(data), formats=(kind,))
    except MemoryError:
        raise
    except Exception:  # a parser of hostile bytes raises anything
        raise InvalidImage(f"{UNREADABLE} (the {kind} is damaged or cut off; send the whole file)") from None
    if image.info.get("progressive"):
        max_pixels = min(max_pixels, memory_bytes // PROGRESSIVE_PIXEL_BYTES)
    _check_size(image.size, max_pixels)
    try:
        image.load()
    except MemoryError:
        raise
    except Exception as error:
        if "truncated" in str(error):
            raise InvalidImage(f"{UNREADABLE} (the {kind} ends too early; send the whole file)") from None
        raise InvalidImage(
            f"{UNREADABLE} (the {kind} is damaged or of a rare kind; save it again as JPEG or PNG)"
        ) from None
    turn = _turn(image)
    if turn is not None:
        image = image.transpose(turn)
    image = _rgb(image)
    height, width = fit(image.height, image.width, rule)
    return (image.height, image.width), image.resize((width, height), PIL.Image.Resampling.BICUBIC)


def _picture_format(data: bytes) -> str:
    """The allowed format that the first bytes announce. Raises InvalidImage naming what they announce instead."""
    for kind, offset, magic in PICTURES:
        if data.startswith(magic, offset):
            return kind
    for what, offset, magic in OTHERS:
        if data.startswith(magic, offset):
            raise InvalidImage(f"{UNREADABLE} (this is {what}, which is not supported; {SUPPORTED})")
    start = data[:512].lstrip(b"\xef\xbb\xbf \t\r\n").lower()
    if b"<svg" in start:
        raise InvalidImage(f"{UNREADABLE} (this is an SVG drawing, which is not supported; {SUPPORTED})")
    if start.startswith((b"<!doctype html", b"<html")):
        raise InvalidImage(f"{UNREADABLE} (this is an HTML page, maybe an error page; {SUPPORTED})")
    if start and all(9 <= byte < 127 for byte in start):
        raise InvalidImage(f"{UNREADABLE} (this is text; {SUPPORTED})")
    raise InvalidImage(f"{UNREADABLE} (the {len(data)} bytes do not start like a known picture; {SUPPORTED})")


def _webp_size(data: bytes) -> tuple[int, int]:
    """Canvas (width, height) from the first chunk of a WebP file."""
    chunk, body = data[12:16], data[20:30]
    if chunk == b"VP8X":
        return int.from_bytes(body[4:7], "little") + 1, int.from_bytes(body[7:10], "little") + 1
    if chunk == b"VP8L":
        bits = int.from_bytes(body[1:5], "little")
        return (bits & 0x3FFF) + 1, (bits >> 14 & 0x3FFF) + 1
    return int.from_bytes(body[6:8], "little") & 0x3FFF, int.from_bytes(body[8:10], "little") & 0x3FFF


def _check_size(size: tuple[int, int], max_pixels: int) -> None:
    width, height = size
    if width < 1 or height < 1:
        raise InvalidImage(f"{UNREADABLE} (its header says {width} pixels wide and {height} high; send the whole file)")
    if width * height > max_pixels:
        raise ImageTooLarge(
            f"image is {width} pixels wide and {height} high, {width * height} in all; "
            f"the limit is {max_pixels}, scale it down"
        )


def _turn(image: PIL.Image.Image) -> PIL.Image.Transpose | None:
    """What brings the picture upright, by its EXIF (or, in a PNG, XMP) orientation."""
    try:
        return UPRIGHT.get(image.getexif()[ORIENTATION])
    except MemoryError:
        raise
    except Exception:  # no orientation, or a broken EXIF block, which is no reason to refuse a whole picture
        return None


def _rgb(image: PIL.Image.Image) -> PIL.Image.Image:
    """The picture as RGB, transparent parts on white."""
    if image.mode == "I;16":
        # Pillow's own conversion clips at 255 and turns such a picture white; the high byte is what it means.
        return image.point(lambda value: value * (1 / 256)).convert("L").convert("RGB")
    if "A" in image.getbands() or image.info.get("transparency") is not None:
        return _on_white(image)
    return image if image.mode == "RGB" else image.convert("RGB")


def _on_white(image: PIL.Image.Image) -> PIL.Image.Image:
    # In bands: a whole picture would need three RGBA copies at once, 1.2 GB at the limit of 100 million pixels.
    width, height = image.size
    flat = PIL.Image.new("RGB", image.size)
    for top in range(0, height, BAND_ROWS):
        band = image.crop((0, top, width, min(top + BAND_ROWS, height))).convert("RGBA")
        white = PIL.Image.new("RGBA", band.size, (255, 255, 255, 255))
        flat.paste(PIL.Image.alpha_composite(white, band).convert("RGB"), (0, top))
    return flat


def main(memory_bytes: int, parent: int) -> None:
    """Answer requests from standard input until it ends. `memory_bytes` comes on top of what the process has now."""
    _give_up_rights(memory_bytes, parent)
    source, sink = os.fdopen(0, "rb"), os.fdopen(1, "wb")
    sink.write(READY)
    sink.flush()
    while length := int.from_bytes(source.read(4), "big"):
        request = json.loads(source.read(length))
        header, pixels = _answer(request, source, memory_bytes)
        text = json.dumps(header).encode()
        sink.write(len(text).to_bytes(4, "big") + text)
        sink.write(pixels)
        sink.flush()


def _answer(request: dict[str, Any], source: BinaryIO, memory_bytes: int) -> tuple[dict[str, Any], bytes]:
    cpu_s = int(time.process_time() + request["timeout_s"]) + 2
    resource.setrlimit(resource.RLIMIT_CPU, (cpu_s, resource.RLIM_INFINITY))
    data = source.read(request["bytes"])
    try:
        original, image = decode(data, ResizeRule(**request["rule"]), request["max_pixels"], memory_bytes)
        return {"original": original}, image.tobytes()
    except InvalidRequest as error:
        return {"error": type(error).__name__, "message": error.message}, b""
    except MemoryError:
        message = f"image needs more than {memory_bytes >> 20} MiB of memory to decode, the limit; scale it down"
        return {"error": "ImageTooLarge", "message": message}, b""


def _give_up_rights(memory_bytes: int, parent: int) -> None:
    """No files, no core dumps, a memory limit, and no life beyond the parent's."""
    prctl: Callable[..., int] | None = getattr(ctypes.CDLL(None), "prctl", None)  # Linux only
    if prctl:
        prctl(1, signal.SIGKILL)  # PR_SET_PDEATHSIG
    if os.getppid() != parent:  # it died before the line above
        sys.exit(0)
    in_use = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize() if prctl else 256 << 20
    for limit, value in (
        (resource.RLIMIT_AS, in_use + memory_bytes),
        (resource.RLIMIT_NOFILE, 8),  # pipes, and a late import of Pillow's
        (resource.RLIMIT_FSIZE, 0),
        (resource.RLIMIT_CORE, 0),
    ):
        resource.setrlimit(limit, (value, value))
