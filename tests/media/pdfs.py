"""Makes PDFs for the tests, byte by byte or of pictures. Knows none of our code."""

from __future__ import annotations

import io
import time
import zlib
from collections.abc import Mapping, Sequence
from pathlib import Path

import PIL.Image

RECEIPTS = Path(__file__).parents[1] / "golden" / "samples" / "receipts"
WRITTEN = time.gmtime(0)


def pdf(objects: Mapping[int, bytes], trailer: bytes = b"") -> bytes:
    """A file of these objects; number 1 is its catalogue."""
    file, places = io.BytesIO(), {}
    file.write(b"%PDF-1.7\n")
    for number, body in sorted(objects.items()):
        places[number] = file.tell()
        file.write(b"%d 0 obj\n" % number + body + b"\nendobj\n")
    start, size = file.tell(), max(objects) + 1
    file.write(b"xref\n0 %d\n0000000000 65535 f \n" % size)
    file.writelines(b"%010d 00000 n \n" % places[number] for number in range(1, size))
    file.write(b"trailer\n<< /Size %d /Root 1 0 R %s >>\nstartxref\n%d\n%%%%EOF\n" % (size, trailer, start))
    return file.getvalue()


def stream(data: bytes, entries: bytes = b"") -> bytes:
    return b"<< /Length %d %s >>\nstream\n" % (len(data), entries) + data + b"\nendstream"


def one_page(
    content: bytes = b"0 0 m 100 100 l S",
    *,
    box: bytes = b"[0 0 200 300]",
    filters: bytes = b"",
    resources: bytes = b"",
    page: bytes = b"",
    catalogue: bytes = b"",
    more: Mapping[int, bytes] | None = None,
) -> bytes:
    """A PDF with one page; `page` and `catalogue` are further entries of theirs, `more` objects from number 5 on."""
    return pdf(
        {
            1: b"<< /Type /Catalog /Pages 2 0 R %s >>" % catalogue,
            2: b"<< /Type /Pages /Kids [3 0 R] /Count 1 >>",
            3: b"<< /Type /Page /Parent 2 0 R /MediaBox %s /Contents 4 0 R /Resources << %s >> %s >>"
            % (box, resources, page),
            4: stream(content, filters),
            **(more or {}),
        }
    )


def without_font(letters: int) -> bytes:
    """A page with so many Chinese letters in a font that is neither in the file nor on any machine."""
    names = b"/CIDInit /ProcSet findresource begin begincmap 1 begincodespacerange <0000> <FFFF> endcodespacerange "
    font = b"<< /Type /Font /Subtype /Type0 /BaseFont /Nobody /Encoding /Identity-H /DescendantFonts [6 0 R] "
    glyphs = b"<< /Type /Font /Subtype /CIDFontType2 /BaseFont /Nobody /FontDescriptor 7 0 R /DW 1000 "
    more = {
        5: font + b"/ToUnicode 8 0 R >>",
        6: glyphs + b"/CIDSystemInfo << /Registry (Adobe) /Ordering (Identity) /Supplement 0 >> >>",
        7: b"<< /Type /FontDescriptor /FontName /Nobody /Flags 6 /FontBBox [0 -200 1000 900] /ItalicAngle 0 "
        b"/Ascent 880 /Descent -120 /CapHeight 880 /StemV 93 >>",
        8: stream(names + b"1 beginbfchar <FFF0> <603B> endbfchar endcmap end"),
    }
    text = b"BT /F 24 Tf 20 200 Td <" + b"FFF0" * letters + b"> Tj ET"
    return one_page(text, resources=b"/Font << /F 5 0 R >>", more=more)


def pages(count: int, *damaged: int) -> bytes:
    """So many pages, 100 points wide and their number higher than 100; the `damaged` ones are no pages."""
    kids = b" ".join(b"%d 0 R" % (number + 2) for number in range(1, count + 1))
    bodies = {
        number + 2: b"(no page)"
        if number in damaged
        else b"<< /Type /Page /Parent 2 0 R /MediaBox [0 0 100 %d] >>" % (100 + number)
        for number in range(1, count + 1)
    }
    tree = b"<< /Type /Pages /Kids [%s] /Count %d >>" % (kids, count)
    return pdf({1: b"<< /Type /Catalog /Pages 2 0 R >>", 2: tree, **bodies})


def inflating(size: int, filters: int = 1) -> tuple[bytes, bytes]:
    """A stream that grows to `size` spaces when inflated so many times, and its /Filter."""
    data = b" " * size
    for _ in range(filters):
        data = zlib.compress(data, 9)
    return data, b"/Filter [%s]" % (b" /FlateDecode" * filters)


def of_pictures(pictures: Sequence[PIL.Image.Image], dpi: float = 144) -> bytes:
    """A page for each picture, as a scanner writes them; the same bytes each time."""
    file = io.BytesIO()
    first, *rest = (picture.convert("RGB") for picture in pictures)
    dates = {"creationDate": WRITTEN, "modDate": WRITTEN}
    first.save(file, "PDF", save_all=True, append_images=rest, resolution=dpi, quality=95, **dates)
    return file.getvalue()


def receipts(count: int) -> bytes:
    """The first receipts of the samples, one on each page; their totals are in totals.json beside them."""
    return of_pictures([PIL.Image.open(RECEIPTS / f"{number}.png") for number in range(1, count + 1)])
