"""Promises about documents: their pages come out upright and bounded, what is no document is named."""

import asyncio
import hashlib
import os
import signal

import numpy as np
import PIL.Image
import pytest

from media.pdfs import RECEIPTS, inflating, of_pictures, one_page, pages, pdf, stream, without_font
from media.test_sandbox import children
from sightline.errors import (
    DocumentPasswordRequired,
    DocumentTooLarge,
    InvalidDocument,
    InvalidRequest,
    SightlineError,
    TooManyPages,
)
from sightline.media.documents import DocumentWorkers, page_numbers
from sightline.media.images import ResizeRule
from sightline.settings import MediaSettings
from sightline.types import Document, Page, PageInfo

MODEL = ResizeRule(min_pixels=65_536, max_pixels=16_777_216)
MIB = 1 << 20
# A grey corner at the top left of a page of 200 x 300 points.
CORNER = b"0.5 g 0 200 100 100 re f"


@pytest.fixture(scope="module")
def workers():
    workers = DocumentWorkers(MediaSettings(workers=1))
    yield workers
    workers.close()


def drawn(workers: DocumentWorkers, data: bytes, number: int = 1, **wishes: object):
    return asyncio.run(workers.draw(Page(Document(data, **wishes), number), MODEL))


def counted(workers: DocumentWorkers, data: bytes, most: int = 100, **wishes: object) -> list[int]:
    return [page.number for page in asyncio.run(workers.pages(Document(data, **wishes), most))]


def refused(workers: DocumentWorkers, data: bytes, **wishes: object) -> SightlineError:
    """What is said of a document when it is counted, or when its first page is drawn."""

    async def read() -> None:
        first, *_ = await workers.pages(Document(data, param="p", **wishes), 100)
        await workers.draw(first, MODEL)

    with pytest.raises(InvalidRequest) as caught:
        asyncio.run(read())
    assert caught.value.param == "p"
    return caught.value


def test_a_page_is_drawn_at_144_dots_per_inch_unless_the_request_says(workers):
    picture, info = drawn(workers, one_page())
    assert (picture.original, info) == ((600, 400), PageInfo(1))
    assert picture.pixels.shape == (608, 384, 3)
    assert drawn(workers, one_page(), dpi=72)[0].original == (300, 200)


def test_the_pixel_wishes_of_a_request_hold_for_each_page(workers):
    picture, _ = drawn(workers, one_page(), max_pixels=70_000)
    assert picture.pixels.shape[0] * picture.pixels.shape[1] <= 70_000


def test_a_page_is_white_where_nothing_is_drawn_and_its_colours_are_right(workers):
    pixels = drawn(workers, one_page(b"1 0 0 rg 0 200 100 100 re f"))[0].pixels
    assert pixels[20, 20].tolist() == [255, 0, 0]
    assert pixels[-20, -20].tolist() == [255, 255, 255]


@pytest.mark.row("P14")
def test_letters_that_no_font_has_are_counted(workers):
    assert drawn(workers, without_font(3))[1] == PageInfo(1, missing=3)
    latin = one_page(
        b"BT /F 24 Tf 20 200 Td (Total) Tj ET", resources=b"/Font << /F << /Type /Font /Subtype /Type1 >> >>"
    )
    assert drawn(workers, latin)[1] == PageInfo(1)


@pytest.mark.row("P09")
def test_turned_and_cropped_pages_come_the_right_way_up(workers):
    def grey_corners(pixels: np.ndarray) -> list[bool]:
        return [bool(pixels[y, x, 0] < 200) for y, x in ((9, 9), (9, -9), (-9, -9), (-9, 9))]

    assert grey_corners(drawn(workers, one_page(CORNER))[0].pixels) == [True, False, False, False]
    turned, _ = drawn(workers, one_page(CORNER, page=b"/Rotate 90"))
    assert turned.original == (400, 600)
    assert grey_corners(turned.pixels) == [False, True, False, False]
    cropped, _ = drawn(workers, one_page(CORNER, page=b"/CropBox [0 200 100 300]"))
    assert cropped.original == (200, 200)
    assert grey_corners(cropped.pixels) == [True] * 4


@pytest.mark.row("P09")
def test_pages_of_one_document_may_differ_in_size(workers):
    data = pages(3)
    assert counted(workers, data) == [1, 2, 3]
    assert [drawn(workers, data, number)[0].original for number in (1, 2, 3)] == [(202, 200), (204, 200), (206, 200)]


def test_a_page_that_is_one_clean_picture_comes_as_that_picture(workers):
    picture = PIL.Image.open(RECEIPTS / "1.png").convert("RGB")
    page, info = drawn(workers, of_pictures([picture], dpi=144))
    assert (page.original, info) == ((352, 256), PageInfo(1))
    difference = page.pixels.astype(int) - np.asarray(picture).astype(int)  # JPEG's, within the PDF
    assert np.abs(difference).mean() < 2.0


@pytest.mark.row("P01")
@pytest.mark.parametrize(
    ("data", "words"),
    [
        (b"", "it is empty, 0 bytes"),
        (b"hello", "it does not start like one; send a PDF"),
        (b"\x89PNG\r\n\x1a\n", "this is a picture; pictures go into 'images' or an image part"),
        (one_page()[:250], "the PDF ends too early; send the whole file"),
        (b"%PDF-1.7 " + bytes(500) + b"%%EOF", "the PDF is damaged or cut off"),
        (
            one_page().replace(b"/Type /Catalog", b"/Type /Catalan", 1).replace(b"/Pages 2", b"/Pages 9"),
            "it has no pages",
        ),
    ],
)
def test_what_is_no_whole_pdf_is_refused_with_the_reason(workers, data, words):
    error = refused(workers, data)
    assert isinstance(error, InvalidDocument)
    assert error.error_code in ("document_parse_error", "unsupported_media_type")
    assert error.message.startswith("Invalid document data: cannot read document: ")
    assert words in error.message


@pytest.mark.row("P01")
def test_a_wrong_table_of_contents_is_rebuilt(workers):
    broken = one_page(CORNER).replace(b"startxref\n", b"startxref\n99")
    assert np.array_equal(drawn(workers, broken)[0].pixels, drawn(workers, one_page(CORNER))[0].pixels)


@pytest.mark.row("P13")
@pytest.mark.parametrize("start", [b"PK\3\4", b"\xd0\xcf\x11\xe0", b"{\\rtf1"])
def test_office_files_are_refused_by_name(workers, start):
    error = refused(workers, start + bytes(100))
    assert error.error_code == "unsupported_media_type"
    assert "not supported; send a PDF" in error.message


@pytest.mark.row("P12")
def test_a_document_without_pages_is_refused(workers):
    empty = {1: b"<< /Type /Catalog /Pages 2 0 R >>", 2: b"<< /Type /Pages /Kids [] /Count 0 >>"}
    assert "it has no pages" in refused(workers, pdf(empty)).message


@pytest.mark.row("P03")
@pytest.mark.parametrize("side", [b"14400", b"1000000000"])
def test_a_vast_page_is_drawn_within_the_limit_of_pixels(workers, side):
    small = DocumentWorkers(MediaSettings(workers=1, max_page_pixels=250_000))
    assert drawn(small, one_page(box=b"[0 0 %s %s]" % (side, side)), dpi=1200)[0].original == (500, 500)
    small.close()


@pytest.mark.row("P03")
@pytest.mark.parametrize("box", [b"[0 0 NaN inf]", b"[0 0 0 0]", b"[0 0 1e30 1e30]", b"[]"])
def test_a_page_without_a_usable_size_is_a_letter_page(workers, box):
    assert drawn(workers, one_page(box=box))[0].original == (1584, 1224)


@pytest.mark.row("P03")
def test_a_page_that_is_a_thread_is_refused(workers):
    error = refused(workers, one_page(box=b"[0 0 1 14400]"))
    assert "2 pixels wide and 28800 high, too thin to read; crop it (page 1)" in error.message


@pytest.mark.row("P04")
@pytest.mark.parametrize("filters", [1, 2])
def test_a_stream_that_inflates_without_end_meets_the_memory_limit(filters):
    workers = DocumentWorkers(MediaSettings(workers=1, worker_memory_bytes=64 * MIB))
    data, entry = inflating(128 * MIB, filters)
    assert len(data) < MIB
    error = refused(workers, one_page(data, filters=entry))
    assert isinstance(error, DocumentTooLarge)
    assert "it needs more memory than one page may take; send simpler pages (page 1)" in error.message
    assert drawn(workers, one_page())[0].original == (600, 400)
    workers.close()


@pytest.mark.row("P04")
def test_a_document_over_the_byte_limit_is_refused_before_any_process_starts():
    workers, before = DocumentWorkers(MediaSettings(max_document_bytes=100)), children()
    error = refused(workers, one_page())
    assert isinstance(error, DocumentTooLarge)
    assert "bytes, the limit is 100" in error.message
    assert children() == before


@pytest.mark.row("P05")
def test_more_pages_than_allowed_are_refused_unless_some_are_named(workers):
    data = pages(300)
    with pytest.raises(TooManyPages, match="these are 300 pages, the limit is 100; name fewer with 'pages'"):
        counted(workers, data)
    assert counted(workers, data, pages="7, 299-300") == [7, 299, 300]


@pytest.mark.row("P05")
def test_a_cyclic_tree_of_pages_ends_in_an_error(workers):
    cyclic = {1: b"<< /Type /Catalog /Pages 2 0 R >>", 2: b"<< /Type /Pages /Kids [2 0 R] /Count 3 >>"}
    assert isinstance(refused(workers, pdf(cyclic)), InvalidDocument)


@pytest.mark.row("P05")
def test_a_trailer_that_refers_to_itself_ends(workers):
    data = one_page()
    start = data.rindex(b"xref\n0")
    looped = data.replace(b"/Root 1 0 R ", b"/Root 1 0 R /Prev %d" % start)
    assert drawn(workers, looped)[0].original == (600, 400)


@pytest.mark.row("P06")
def test_scripts_actions_links_and_attachments_are_not_looked_at(workers):
    busy = one_page(
        CORNER,
        catalogue=b"/OpenAction 6 0 R /AA << /WC 6 0 R >> /Names << /EmbeddedFiles << /Names [(a) 7 0 R] >> >> "
        b"/AcroForm << /Fields [5 0 R] >>",
        page=b"/Annots [5 0 R] /AA << /O 6 0 R >>",
        more={
            5: b"<< /Type /Annot /Subtype /Link /Rect [0 0 9 9] /A << /S /URI /URI (http://127.0.0.1:9/) >> >>",
            6: b"<< /S /JavaScript /JS (while (true) {}) >>",
            7: b"<< /Type /Filespec /F (a.exe) /EF << /F 8 0 R >> >>",
            8: stream(b"MZ"),
        },
    )
    assert np.array_equal(drawn(workers, busy)[0].pixels, drawn(workers, one_page(CORNER))[0].pixels)


def test_what_was_filled_into_a_form_is_drawn(workers):
    field = b"<< /Type /Annot /Subtype /Widget /FT /Tx /T (a) /V (x) /F 4 /Rect [0 200 100 300] /AP << /N 6 0 R >> >>"
    look = stream(b"0.5 g 0 0 100 100 re f", b"/Type /XObject /Subtype /Form /BBox [0 0 100 100]")
    form = one_page(
        b"", catalogue=b"/AcroForm << /Fields [5 0 R] >>", page=b"/Annots [5 0 R]", more={5: field, 6: look}
    )
    assert np.array_equal(drawn(workers, form)[0].pixels, drawn(workers, one_page(CORNER))[0].pixels)


@pytest.mark.row("P07")
def test_a_page_that_takes_too_long_fails_alone():
    workers = DocumentWorkers(MediaSettings(workers=1, timeout_s=0.8))
    drawn(workers, one_page())
    error = refused(workers, one_page(b"0 0 m 100 100 l S\n" * 300_000))
    assert "it was not done after 0.8 s, the limit for a page; send simpler pages (page 1)" in error.message
    assert drawn(workers, one_page())[0].original == (600, 400)
    workers.close()


@pytest.mark.row("P07")
def test_a_pattern_within_itself_ends(workers):
    pattern = stream(
        b"/Pattern cs /P scn 0 0 10 10 re f",
        b"/PatternType 1 /PaintType 1 /TilingType 1 /BBox [0 0 10 10] /XStep 1 /YStep 1 "
        b"/Resources << /Pattern << /P 5 0 R >> >>",
    )
    page = one_page(b"/Pattern cs /P scn 0 0 200 300 re f", resources=b"/Pattern << /P 5 0 R >>", more={5: pattern})
    assert drawn(workers, page)[0].original == (600, 400)


@pytest.mark.row("P08")
@pytest.mark.parametrize("codec", [b"JBIG2Decode", b"JPXDecode", b"DCTDecode", b"CCITTFaxDecode"])
def test_a_damaged_picture_inside_leaves_the_rest_of_the_page(workers, codec):
    entries = b"/Subtype /Image /Width 999 /Height 999 /BitsPerComponent 8 /ColorSpace /DeviceGray /Filter /" + codec
    page = one_page(
        b"q 50 0 0 50 0 0 cm /I Do Q " + CORNER,
        resources=b"/XObject << /I 5 0 R >>",
        more={5: stream(b"\xff\xd8\0\0jP  damaged" * 50, entries)},
    )
    assert drawn(workers, page)[0].pixels[20, 20].tolist() == [128, 128, 128]


@pytest.mark.row("P10")
@pytest.mark.parametrize("asked", ["0", "9-3", "-1", "1-", "x", "", "1,", "1;2", "1-2-3", "9999999999"])
def test_a_range_that_makes_no_sense_is_shown_with_one_that_does(asked):
    with pytest.raises(InvalidRequest, match="write numbers and ranges such as '1-3,7'") as caught:
        page_numbers(Document(b"", pages=asked), 10, 5)
    assert caught.value.error_code == "invalid_value"


@pytest.mark.row("P10")
@pytest.mark.parametrize("asked", ["11", "1-999999999"])
def test_a_page_that_is_not_there_is_named_with_how_many_there_are(asked):
    with pytest.raises(InvalidRequest, match=r"pages asks for page \d+, the document has 10; name pages from 1 to 10"):
        page_numbers(Document(b"", pages=asked), 10, 5)


def test_pages_come_once_and_in_their_order():
    assert page_numbers(Document(b"", pages="7,1-3, 2 - 4"), 10, 5) == [1, 2, 3, 4, 7]


def encrypted() -> bytes:
    """One page behind the password "secret" (RC4 of 40 bits, ISO 32000-1, 7.6.3)."""
    fill = bytes.fromhex("28bf4e5e4e758a4164004e56fffa01082e2e00b6d0683e802f0ca9fe6453697a")

    def rc4(key: bytes, data: bytes) -> bytes:
        state, j = list(range(256)), 0
        for i in range(256):
            j = (j + state[i] + key[i % len(key)]) % 256
            state[i], state[j] = state[j], state[i]
        i = j = 0
        out = bytearray()
        for byte in data:
            i = (i + 1) % 256
            j = (j + state[i]) % 256
            state[i], state[j] = state[j], state[i]
            out.append(byte ^ state[(state[i] + state[j]) % 256])
        return bytes(out)

    padded, name = (b"secret" + fill)[:32], bytes(16)
    owner = rc4(hashlib.md5(padded).digest()[:5], padded)
    key = hashlib.md5(padded + owner + (2**32 - 4).to_bytes(4, "little") + name).digest()[:5]
    user = rc4(key, fill)
    entry = b"/Encrypt << /Filter /Standard /V 1 /R 2 /P -4 /O <%s> /U <%s> >> /ID [<%s> <%s>]" % (
        *(part.hex().encode() for part in (owner, user, name, name)),
    )
    content = rc4(hashlib.md5(key + b"\4\0\0\0\0").digest()[:10], CORNER)
    return pdf(
        {
            1: b"<< /Type /Catalog /Pages 2 0 R >>",
            2: b"<< /Type /Pages /Kids [3 0 R] /Count 1 >>",
            3: b"<< /Type /Page /Parent 2 0 R /MediaBox [0 0 200 300] /Contents 4 0 R /Resources << >> >>",
            4: stream(content),
        },
        entry,
    )


@pytest.mark.row("P02")
def test_an_encrypted_document_opens_with_its_password_only(workers):
    data = encrypted()
    missing, wrong = refused(workers, data), refused(workers, data, password="guess")
    assert isinstance(missing, DocumentPasswordRequired) and isinstance(wrong, DocumentPasswordRequired)
    assert "it is encrypted; send its password as 'password'" in missing.message
    assert "the password is not the right one" in wrong.message
    assert "guess" not in wrong.message
    opened, _ = drawn(workers, data, password="secret")
    assert np.array_equal(opened.pixels, drawn(workers, one_page(CORNER))[0].pixels)


@pytest.mark.row("P11")
def test_fifty_documents_at_once_are_all_right():
    async def scene() -> None:
        workers = DocumentWorkers(MediaSettings(workers=2))
        asked = [Page(Document(pages(number + 1)), number + 1) for number in range(50)]
        found = await asyncio.gather(*(workers.draw(page, MODEL) for page in asked))
        assert [picture.original[0] for picture, _ in found] == [2 * (101 + number) for number in range(50)]
        assert len(children() - before) <= 2
        workers.close()

    before = children()
    asyncio.run(scene())


def test_a_worker_killed_in_mid_page_fails_that_page_only(workers):
    async def scene() -> None:
        await workers.draw(Page(Document(one_page()), 1), MODEL)
        (worker,) = workers._pool._idle
        os.kill(worker._child.pid, signal.SIGSTOP)
        doomed = asyncio.create_task(workers.draw(Page(Document(one_page()), 1), MODEL))
        while not workers._pool._busy:
            await asyncio.sleep(0)
        os.kill(worker._child.pid, signal.SIGKILL)
        with pytest.raises(InvalidDocument) as caught:
            await doomed
        assert "the reader crashed on it; print it to a new PDF (page 1)" in caught.value.message
        assert (await workers.draw(Page(Document(one_page()), 1), MODEL))[0].original == (600, 400)

    asyncio.run(scene())
