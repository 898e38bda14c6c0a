"""Promises about pixels: every kind of picture comes out as the reference sees it, and what is none is named."""

import asyncio
import hashlib
import json
import re
import struct
import zlib
from pathlib import Path

import numpy as np
import PIL.Image
import pytest

from media.pictures import encoded, pattern, png
from sightline.errors import ImageTooLarge, InvalidImage
from sightline.media import worker
from sightline.media.images import ResizeRule
from sightline.media.pictures import ImageWorkers
from sightline.settings import MediaSettings
from sightline.types import Image

FIXTURES = Path(__file__).parent / "fixtures"
CASES = json.loads((FIXTURES / "expected.json").read_text())
MODEL = ResizeRule(min_pixels=65_536, max_pixels=16_777_216)


@pytest.fixture(scope="module")
def workers():
    workers = ImageWorkers(MediaSettings(workers=1))
    yield workers
    workers.close()


def png_with_size(width: int, height: int) -> bytes:
    """A PNG whose header announces this size and whose pixels are missing."""

    def chunk(name: bytes, body: bytes) -> bytes:
        return struct.pack(">I", len(body)) + name + body + struct.pack(">I", zlib.crc32(name + body))

    header = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0))
    return b"\x89PNG\r\n\x1a\n" + header + chunk(b"IDAT", zlib.compress(bytes(100))) + chunk(b"IEND", b"")


@pytest.mark.row("I14", "I15")
@pytest.mark.parametrize("case", CASES, ids=lambda case: case.get("file") or "x".join(map(str, case["original"])))
def test_pixels_equal_those_of_the_reference(workers, case):
    data = (FIXTURES / case["file"]).read_bytes() if "file" in case else png(*case["original"])
    rule = ResizeRule(min_pixels=MODEL.min_pixels, max_pixels=case["max_pixels"])
    picture = workers.decode_now(Image(data), rule)
    assert picture.original == tuple(case["original"])
    assert list(picture.pixels.shape) == [*case["resized"], 3]
    assert hashlib.sha256(picture.pixels.tobytes()).hexdigest() == case["sha256"]


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.get("file") or "x".join(map(str, case["original"])))
def test_a_picture_is_measured_as_it_is_decoded(workers, case):
    data = (FIXTURES / case["file"]).read_bytes() if "file" in case else png(*case["original"])
    rule = ResizeRule(min_pixels=MODEL.min_pixels, max_pixels=case["max_pixels"])
    measured = asyncio.run(workers.measure(Image(data), rule))
    assert sorted(measured) == sorted(case["resized"])  # it is not turned upright


@pytest.mark.parametrize("size", [(1511, 2003), (4001, 517), (1448, 1440)], ids=str)
def test_a_large_picture_in_bands_is_the_one_resized_whole(workers, size):
    pixels = pattern(*size)
    seen = workers.decode_now(Image(png(*size)), ResizeRule(min_pixels=65_536, max_pixels=1024 * 768)).pixels
    height, width, _ = seen.shape
    whole = PIL.Image.fromarray(pixels).resize((width, height), PIL.Image.Resampling.BICUBIC)
    assert np.array_equal(seen, np.asarray(whole))


def test_greyscale_of_16_bits_keeps_its_high_byte(workers):
    grey = pattern(256, 320, 1)[..., 0]
    deep = PIL.Image.fromarray(grey.astype(np.uint16) * 256 + 77)
    picture = workers.decode_now(Image(encoded(deep)), MODEL)
    assert np.array_equal(picture.pixels, np.repeat(grey[..., None], 3, axis=2))


def test_transparent_parts_become_white_over_more_than_one_band(workers):
    half = pattern(640, 320, 4)
    half[:, :160, 3], half[:, 160:, 3] = 0, 255
    pixels = workers.decode_now(Image(encoded(PIL.Image.fromarray(half))), MODEL).pixels
    assert (pixels[:, :160] == 255).all()
    assert np.array_equal(pixels[:, 160:], half[:, 160:, :3])


def test_a_broken_exif_block_does_not_cost_the_picture(workers):
    data = encoded(PIL.Image.fromarray(pattern(256, 256)), exif=b"Exif\0\0II*\0\xff\xff\xff\xff broken")
    assert workers.decode_now(Image(data), MODEL).original == (256, 256)


@pytest.mark.parametrize("share", [0.1, 0.5, 0.99])
@pytest.mark.parametrize(
    "name", ["rgb.jpg", "progressive.jpg", "rgba.png", "lossy.webp", "lossless.webp", "rgb.bmp", "palette.gif"]
)
def test_a_truncated_file_is_refused(workers, name, share):
    data = (FIXTURES / name).read_bytes()
    with pytest.raises(InvalidImage) as caught:
        workers.decode_now(Image(data[: int(len(data) * share)], param="messages[0].content[1]"), MODEL)
    error = caught.value
    assert error.message.startswith("Invalid image data: cannot decode image (the ")
    assert error.message.endswith("send the whole file)")
    assert (error.status, error.error_code, error.param) == (400, "image_parse_error", "messages[0].content[1]")


def test_a_jpeg_that_stops_says_so(workers):
    data = (FIXTURES / "rgb.jpg").read_bytes()
    with pytest.raises(InvalidImage) as caught:
        workers.decode_now(Image(data[:-200]), MODEL)
    assert (
        caught.value.message == "Invalid image data: cannot decode image (the JPEG ends too early; send the whole file)"
    )


def test_damaged_pixels_are_refused(workers):
    data = bytearray(png(200, 300))
    data[len(data) // 2] ^= 0xFF
    with pytest.raises(InvalidImage, match=r"cannot decode image \(the PNG is damaged"):
        workers.decode_now(Image(bytes(data)), MODEL)


def test_an_empty_file_is_refused(workers):
    with pytest.raises(InvalidImage, match=r"cannot decode image \(it is empty, 0 bytes"):
        workers.decode_now(Image(b""), MODEL)


@pytest.mark.row("I05")
@pytest.mark.parametrize(
    ("data", "place"),
    [
        (b"%PDF-1.7\n", "a PDF, not a picture; send it as a 'file' part, or in 'documents'"),
        (b"\0\0\0\x18ftypmp42" + bytes(40), "a video, not a picture; send it as a 'video_url' part, or in 'videos'"),
    ],
)
def test_a_document_or_a_video_is_told_where_it_belongs(data: bytes, place: str):
    with pytest.raises(InvalidImage, match=re.escape(f"Invalid image data: cannot decode image (this is {place})")):
        worker.decode(data, MODEL, 10**8, 2**30)


@pytest.mark.row("I05", "I20")
@pytest.mark.parametrize(
    ("data", "what"),
    [
        (b"just some words", "text"),
        (b"  <!DOCTYPE html><html><body>404</body></html>", "an HTML page"),
        (b"<?xml version='1.0'?><!DOCTYPE svg [<!ENTITY x SYSTEM 'file:///x'>]><svg>&x;</svg>", "an SVG drawing"),
        (b"PK\3\4" + bytes(40), "a ZIP archive"),
        (b"\x7fELF" + bytes(40), "a program"),
        (encoded(PIL.Image.new("RGB", (8, 8)), "TIFF"), "a TIFF file"),
        (encoded(PIL.Image.new("RGB", (16, 16)), "ICO"), "an icon file"),
        (encoded(PIL.Image.new("RGB", (8, 8)), "EPS"), "a PostScript file"),
        (encoded(PIL.Image.new("RGB", (16, 16)), "JPEG2000"), "a JPEG 2000 picture"),
        (encoded(PIL.Image.new("RGB", (16, 16)), "AVIF"), "an AVIF picture"),
        (b"\0\0\0\x18ftypmif1\0\0\0\0mif1avif" + bytes(40), "a HEIF picture without HEVC"),
        (b"8BPS\0\1" + bytes(40), "a Photoshop file"),
        (b"\xd7\xcd\xc6\x9a" + bytes(40), "a Windows metafile"),
        (b"\xd0\xcf\x11\xe0" + bytes(40), "FlashPix"),
        (b"SIMPLE  =                    T", "a FITS file"),
        (bytes(100), "the 100 bytes do not start like a known picture"),
    ],
)
def test_another_kind_of_file_is_named_and_no_parser_sees_it(monkeypatch, data, what):
    monkeypatch.setattr(PIL.Image, "open", None)
    with pytest.raises(InvalidImage) as caught:
        worker.decode(data, MODEL, 10**8, 2**30)
    message = caught.value.message
    assert message.startswith("Invalid image data: cannot decode image (")
    assert what in message
    assert message.endswith("send JPEG, PNG, WebP, BMP, GIF or HEIC)")
    assert " at 0x" not in message


@pytest.mark.parametrize("size", [(1, 50_000), (50_000, 1), (52_800, 44)])
def test_a_very_thin_picture_is_refused_and_the_worker_lives(workers, size):
    with pytest.raises(InvalidImage, match="200 times"):
        workers.decode_now(Image(encoded(PIL.Image.new("L", size))), MODEL)
    assert workers.decode_now(Image(png(64, 64)), MODEL).original == (64, 64)


def test_too_many_pixels_are_refused_from_the_header(workers):
    with pytest.raises(ImageTooLarge) as caught:
        workers.decode_now(Image(png_with_size(60_000, 60_000), param="p"), MODEL)
    assert "60000 pixels wide and 60000 high, 3600000000 in all; the limit is 100000000" in caught.value.message
    assert (caught.value.status, caught.value.param) == (413, "p")


@pytest.mark.row("I08")
@pytest.mark.parametrize(
    "chunk",
    [
        b"VP8X\x0a\0\0\0\0\0\0\0\xff\x3f\0\xff\x3f\0",
        b"VP8L\x10\0\0\0\x2f" + (0x3FFF | 0x3FFF << 14).to_bytes(4, "little") + bytes(9),
        b"VP8 \x10\0\0\0\0\0\0\x9d\x01\x2a\xff\x3f\xff\x3f" + bytes(9),
    ],
    ids=["extended", "lossless", "lossy"],
)
def test_a_vast_webp_is_refused_before_its_canvas_is_allocated(monkeypatch, chunk):
    monkeypatch.setattr(PIL.Image, "open", None)
    with pytest.raises(ImageTooLarge, match=r"1638[34] pixels wide and 1638[34] high"):
        worker.decode(b"RIFF\xff\0\0\0WEBP" + chunk, MODEL, 10**8, 2**30)


def test_too_many_bytes_are_refused_unread():
    workers = ImageWorkers(MediaSettings(max_image_bytes=1000))
    with pytest.raises(ImageTooLarge, match="image is 1001 bytes, the limit is 1000") as caught:
        workers.decode_now(Image(bytes(1001), param="p"), MODEL)
    workers.close()
    assert (caught.value.status, caught.value.error_code, caught.value.param) == (413, "image_too_large", "p")


def test_a_longer_picture_comes_down_to_the_operator_s_side(workers):
    picture = workers.decode_now(Image(png(320, 4000)), MODEL)
    assert (picture.original, picture.pixels.shape) == ((320, 4000), (160, 1920, 3))


def test_a_random_flip_of_bits_gives_a_picture_or_a_client_s_error(workers):
    random = np.random.default_rng(7)
    for name in ("rgb.jpg", "palette_alphas.png", "alpha.webp", "palette.bmp", "transparent.gif"):
        for _ in range(12):
            data = bytearray((FIXTURES / name).read_bytes())
            for place in random.integers(0, len(data), 3):
                data[place] ^= 1 << random.integers(8)
            try:
                workers.decode_now(Image(bytes(data)), MODEL)
            except (InvalidImage, ImageTooLarge) as error:
                assert "0x" not in error.message
