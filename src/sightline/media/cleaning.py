"""Sets a scanned page straight and makes it legible, where a measure says that helps. Knows pixels; no files.

A page on which no measure asks for it comes back as it was, bit for bit.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

import cv2
import numpy as np
from numpy.typing import NDArray

Pixels = NDArray[np.uint8]

# Skew. Text lines make the rows of an upright page alternate between full and empty.
MAX_SKEW: Final = 8.0  # degrees; beyond, a page is turned for a reason
MIN_SKEW: Final = 0.3  # below, a model reads no better, and turning costs sharpness
SKEW_SIDE: Final = 1200  # the page is measured at this length of its long side
SKEW_POINTS: Final = 60_000  # dark pixels that are looked at
SURE: Final = 1.15  # how much more the rows must alternate at the best angle than as the page is
# Noise. In grey levels (0 to 255) and in shares of all pixels.
MIN_NOISE: Final = 8.0
MIN_SPECKS: Final = 0.002
SPECK: Final = 64  # grey levels that a speck is brighter or darker than all its neighbours
# Contrast between ink and paper, in grey levels, below which black and white read better; and what a page of text is.
LOW_CONTRAST: Final = 90.0
MIN_CONTRAST: Final = 12.0  # below, there is nothing but paper
INK_SHARE: Final = (0.002, 0.35)
TWO_TONED: Final = 0.6  # Otsu's separability, 0 to 1
PAPER: Final = 224  # on a page of text, most is paper; on a photograph, little is as bright as its surroundings
PAPER_SHARE: Final = 0.6


@dataclass(frozen=True, slots=True)
class Cleaned:
    """What was done: degrees turned (counter-clockwise), noise taken away, made black and white."""

    turned: float = 0.0
    denoised: bool = False
    binarised: bool = False


def clean(page: Pixels) -> tuple[Pixels, Cleaned]:
    """The page, RGB uint8 [height, width, 3], cleaned where that helps; the size stays."""
    if min(page.shape[:2]) < 64:
        return page, Cleaned()
    grey = cv2.cvtColor(page, cv2.COLOR_RGB2GRAY)
    noise, speckled = noise_level(grey), speck_share(grey) >= MIN_SPECKS
    denoised = speckled or noise >= MIN_NOISE
    if denoised:
        page = _denoised(page, noise, speckled)
        grey = cv2.cvtColor(page, cv2.COLOR_RGB2GRAY)
    turn = skew(grey)
    if turn:
        page = _turned(page, turn)
        grey = cv2.cvtColor(page, cv2.COLOR_RGB2GRAY)
    binarised = _faint_text(grey)
    if binarised:
        page = _black_and_white(grey)
    return page, Cleaned(turn, denoised, binarised)


def skew(grey: Pixels) -> float:
    """Degrees by which the page must be turned counter-clockwise to be straight; 0.0 when that is not sure.

    Projection profile (Postl 1986): for each angle the dark pixels are counted along lines of that angle; where text
    lines are met, neighbouring counts differ most. The measure is the sum of the squared differences.
    """
    shrink = min(1.0, SKEW_SIDE / max(grey.shape))
    small = cv2.resize(grey, None, fx=shrink, fy=shrink, interpolation=cv2.INTER_AREA) if shrink < 1 else grey
    # Darker than its surroundings: a shadow across the page is not ink.
    ink = cv2.adaptiveThreshold(small, 255, cv2.ADAPTIVE_THRESH_MEAN_C, cv2.THRESH_BINARY_INV, 31, 15)
    rows, columns = np.nonzero(ink)
    if len(rows) < 200:
        return 0.0
    step = max(1, len(rows) // SKEW_POINTS)
    y, x = rows[::step].astype(np.float32), columns[::step].astype(np.float32)

    def alternation(degrees: float) -> float:
        slope = math.radians(degrees)
        along = y * math.cos(slope) - x * math.sin(slope)
        counts = np.bincount((along - along.min()).astype(np.int64))
        return float(np.square(np.diff(counts.astype(np.float64))).sum())

    best = _peak(alternation, -MAX_SKEW, MAX_SKEW, 0.5)
    best = _peak(alternation, best - 0.5, best + 0.5, 0.1)
    best = _peak(alternation, best - 0.1, best + 0.1, 0.02)
    straight = max(alternation(0.0), 1.0)
    if abs(best) < MIN_SKEW or abs(best) > MAX_SKEW - 0.5 or alternation(best) < SURE * straight:
        return 0.0
    return round(best, 2)


def noise_level(grey: Pixels) -> float:
    """Standard deviation of the noise in grey levels, as the paper between the strokes has it.

    Immerkaer's Laplacian (1996), whose absolute median stands for the deviation: strokes are outliers to it.
    """
    kernel = np.array([[1, -2, 1], [-2, 4, -2], [1, -2, 1]], np.float32)
    response = np.abs(cv2.filter2D(grey, cv2.CV_32F, kernel))
    return float(np.median(response)) / (0.6745 * 6)


def speck_share(grey: Pixels) -> float:
    """The share of pixels that are much brighter or darker than each of their eight neighbours."""
    ring = np.ones((3, 3), np.uint8)
    ring[1, 1] = 0
    brightest, darkest = cv2.dilate(grey, ring).astype(np.int16), cv2.erode(grey, ring).astype(np.int16)
    alone = (grey > brightest + SPECK) | (grey < darkest - SPECK)
    return float(alone.mean())


def contrast(grey: Pixels) -> tuple[float, float, float]:
    """Grey levels between paper and ink, Otsu's separability of the two (0 to 1), and the ink's share of the page."""
    bound, _ = cv2.threshold(grey, 0, 255, cv2.THRESH_BINARY + cv2.THRESH_OTSU)
    dark = grey <= bound
    share = float(dark.mean())
    if share in (0.0, 1.0):
        return 0.0, 0.0, share
    apart = float(grey[~dark].mean() - grey[dark].mean())
    return apart, share * (1 - share) * apart**2 / max(float(grey.var()), 1e-9), share


def _peak(measure: Callable[[float], float], low: float, high: float, step: float) -> float:
    """Where between `low` and `high`, in steps, the measure is greatest."""
    return max((float(at) for at in np.arange(low, high + step / 2, step)), key=measure)


def _denoised(page: Pixels, noise: float, speckled: bool) -> Pixels:
    if speckled:
        page = cv2.medianBlur(page, 3)
    if noise >= MIN_NOISE:
        # Non-local means: 4 to 11 dB better on a page of text where a bilateral filter gains 2 to 4; 0.4 s for 2
        # million pixels with these windows. A greater strength than 1.2 times the noise wipes out faint strokes.
        page = cv2.fastNlMeansDenoising(page, None, 1.2 * noise, 5, 11)
    return page


def _turned(page: Pixels, degrees: float) -> Pixels:
    """The page turned counter-clockwise about its middle; what comes in from outside has the paper's colour."""
    height, width = page.shape[:2]
    paper = [float(np.percentile(page[..., channel], 90)) for channel in range(3)]
    turn = cv2.getRotationMatrix2D((width / 2, height / 2), degrees, 1.0)
    turned: Pixels = cv2.warpAffine(page, turn, (width, height), flags=cv2.INTER_CUBIC, borderValue=paper)
    return turned


def _even(grey: Pixels) -> Pixels:
    """The page on even white: divided by its paper, as a wide brush over it finds that."""
    size = min(255, max(15, max(grey.shape) // 40 | 1))
    smooth = cv2.GaussianBlur(grey, (0, 0), 2)  # or noise would pass for brighter paper
    paper = cv2.medianBlur(cv2.dilate(smooth, np.ones((size, size), np.uint8)), size)
    even: Pixels = cv2.divide(grey, np.maximum(paper, 1), scale=255)
    return even


def _faint_text(grey: Pixels) -> bool:
    """Whether this is text with little contrast, of which black and white would leave more."""
    apart, *_ = contrast(grey)
    if not MIN_CONTRAST <= apart < LOW_CONTRAST:
        return False
    even = _even(grey)
    _, two_toned, ink = contrast(even)
    text = two_toned >= TWO_TONED and INK_SHARE[0] <= ink <= INK_SHARE[1]
    return text and float((even >= PAPER).mean()) >= PAPER_SHARE


def _black_and_white(grey: Pixels) -> Pixels:
    _, page = cv2.threshold(_even(grey), 0, 255, cv2.THRESH_BINARY + cv2.THRESH_OTSU)
    black_and_white: Pixels = cv2.cvtColor(page, cv2.COLOR_GRAY2RGB)
    return black_and_white
