"""The worker program for pictures: decodes one untrusted picture at a time. Knows Pillow; no pipes, no requests.

`confined.py` runs it. No numpy is imported here: the process is ready in 0.1 s and holds 20 MB.
"""

from __future__ import annotations

import io
from collections import deque
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Final

# Image.open registers a parser by importing its module; without these lines it would import all of them.
import PIL.BmpImagePlugin
import PIL.GifImagePlugin
import PIL.Image
import PIL.JpegImagePlugin
import PIL.MpoImagePlugin  # JPEG files with a second picture inside, from phones
import PIL.PngImagePlugin
import PIL.TiffImagePlugin  # reads EXIF blocks; TIFF files are refused
import PIL.WebPImagePlugin

from sightline.errors import DamagedImage, ImageTooLarge, UnknownImageFormat, UnsupportedImage
from sightline.media.images import ResizeRule, fit

UNREADABLE: Final = "Invalid image data: cannot decode image"
SUPPORTED: Final = "send JPEG, PNG, WebP, BMP, GIF or HEIC"
ELSEWHERE: Final = {  # what has a place of its own: in a chat, in a task
    "a video": "not a picture; send it as a 'video_url' part, or in 'videos'",
    "a PDF": "not a picture; send it as a 'file' part, or in 'documents'",
}
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
BAND_COLUMNS: Final = 256
RESIZE_THREADS: Final = 2
LARGE_PIXELS: Final = 2_000_000  # below, threads would cost more than they save
# Bytes a pixel (measured) where a codec reports lack of memory as damage, so that memory must be reckoned beforehand.
WEBP_PIXEL_BYTES: Final = 19
PROGRESSIVE_PIXEL_BYTES: Final = 12
HEIC_PIXEL_BYTES: Final = 14

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
HEIC_BRANDS: Final = (b"heic", b"heix", b"heim", b"heis")  # still pictures in HEVC
OTHER_PICTURES: Final = (
    ("a TIFF file", 0, b"II*\0"),
    ("a TIFF file", 0, b"MM\0*"),
    ("a TIFF file", 0, b"II+\0"),
    ("an AVIF picture", 4, b"ftypavif"),
    ("an AVIF picture", 4, b"ftypavis"),
    ("a HEIF picture without HEVC", 4, b"ftypmif1"),
    ("a HEIF sequence", 4, b"ftyphevc"),
    ("a HEIF sequence", 4, b"ftypmsf1"),
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
)
OTHER_FILES: Final = (
    ("a video", 4, b"ftyp"),
    ("a video", 0, b"\x1aE\xdf\xa3"),
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

    Raises InvalidImage's kin for what is not a whole picture of an allowed format, and ImageTooLarge, before any pixel
    is decoded, when the header announces more than `max_pixels` or clearly more than `memory_bytes` has room for.
    MemoryError remains for what the header does not tell.
    """
    kind = _picture_format(data)
    if kind == "WebP":
        _checked_webp_size(data, max_pixels, memory_bytes)
    image: PIL.Image.Image = _opened(data, kind, max_pixels, memory_bytes)
    try:
        image.load()
    except MemoryError:
        raise
    except Exception as error:
        if "truncated" in str(error):
            raise DamagedImage(f"{UNREADABLE} (the {kind} ends too early; send the whole file)") from None
        raise DamagedImage(
            f"{UNREADABLE} (the {kind} is damaged or of a rare kind; save it again as JPEG or PNG)"
        ) from None
    turn = _turn(image)
    if turn is not None:
        image = image.transpose(turn)
    image = _rgb(image)
    height, width = fit(image.height, image.width, rule)
    return (image.height, image.width), _resized(image, width, height)


def measure(data: bytes, max_pixels: int, memory_bytes: int) -> tuple[int, int]:
    """The (height, width) that the header announces, not turned upright. Decodes nothing; raises as `decode`."""
    kind = _picture_format(data)
    if kind == "WebP":
        width, height = _checked_webp_size(data, max_pixels, memory_bytes)
    else:
        width, height = _opened(data, kind, max_pixels, memory_bytes).size
    return height, width


def _opened(data: bytes, kind: str, max_pixels: int, memory_bytes: int) -> PIL.Image.Image:
    """The picture with its header read and its size checked. Of a WebP this allocates the whole canvas."""
    if kind == "PNG" and b"IEND" not in data:  # Pillow is content once it has all pixels
        raise DamagedImage(f"{UNREADABLE} (the PNG ends too early; send the whole file)")
    try:
        image = PIL.Image.open(io.BytesIO(data), formats=("HEIF" if kind == "HEIC" else kind,))
    except MemoryError:
        raise
    except Exception:  # a parser of hostile bytes raises anything
        raise DamagedImage(f"{UNREADABLE} (the {kind} is damaged or cut off; send the whole file)") from None
    if kind == "HEIC":
        max_pixels = min(max_pixels, memory_bytes // HEIC_PIXEL_BYTES)
    if image.info.get("progressive"):
        max_pixels = min(max_pixels, memory_bytes // PROGRESSIVE_PIXEL_BYTES)
    _check_size(image.size, max_pixels)
    return image


def _picture_format(data: bytes) -> str:
    """The allowed format that the first bytes announce. Raises an error that names what they announce instead."""
    for kind, offset, magic in PICTURES:
        if data.startswith(magic, offset):
            return kind
    if _is_heic(data):
        _learn_heic()
        return "HEIC"
    for what, offset, magic in OTHER_PICTURES:
        if data.startswith(magic, offset):
            raise UnsupportedImage(f"{UNREADABLE} (this is {what}, which is not supported; {SUPPORTED})")
    for what, offset, magic in OTHER_FILES:
        if data.startswith(magic, offset):
            way_out = ELSEWHERE.get(what, f"which is not supported; {SUPPORTED}")
            raise UnknownImageFormat(f"{UNREADABLE} (this is {what}, {way_out})")
    start = data[:512].lstrip(b"\xef\xbb\xbf \t\r\n").lower()
    if b"<svg" in start:
        raise UnsupportedImage(f"{UNREADABLE} (this is an SVG drawing, which is not supported; {SUPPORTED})")
    if start.startswith((b"<!doctype html", b"<html")):
        raise UnknownImageFormat(f"{UNREADABLE} (this is an HTML page, maybe an error page; {SUPPORTED})")
    if start and all(9 <= byte < 127 for byte in start):
        raise UnknownImageFormat(f"{UNREADABLE} (this is text; {SUPPORTED})")
    raise UnknownImageFormat(f"{UNREADABLE} (the {len(data)} bytes do not start like a known picture; {SUPPORTED})")


def _is_heic(data: bytes) -> bool:
    """Whether the brands at the start of an ISO file say that it is a still picture in HEVC, and not in AV1."""
    if data[4:8] != b"ftyp" or data[8:12] in (b"avif", b"avis"):
        return False
    brands = data[8:12] + data[16 : min(int.from_bytes(data[:4], "big"), 256)]
    return any(brands[at : at + 4] in HEIC_BRANDS for at in range(0, len(brands), 4))


def _learn_heic() -> None:
    """Teach Pillow HEIC. Only when one comes: it costs 5 MB and 0.02 s, and most servers never see any."""
    import pi_heif

    pi_heif.register_heif_opener(thumbnails=False, depth_images=False, aux_images=False, decode_threads=1)


def _checked_webp_size(data: bytes, max_pixels: int, memory_bytes: int) -> tuple[int, int]:
    size = _webp_size(data)
    _check_size(size, min(max_pixels, memory_bytes // WEBP_PIXEL_BYTES))
    return size


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
        raise DamagedImage(f"{UNREADABLE} (its header says {width} pixels wide and {height} high; send the whole file)")
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


def _resized(image: PIL.Image.Image, width: int, height: int) -> PIL.Image.Image:
    """`image.resize`, bit for bit; a large picture in bands, which Pillow's order of passes allows for most shapes.

    It resizes along the rows and then along the columns, but begins with the columns (13.0 and later) where the height
    shrinks by more than twice as many pixels as the width; so tall a picture is left to it.
    """
    columns_first = image.height - height > max(0, 2 * (image.width - width))
    if not columns_first and image.width * image.height >= LARGE_PIXELS:
        try:
            return _resized_in_bands(image, width, height)
        except (MemoryError, RuntimeError):  # no room for two bands, or for the stack of a thread
            pass
    return image.resize((width, height), PIL.Image.Resampling.BICUBIC)


def _resized_in_bands(image: PIL.Image.Image, width: int, height: int) -> PIL.Image.Image:
    """Two bands at once: no row of the first pass, no column of the second knows of another."""
    narrowed = PIL.Image.new("RGB", (width, image.height))
    resized = PIL.Image.new("RGB", (width, height))

    def along_rows(top: int) -> None:
        band = image.crop((0, top, image.width, min(top + BAND_ROWS, image.height)))
        narrowed.paste(band.resize((width, band.height), PIL.Image.Resampling.BICUBIC), (0, top))

    def along_columns(left: int) -> None:
        band = narrowed.crop((left, 0, min(left + BAND_COLUMNS, width), image.height))
        resized.paste(band.resize((band.width, height), PIL.Image.Resampling.BICUBIC), (left, 0))

    with ThreadPoolExecutor(RESIZE_THREADS) as threads:
        deque(threads.map(along_rows, range(0, image.height, BAND_ROWS)), maxlen=0)
        deque(threads.map(along_columns, range(0, width, BAND_COLUMNS)), maxlen=0)
    return resized


def _on_white(image: PIL.Image.Image) -> PIL.Image.Image:
    # In bands: a whole picture would need three RGBA copies at once, 1.2 GB at the limit of 100 million pixels.
    width, height = image.size
    flat = PIL.Image.new("RGB", image.size)
    for top in range(0, height, BAND_ROWS):
        band = image.crop((0, top, width, min(top + BAND_ROWS, height))).convert("RGBA")
        white = PIL.Image.new("RGBA", band.size, (255, 255, 255, 255))
        flat.paste(PIL.Image.alpha_composite(white, band).convert("RGB"), (0, top))
    return flat


def answer(request: dict[str, Any], data: bytes, memory_bytes: int) -> Iterator[tuple[dict[str, object], bytes]]:
    """One message: the picture's own size, and its pixels at the size that the request's rule gives.

    Without a rule the size alone, from the header, not turned.
    """
    try:
        if request["rule"] is None:
            yield {"original": measure(data, request["max_pixels"], memory_bytes)}, b""
            return
        original, image = decode(data, ResizeRule(**request["rule"]), request["max_pixels"], memory_bytes)
        yield {"original": original}, image.tobytes()
    except MemoryError:
        raise ImageTooLarge(
            f"image needs more than {memory_bytes >> 20} MiB of memory to decode, the limit; scale it down"
        ) from None
