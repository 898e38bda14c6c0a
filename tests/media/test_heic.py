"""Promises about HEIC: pictures of phones come out upright, bounded, and only they wake its decoder."""

import numpy as np
import pytest

from media.heic import heic
from media.pictures import turned
from sightline.errors import DamagedImage, ImageTooLarge, UnsupportedImage
from sightline.media.images import ResizeRule
from sightline.media.pictures import ImageWorkers
from sightline.settings import MediaSettings
from sightline.types import Image

MODEL = ResizeRule(min_pixels=65_536, max_pixels=16_777_216)


@pytest.fixture(scope="module")
def workers():
    workers = ImageWorkers(MediaSettings(workers=1))
    yield workers
    workers.close()


def corner() -> np.ndarray:
    """256 x 320 pixels, dark but for a light corner at the top left, in a blue that is no grey."""
    pixels = np.zeros((256, 320, 3), np.uint8)
    pixels[:64, :64] = (60, 120, 240)
    return pixels


@pytest.mark.parametrize(
    ("quarter_turns", "size", "light"),
    [(0, (256, 320), (9, 9)), (1, (320, 256), (-9, 9)), (2, (256, 320), (-9, -9)), (3, (320, 256), (9, -9))],
)
def test_a_picture_comes_out_upright_and_in_its_colours(workers, quarter_turns, size, light):
    picture = workers.decode_now(Image(heic(corner(), quarter_turns)), MODEL)
    assert picture.original == size
    assert picture.pixels[light].tolist() == pytest.approx([60, 120, 240], abs=6)
    assert np.count_nonzero(picture.pixels.max(axis=2) > 128) == pytest.approx(64 * 64, rel=0.05)


def test_the_turn_in_the_exif_block_which_phones_write_too_is_not_made_twice(workers):
    exif = turned(6).tobytes().removeprefix(b"Exif\0\0")
    picture = workers.decode_now(Image(heic(corner(), 3, exif)), MODEL)
    assert picture.original == (320, 256)
    assert picture.pixels[9, -9].tolist() == pytest.approx([60, 120, 240], abs=6)


def test_a_size_in_the_header_is_checked_before_anything_is_decoded(workers):
    with pytest.raises(ImageTooLarge, match="20000 pixels wide and 20000 high"):
        workers.decode_now(Image(heic(corner(), size=(20_000, 20_000))), MODEL)


def test_a_header_that_is_not_true_is_damage(workers):
    with pytest.raises(DamagedImage, match="the HEIC is damaged"):
        workers.decode_now(Image(heic(corner(), size=(64, 64))), MODEL)


@pytest.mark.parametrize("share", [0.3, 0.99])
def test_a_file_that_is_cut_off_is_refused(workers, share):
    data = heic(np.random.default_rng(0).integers(0, 256, (256, 320, 3), dtype=np.uint8))
    with pytest.raises(DamagedImage, match="the HEIC is damaged"):
        workers.decode_now(Image(data[: int(len(data) * share)]), MODEL)


def test_a_picture_too_large_for_the_memory_is_not_called_damaged():
    small = ImageWorkers(MediaSettings(workers=1, worker_memory_bytes=16 << 20))
    with pytest.raises(ImageTooLarge, match="1400 pixels wide and 1000 high"):
        small.decode_now(Image(heic(np.zeros((1000, 1400, 3), np.uint8))), MODEL)
    small.close()


@pytest.mark.parametrize("brands", [b"avif\0\0\0\0avifheic", b"mif1\0\0\0\0avifmiaf"])
def test_avif_stays_refused(workers, brands):
    with pytest.raises(UnsupportedImage, match="not supported; send JPEG, PNG, WebP, BMP, GIF or HEIC"):
        workers.decode_now(Image(b"\0\0\0\x18ftyp" + brands + bytes(40)), MODEL)
