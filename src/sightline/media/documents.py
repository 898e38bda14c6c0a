"""Has the pages of documents counted and drawn in worker processes, under every limit. Knows no PDF."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from typing import Any, Final, TypeVar

from sightline.errors import (
    DocumentPasswordRequired,
    DocumentTooLarge,
    InvalidDocument,
    InvalidImage,
    InvalidRequest,
    SightlineError,
    TooManyPages,
)
from sightline.media.images import Picture, ResizeRule, requested
from sightline.media.pictures import receive_picture, receive_size
from sightline.media.sandbox import Pool, Program, Reply
from sightline.settings import MediaSettings
from sightline.types import Document, Image, Page, PageInfo

UNREADABLE: Final = "Invalid document data: cannot read document"
MOST_PAGES: Final = 1 << 20  # what a count may be; PDFium's own limit
# Acrobat's own leniency: how far from the ends of a file its first and last mark may be.
HEAD_BYTES: Final = 1024
TAIL_BYTES: Final = 4096
OTHERS: Final = (
    (b"PK\3\4", "this is a ZIP archive or Office file, which is not supported"),
    (b"\xd0\xcf\x11\xe0", "this is an old Office file, which is not supported"),
    (b"{\\rtf", "this is an RTF text, which is not supported"),
    (b"%!PS", "this is a PostScript file, which is not supported"),
    (b"\xff\xd8\xff", "this is a picture; pictures go into 'images' or an image part"),
    (b"\x89PNG", "this is a picture; pictures go into 'images' or an image part"),
    (b"II*\0", "this is a TIFF file, which is not supported"),
    (b"MM\0*", "this is a TIFF file, which is not supported"),
)
RANGE: Final = re.compile(r"\s*(\d{1,9})\s*(?:-\s*(\d{1,9})\s*)?")

T = TypeVar("T")


def _crashed(aborted: bool) -> SightlineError:
    if aborted:
        return DocumentTooLarge(f"{UNREADABLE}: it needs more memory than one page may take; send simpler pages")
    return InvalidDocument(f"{UNREADABLE}: the reader crashed on it; print it to a new PDF")


PROGRAM: Final = Program(
    module="sightline.media.pages",
    refusals=(InvalidDocument, DocumentTooLarge, DocumentPasswordRequired),
    late=lambda limit_s: InvalidDocument(
        f"{UNREADABLE}: it was not done after {limit_s:g} s, the limit for a page; send simpler pages"
    ),
    crashed=_crashed,
)


class DocumentWorkers:
    """Counts and draws pages in at most `settings.workers` processes. Any thread and any event loop may call it."""

    def __init__(self, settings: MediaSettings) -> None:
        self._settings = settings
        self._pool = Pool(PROGRAM, workers=settings.workers, memory_bytes=settings.worker_memory_bytes)

    async def pages(self, document: Document, most: int) -> tuple[Page, ...]:
        """The pages that `document.pages` names, or all, in their order.

        Raises InvalidDocument, DocumentTooLarge, DocumentPasswordRequired, TooManyPages for more than `most`,
        InvalidRequest for a range that makes no sense, all with `document.param`; OutOfMemory when no process can be
        started, ShuttingDown after close().
        """
        self._check(document)
        request = {"page": None, "password": document.password}
        count = await self._ask(request, document, _receive_count)
        return tuple(Page(document, number) for number in page_numbers(document, count, most))

    async def measure(self, pages: Sequence[Page], rule: ResizeRule) -> list[tuple[int, int]]:
        """The (height, width) in pixels at which the model would see these pages of one document; none is drawn.

        Raises as `draw`, for what shows without drawing.
        """
        document, max_pixels = pages[0].document, self._settings.max_page_pixels
        rule, request = self._drawing(document, rule)

        def receive(reply: Reply) -> list[tuple[int, int]]:
            headers = [reply.header() for _ in pages]
            return [_fitted(page, header, rule, max_pixels) for page, header in zip(pages, headers, strict=True)]

        request["sizes"] = [page.number for page in pages]
        return await self._ask(request, document, receive)

    async def draw(self, page: Page, rule: ResizeRule) -> tuple[Picture, PageInfo]:
        """One page as the model sees it, and what was done to it. Raises as `pages`, and names the page."""
        document, settings = page.document, self._settings
        rule, request = self._drawing(document, rule)
        request |= {"page": page.number, "rule": asdict(rule)}

        def receive(reply: Reply) -> tuple[Picture, PageInfo]:
            header, info = reply.header(), PageInfo(page.number)
            match header:
                case {"turned": float(turned), "denoised": bool(denoised), "binarised": bool(binarised)}:
                    info = PageInfo(page.number, turned, denoised, binarised)
                case {"missing": int(missing)}:
                    info = PageInfo(page.number, missing=missing)
            return receive_picture(reply, header, rule, settings.max_page_pixels), info

        try:
            return await self._ask(request, document, receive)
        except InvalidRequest as error:
            error.message = f"{error.message} (page {page.number})"
            raise

    def close(self) -> None:
        """Kill the workers and wait until they are gone; what waits or is under way fails with ShuttingDown."""
        self._pool.close()

    def _drawing(self, document: Document, rule: ResizeRule) -> tuple[ResizeRule, dict[str, object]]:
        """The rule with the document's wishes, and what the worker must know for any of its pages."""
        self._check(document)
        wishes = Image(b"", document.min_pixels, document.max_pixels, param=document.param)
        return requested(rule, wishes, self._settings.max_image_side), {
            "password": document.password,
            "dpi": document.dpi or self._settings.page_dpi,
            "max_pixels": self._settings.max_page_pixels,
        }

    async def _ask(self, request: Mapping[str, object], document: Document, receive: Callable[[Reply], T]) -> T:
        return await self._pool.ask(
            request, document.data, receive, timeout_s=self._settings.timeout_s, param=document.param
        )

    def _check(self, document: Document) -> None:
        """What shows before any parser sees the document."""
        data, limit, param = document.data, self._settings.max_document_bytes, document.param
        if not data:
            raise InvalidDocument(f"{UNREADABLE}: it is empty, 0 bytes; send the whole file", param=param)
        if len(data) > limit:
            raise DocumentTooLarge(
                f"document is {len(data)} bytes, the limit is {limit} ({limit / (1 << 20):g} MiB); split it",
                param=param,
            )
        if b"%PDF-" not in data[:HEAD_BYTES]:
            raise InvalidDocument(
                f"{UNREADABLE}: {_looks_like(data)}; send a PDF", param=param, code="unsupported_media_type"
            )
        if b"%%EOF" not in data[-TAIL_BYTES:]:
            raise InvalidDocument(f"{UNREADABLE}: the PDF ends too early; send the whole file", param=param)


def page_numbers(document: Document, count: int, most: int) -> list[int]:
    """The numbers that `document.pages` names of a document with `count` pages, each once, in their order.

    Raises InvalidRequest for what is no list of numbers and ranges, and TooManyPages for more than `most`.
    """
    asked, param = f"1-{count}" if document.pages is None else document.pages, document.param
    numbers: set[int] = set()
    for piece in asked.split(","):
        found = RANGE.fullmatch(piece)
        first = int(found[1]) if found else 0
        last = int(found[2] or first) if found else 0
        if not 1 <= first <= last:
            raise InvalidRequest(f"pages is {asked[:80]!r}; write numbers and ranges such as '1-3,7'", param=param)
        if last > count:
            raise InvalidRequest(
                f"pages asks for page {last}, the document has {count}; name pages from 1 to {count}", param=param
            )
        numbers.update(range(first, last + 1))
    if len(numbers) > most:
        raise TooManyPages(
            f"these are {len(numbers)} pages, the limit is {most}; name fewer with 'pages', such as '1-{most}'",
            param=param,
        )
    return sorted(numbers)


def too_thin(height: int, width: int) -> str:
    return f"{UNREADABLE}: the page would be {width} pixels wide and {height} high, too thin to read; crop it"


def _fitted(page: Page, header: Any, rule: ResizeRule, max_pixels: int) -> tuple[int, int]:
    try:
        return receive_size(header, rule, max_pixels)
    except InvalidImage:
        height, width = header["original"]
        raise InvalidDocument(f"{too_thin(height, width)} (page {page.number})") from None


def _receive_count(reply: Reply) -> int:
    match reply.header():
        case {"pages": int(count)} if 0 < count <= MOST_PAGES:
            return count
    raise ValueError("unexpected reply")


def _looks_like(data: bytes) -> str:
    return next((what for start, what in OTHERS if data.startswith(start)), "it does not start like one")
