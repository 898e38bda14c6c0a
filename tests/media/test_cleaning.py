"""Promises about scans: what is crooked, noisy or faint is mended, measurably, and a clean page is not touched."""

import asyncio

import cv2
import numpy as np
import PIL.Image
import PIL.ImageDraw
import PIL.ImageFont
import pytest

from media.pdfs import of_pictures, one_page
from sightline.media import cleaning
from sightline.media.cleaning import Cleaned, clean
from sightline.media.documents import DocumentWorkers
from sightline.media.images import ResizeRule
from sightline.settings import MediaSettings
from sightline.types import Document, Page

WORDS = ["the", "quick", "brown", "fox", "jumps", "over", "a", "lazy", "dog", "and", "an", "invoice", "of", "42.17"]


@pytest.fixture(scope="module")
def page() -> np.ndarray:
    """A page of text in black on white, RGB [1100, 800, 3]."""
    rng = np.random.default_rng(0)
    image = PIL.Image.new("RGB", (800, 1100), "white")
    draw, font = PIL.ImageDraw.Draw(image), PIL.ImageFont.load_default(18)
    for line in range(30):
        draw.text((60, 60 + line * 32), " ".join(rng.choice(WORDS, 8 if line % 6 else 3)), "black", font=font)
    return np.asarray(image).copy()


@pytest.fixture(scope="module")
def photograph() -> np.ndarray:
    """Soft blotches of colour, no text."""
    blotches = np.random.default_rng(1).integers(60, 190, (14, 10, 3), dtype=np.uint8)
    return cv2.resize(blotches, (800, 1100), interpolation=cv2.INTER_CUBIC)


def turned(page: np.ndarray, degrees: float) -> np.ndarray:
    height, width = page.shape[:2]
    turn = cv2.getRotationMatrix2D((width / 2, height / 2), degrees, 1)
    return cv2.warpAffine(page, turn, (width, height), flags=cv2.INTER_CUBIC, borderValue=(255, 255, 255))


def noisy(page: np.ndarray, deviation: float) -> np.ndarray:
    noise = np.random.default_rng(2).normal(0, deviation, page.shape[:2])[..., None]
    return np.clip(page + noise, 0, 255).astype(np.uint8)


def faint(page: np.ndarray) -> np.ndarray:
    """The page in grey on grey, darker towards its left side."""
    shadow = np.linspace(0.7, 1.0, page.shape[1])[None, :, None]
    return ((150 + page * 50.0 / 255) * shadow).astype(np.uint8)


def grey(page: np.ndarray) -> np.ndarray:
    return cv2.cvtColor(page, cv2.COLOR_RGB2GRAY)


def off(page: np.ndarray, truth: np.ndarray) -> float:
    """Mean squared difference."""
    return float(np.square(page.astype(float) - truth).mean())


@pytest.mark.parametrize("degrees", [3.0, -3.0, 6.5, -1.2, 0.5])
def test_a_crooked_page_is_set_straight_within_a_third_of_a_degree(page, degrees):
    straight, done = clean(turned(page, degrees))
    assert done.turned == pytest.approx(-degrees, abs=0.3)
    assert cleaning.skew(grey(straight)) == 0.0
    assert off(straight, page) < off(turned(page, degrees), page) / 2


def test_a_page_turned_too_little_to_matter_is_left_alone(page):
    slightly = turned(page, 0.2)
    assert clean(slightly)[0] is slightly


def test_a_page_without_lines_is_not_turned(photograph):
    assert cleaning.skew(grey(photograph)) == 0.0
    speckles = np.random.default_rng(3).integers(0, 2, (1100, 800), dtype=np.uint8) * 255
    assert cleaning.skew(speckles) == 0.0


@pytest.mark.parametrize("deviation", [12, 25])
def test_noise_goes_and_the_text_stays(page, deviation):
    dull = (page * 0.7).astype(np.uint8)  # on pure white, half of the noise would be cut off
    sent = noisy(dull, deviation)
    assert cleaning.noise_level(grey(sent)) == pytest.approx(deviation, rel=0.1)
    mended, done = clean(sent)
    assert done == Cleaned(denoised=True)
    assert off(mended, dull) < off(sent, dull) / 3
    assert cleaning.noise_level(grey(mended)) < deviation / 5


def test_specks_go(page):
    sent, dice = page.copy(), np.random.default_rng(4).random(page.shape[:2])
    sent[dice < 0.01], sent[dice > 0.99] = 0, 255
    mended, done = clean(sent)
    assert done == Cleaned(denoised=True)
    assert off(mended, page) < off(sent, page) * 0.6
    assert cleaning.speck_share(grey(mended)) < cleaning.MIN_SPECKS


def test_faint_text_becomes_black_on_white(page):
    sent = faint(page)
    mended, done = clean(sent)
    assert done == Cleaned(binarised=True)
    before, *_ = cleaning.contrast(grey(sent))
    after, *_ = cleaning.contrast(grey(mended))
    assert before < cleaning.LOW_CONTRAST
    assert after == 255
    assert ((mended[..., 0] < 128) == (page[..., 0] < 128)).mean() > 0.99


def test_a_page_with_every_fault_is_mended_in_all_of_them(page):
    mended, done = clean(noisy(turned(faint(page), 2.0), 10))
    assert done.turned == pytest.approx(-2.0, abs=0.3)
    assert done.denoised
    assert off(mended, page) < off(noisy(turned(faint(page), 2.0), 10), page) / 2


def test_a_clean_page_and_a_photograph_are_left_bit_for_bit(page, photograph):
    for sent in (page, photograph, noisy(page, 3), np.full_like(page, 255), np.zeros_like(page)):
        kept = sent.copy()
        mended, done = clean(sent)
        assert done == Cleaned()
        assert np.array_equal(mended, kept)


def test_a_tiny_picture_is_left_alone(page):
    corner = page[:40, :40]
    assert clean(corner)[0] is corner


def test_only_scans_are_cleaned_and_say_so(page):
    crooked = PIL.Image.fromarray(turned(page, 2.0))
    lines = b"".join(b"0.99 0.03 -0.03 0.99 0 %d cm 10 5 m 190 5 l S " % 2 for _ in range(12))

    async def scene():
        workers = DocumentWorkers(MediaSettings(workers=1))
        rule = ResizeRule(min_pixels=65_536, max_pixels=16_777_216)
        scan = await workers.draw(Page(Document(of_pictures([crooked])), 1), rule)
        drawing = await workers.draw(Page(Document(one_page(lines)), 1), rule)
        workers.close()
        return scan[1], drawing[1]

    scan, drawing = asyncio.run(scene())
    assert scan.turned == pytest.approx(-2.0, abs=0.3)
    assert drawing.turned == 0.0
