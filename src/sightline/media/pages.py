"""The worker program for documents: counts the pages of an untrusted PDF, draws one. Knows PDFium; no pipes, no limits.

`confined.py` runs it. Scripts, actions, links and attachments are never looked at: this build of PDFium has no script
engine, and nothing here asks for an action. PDFium is not thread-safe, and nothing else runs beside it.
"""

from __future__ import annotations

import ctypes
import math
from collections.abc import Iterator
from typing import Any, Final

import cv2
import numpy as np
import PIL.Image
import pypdfium2
import pypdfium2.raw as pdfium
from numpy.typing import NDArray

from sightline.errors import DocumentPasswordRequired, DocumentTooLarge, InvalidDocument, InvalidImage
from sightline.media.cleaning import clean
from sightline.media.images import ResizeRule, fit

UNREADABLE: Final = "Invalid document data: cannot read document"
DAMAGED_PAGE: Final = f"{UNREADABLE}: the page is damaged; save the document again"
POINTS_PER_INCH: Final = 72  # PDFium gives sizes in points
FLAGS: Final = pdfium.FPDF_ANNOT | pdfium.FPDF_REVERSE_BYTE_ORDER  # stamps and notes are drawn; RGB, not BGR
# A scan is a page of one picture, or of a few strips, that fill it; and no text one can see.
SCAN_SHARE: Final = 0.75
SCAN_OBJECTS: Final = 200
MOST_LETTERS: Final = 20_000  # of a page; a dense one has 5,000
PAST_LATIN: Final = 0x370
NO_HEIGHT: Final = 0.01  # of a line; the flattest letter there is, a single stroke, has 0.05
INVISIBLE: Final = 3  # text render mode: what an OCR program lays over a scan

cv2.setNumThreads(1)  # its threads' stacks would count towards the memory limit


def answer(request: dict[str, Any], data: bytes, memory_bytes: int) -> Iterator[tuple[dict[str, object], bytes]]:
    """{"pages": count}; or, asked for "sizes" (of pages, from 1), a message with the size as drawn of each; or, asked
    for a "page", its size as drawn, what was cleaned, and the RGB pixels.
    """
    try:
        with _opened(data, request["password"]) as document:
            if "sizes" in request:
                for number in request["sizes"]:
                    yield {"original": _size(document, number, request)}, b""
            elif request["page"] is None:
                yield {"pages": len(document)}, b""
            else:
                yield _page(document, request)
    except MemoryError:
        raise DocumentTooLarge(
            f"it needs more than {memory_bytes >> 20} MiB of memory to draw, the limit; send simpler pages"
        ) from None


def _opened(data: bytes, password: str | None) -> pypdfium2.PdfDocument:
    """The document, which lives as long as `data`."""
    raw = pdfium.FPDF_LoadMemDocument64(data, len(data), None if password is None else password.encode() + b"\0")
    if raw:
        document = pypdfium2.PdfDocument(raw)
        if len(document):
            document.init_forms()  # what was filled in is drawn with it
            return document
        document.close()
        raise InvalidDocument(f"{UNREADABLE}: it has no pages; send a PDF with at least one")
    code = pdfium.FPDF_GetLastError()
    if code == pdfium.FPDF_ERR_PASSWORD:
        wrong = "the password is not the right one" if password else "it is encrypted"
        raise DocumentPasswordRequired(f"{UNREADABLE}: {wrong}; send its password as 'password'")
    if code == pdfium.FPDF_ERR_SECURITY:
        raise InvalidDocument(f"{UNREADABLE}: it is protected in a way that is not supported; save it unprotected")
    raise InvalidDocument(f"{UNREADABLE}: the PDF is damaged or cut off; save or send it again")


def _size(document: pypdfium2.PdfDocument, number: int, request: dict[str, Any]) -> tuple[int, int]:
    """The (height, width) at which a page would be drawn."""
    try:
        width, height = document.get_page_size(number - 1)
        return drawn_size(height, width, request["dpi"], request["max_pixels"])
    except pypdfium2.PdfiumError:
        raise InvalidDocument(f"{DAMAGED_PAGE} (page {number})") from None
    except InvalidDocument as error:
        raise InvalidDocument(f"{error.message} (page {number})") from None


def _page(document: pypdfium2.PdfDocument, request: dict[str, Any]) -> tuple[dict[str, object], bytes]:
    try:
        page = document[request["page"] - 1]
    except pypdfium2.PdfiumError:
        raise InvalidDocument(DAMAGED_PAGE) from None
    rule = ResizeRule(**request["rule"])
    height, width = drawn_size(page.get_height(), page.get_width(), request["dpi"], request["max_pixels"])
    try:
        fitted_height, fitted_width = fit(height, width, rule)
    except InvalidImage:
        raise InvalidDocument(
            f"{UNREADABLE}: the page would be {width} pixels wide and {height} high, too thin to read; crop it"
        ) from None
    pixels, done = _drawn(page, height, width), dict[str, object]()
    if _is_scan(page):
        pixels, cleaned = clean(pixels)
        done = {"turned": cleaned.turned, "denoised": cleaned.denoised, "binarised": cleaned.binarised}
    elif missing := _missing(page):
        done = {"missing": missing}
    resized = PIL.Image.fromarray(pixels).resize((fitted_width, fitted_height), PIL.Image.Resampling.BICUBIC)
    return {"original": (height, width), **done}, resized.tobytes()


def drawn_size(height: float, width: float, dpi: float, max_pixels: int) -> tuple[int, int]:
    """The (height, width) in pixels at which a page of this size in points is drawn, at most `max_pixels` in all.

    A page too large for that is drawn at fewer dots per inch. Raises InvalidDocument for sizes that are none.
    """
    if not (math.isfinite(height * width) and height > 0 and width > 0):
        raise InvalidDocument(f"{UNREADABLE}: the page is {width:g} points wide and {height:g} high; save it again")
    scale = min(dpi / POINTS_PER_INCH, math.sqrt(max_pixels / (height * width)))
    return max(1, math.floor(height * scale)), max(1, math.floor(width * scale))


def _drawn(page: pypdfium2.PdfPage, height: int, width: int) -> NDArray[np.uint8]:
    """The page on white, RGB [height, width, 3]."""
    bitmap = pypdfium2.PdfBitmap.new_native(width, height, pdfium.FPDFBitmap_BGR, rev_byteorder=True)
    bitmap.fill_rect((255, 255, 255, 255), 0, 0, width, height)
    pdfium.FPDF_RenderPageBitmap(bitmap, page, 0, 0, width, height, 0, FLAGS)
    if page.formenv:
        pdfium.FPDF_FFLDraw(page.formenv, bitmap, page, 0, 0, width, height, 0, FLAGS)
    drawn: NDArray[np.uint8] = bitmap.to_numpy()
    return drawn


def _missing(page: pypdfium2.PdfPage) -> int:
    """How many of the first MOST_LETTERS were drawn blank, because no font has them.

    PDFium brings fonts for Latin letters and takes others from the machine. Where it finds none, a letter keeps its
    place in the line, and its own box has no height.
    """
    text, missing = page.get_textpage(), 0
    left, right, bottom, top = (ctypes.c_double() for _ in range(4))
    place = pdfium.FS_RECTF()
    for index in range(min(pdfium.FPDFText_CountChars(text), MOST_LETTERS)):
        letter = pdfium.FPDFText_GetUnicode(text, index)
        if letter < PAST_LATIN or not chr(letter).isalpha():
            continue
        font = pdfium.FPDFTextObj_GetFont(pdfium.FPDFText_GetTextObject(text, index))
        if not font or pdfium.FPDFFont_GetIsEmbedded(font):
            continue
        pdfium.FPDFText_GetCharBox(text, index, left, right, bottom, top)
        pdfium.FPDFText_GetLooseCharBox(text, index, place)
        missing += top.value - bottom.value < NO_HEIGHT * (place.top - place.bottom)
    text.close()
    return missing


def _is_scan(page: pypdfium2.PdfPage) -> bool:
    if pdfium.FPDFPage_CountObjects(page) > SCAN_OBJECTS:
        return False
    covered = 0.0
    for item in page.get_objects(max_depth=1):
        if item.type == pdfium.FPDF_PAGEOBJ_IMAGE:
            left, bottom, right, top = item.get_bounds()
            covered += (right - left) * (top - bottom)
        elif item.type == pdfium.FPDF_PAGEOBJ_TEXT and pdfium.FPDFTextObj_GetTextRenderMode(item) != INVISIBLE:
            return False
    return covered >= SCAN_SHARE * float(page.get_width() * page.get_height())
