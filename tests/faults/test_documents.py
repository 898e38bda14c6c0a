"""The rows about documents, on a live server. What needs smaller limits is walked in tests/media/test_documents.py."""

from __future__ import annotations

import base64

import pytest

from faults.conftest import says
from media.pdfs import one_page, pages, pdf, receipts, without_font
from media.test_documents import encrypted


def chat(document: bytes, **wishes: object) -> dict:
    url = "data:application/pdf;base64," + base64.b64encode(document).decode()
    return says({"type": "file", "file": {"file_data": url}, **wishes}, {"type": "text", "text": "What is it?"})


@pytest.mark.row("P01")
@pytest.mark.parametrize(
    ("document", "code"),
    [
        (b"not a PDF", "unsupported_media_type"),
        (one_page()[:250], "document_parse_error"),
        (b"%PDF-1.7 nothing follows %%EOF", "document_parse_error"),
    ],
)
def test_what_is_no_whole_pdf_is_refused(walk, document, code):
    assert walk.refused(chat(document), code).startswith("Invalid document data: cannot read document")


@pytest.mark.row("P01")
def test_an_empty_pdf_is_refused(walk):
    assert "it is empty" in walk.refused(chat(b""), "document_parse_error")


@pytest.mark.row("P02")
def test_a_password_is_asked_for_and_never_shown_or_logged(walk):
    walk.refused(chat(encrypted()), "document_password_required")
    assert "hunter2" not in walk.refused(chat(encrypted(), password="hunter2"), "document_password_required")
    walk.answered(chat(encrypted(), password="secret"))
    assert not any("hunter2" in line or "secret" in line for line in walk.server.lines)


@pytest.mark.row("P03")
def test_a_vast_page_is_drawn_small(walk):
    reply = walk.answered(chat(one_page(box=b"[0 0 14400 14400]"), dpi=1200))
    assert reply["sightline"]["images"][0]["width"] == 5000


@pytest.mark.row("P03")
def test_an_absurd_resolution_is_refused(walk):
    walk.refused(chat(one_page(), dpi=10_000), "invalid_value", param="messages[0].content[0].dpi")


@pytest.mark.row("P05")
def test_ten_thousand_pages_are_refused(walk):
    kids = {
        1: b"<< /Type /Catalog /Pages 2 0 R >>",
        2: b"<< /Type /Pages /Kids [" + b"3 0 R " * 10_000 + b"] /Count 10000 >>",
        3: b"<< /Type /Page /Parent 2 0 R /MediaBox [0 0 99 99] >>",
    }
    assert "10000 pages, the limit is 32" in walk.refused(chat(pdf(kids)), "too_many_pages")


@pytest.mark.row("P10")
@pytest.mark.parametrize("asked", ["0", "9-3", "1-1000000000", "all"])
def test_a_range_that_makes_no_sense_is_refused(walk, asked):
    walk.refused(chat(pages(3), pages=asked), "invalid_value")


@pytest.mark.row("P12")
def test_a_document_without_pages_is_refused(walk):
    empty = {1: b"<< /Type /Catalog /Pages 2 0 R >>", 2: b"<< /Type /Pages /Kids [] /Count 0 >>"}
    walk.refused(chat(pdf(empty)), "document_parse_error")


@pytest.mark.row("P13")
def test_a_zip_is_refused_by_name(walk):
    assert "ZIP archive or Office file" in walk.refused(chat(b"PK\3\4" + bytes(99)), "unsupported_media_type")


@pytest.mark.row("P11")
def test_a_good_document_is_answered(walk):
    assert walk.answered(chat(receipts(2)))["usage"]["prompt_tokens_details"]["image_tokens"] == 2 * 88


@pytest.mark.row("P14")
def test_the_answer_says_how_many_letters_it_could_not_see(walk):
    said = walk.answered(chat(without_font(3)))
    assert said["sightline"]["images"][0]["missing_letters"] == 3
