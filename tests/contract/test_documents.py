"""What programs that send PDFs rely on, on a live port with the demo model: totals, page by page, and their places."""

import base64
import io
import json
from concurrent.futures import ThreadPoolExecutor

import httpx2
import PIL.Image
import pytest

from contract.serving import serving
from media.pdfs import RECEIPTS, of_pictures, one_page, pages, receipts
from media.receipts import receipt
from sightline.wire_tasks import Analysis

TOTALS = list(json.loads((RECEIPTS / "totals.json").read_text()).values())
TOTAL = "What is the total amount?"


@pytest.fixture(scope="module")
def client(cache):
    settings = {"SIGHTLINE_MAX_PAGES": "3"}
    with serving(cache, **settings) as server, httpx2.Client(base_url=server.url, timeout=60) as client:
        yield client


def data_url(document: bytes) -> str:
    return "data:application/pdf;base64," + base64.b64encode(document).decode()


def png(picture: PIL.Image.Image) -> str:
    buffer = io.BytesIO()
    picture.save(buffer, "PNG")
    return base64.b64encode(buffer.getvalue()).decode()


def analysed(client, document: bytes, **options: object) -> dict:
    body = {"task": "doc_analyze", "documents": [data_url(document)], "text": TOTAL, "options": options}
    reply = client.post("/infer", json=body).json()
    assert (reply["code"], reply["msg"]) == (0, "success")
    return reply["result"]


def asked(client, document: bytes, question: str = TOTAL, path: str = "/v1/chat/completions", **wishes: object):
    part = {"type": "file", "file": {"file_data": data_url(document), "filename": "receipts.pdf"}, **wishes}
    content = [part, {"type": "text", "text": question}]
    body = {"messages": [{"role": "user", "content": content}], "temperature": 0, "max_tokens": 20}
    return client.post(path, json=body)


def streamed(client, document: bytes) -> list[tuple[str, dict]]:
    """Name and data of every event."""
    body = {"task": "doc_analyze", "documents": [data_url(document)], "text": TOTAL}
    events = client.post("/infer_stream", json=body).text.split("\n\n")[:-1]
    lines = [event.split("\n") for event in events if not event.startswith(":")]
    return [(name.removeprefix("event: "), json.loads(data.removeprefix("data: "))) for name, data in lines]


def test_the_totals_of_three_receipts_come_with_their_pages(client):
    result = analysed(client, receipts(3))
    data = Analysis.model_validate_json(json.dumps(result["data"]))
    assert [(page.page, page.answer) for page in data.pages] == list(enumerate(TOTALS[:3], 1))
    assert all(page.confidence > 0.5 and page.error is None for page in data.pages)
    for number, total in enumerate(TOTALS[:3], 1):
        assert f"{total} [p. {number}]" in result["answer"]
    assert result["metadata"]["output_tokens"] > 0
    assert set(result["field_confidence"]) >= {"pages[0].answer", "pages[2].answer", "merged.answer"}


def test_the_pages_to_read_can_be_named(client):
    result = analysed(client, receipts(5), pages="1,3-4", dpi=72)
    assert [page["page"] for page in result["data"]["pages"]] == [1, 3, 4]
    assert [page["answer"] for page in result["data"]["pages"]] == [TOTALS[0], TOTALS[2], TOTALS[3]]


def test_a_stream_tells_each_page_as_it_is_read_and_ends_with_the_merged_answer(client):
    events = streamed(client, receipts(5))
    assert [name for name, _ in events] == ["progress"] * 5 + ["token", "final"]
    told = [data for name, data in events if name == "progress"]
    assert [(page["stage"], page["page"], page["done"], page["pages"]) for page in told] == [
        ("page", number, number, 5) for number in range(1, 6)
    ]
    assert [page["answer"] for page in told] == TOTALS
    assert events[-1][1]["answer"] == events[-2][1]["token"]
    assert events[-1][1]["data"]["pages"][4]["answer"] == TOTALS[4]


def test_forty_receipts_are_read_page_by_page_as_well_as_one_by_one(client):
    drawn = [receipt(number) for number in range(40)]
    totals = [total for _, total in drawn]
    events = streamed(client, of_pictures([page for page, _ in drawn]))
    told = [data for name, data in events if name == "progress"]
    assert [(page["page"], page["done"], page["pages"], page["error"]) for page in told] == [
        (number, number, 40, None) for number in range(1, 41)
    ]
    read = [page["answer"] for page in told]
    final = events[-1][1]
    assert [page["answer"] for page in final["data"]["pages"]] == read
    assert final["data"]["merged"]["citations"] == list(range(1, 41))
    assert final["answer"] == "\n".join(f"{answer} [p. {number}]" for number, answer in enumerate(read, 1))

    def alone(page: PIL.Image.Image) -> str:
        body = {"task": "vqa", "images": [png(page)], "text": TOTAL, "options": {"temperature": 0}}
        return client.post("/infer", json=body).json()["result"]["answer"]

    with ThreadPoolExecutor(3) as pool:
        pictures = list(pool.map(alone, (page for page, _ in drawn)))
    right = sum(map(str.__eq__, pictures, totals))
    assert right >= 20  # or it says little that pages are read as well
    assert sum(map(str.__eq__, read, totals)) >= right - 2  # a page is a JPEG, the picture is not
    assert sum(map(str.__eq__, read, pictures)) >= 34


def test_a_damaged_page_is_marked_and_the_others_are_read(client):
    result = analysed(client, pages(3, 2))
    errors = [page["error"] for page in result["data"]["pages"]]
    assert (errors[0], errors[2]) == (None, None)
    assert errors[1]["code"] == "document_parse_error"
    assert errors[1]["message"].endswith("(page 2)")


def test_a_crooked_scan_is_set_straight_and_still_read(client):
    receipt = PIL.Image.open(RECEIPTS / "1.png").convert("RGB")
    crooked = receipt.rotate(4, PIL.Image.Resampling.BICUBIC, fillcolor=receipt.getpixel((2, 2)))
    reply = asked(client, of_pictures([crooked])).json()
    assert reply["choices"][0]["message"]["content"] == TOTALS[0]
    assert reply["sightline"]["images"][0]["turned_degrees"] == pytest.approx(-4, abs=0.5)


def test_a_file_part_of_a_chat_is_its_pages(client):
    reply = asked(client, receipts(3), pages="2").json()
    assert reply["choices"][0]["message"]["content"] == TOTALS[1]
    (page,) = reply["sightline"]["images"]
    assert page == {
        "width": 256, "height": 352, "resized_width": 256, "resized_height": 352, "tokens": 88, "page": 2,
    }  # fmt: skip
    three = asked(client, receipts(3)).json()
    assert [page["page"] for page in three["sightline"]["images"]] == [1, 2, 3]


def test_the_pages_of_several_documents_count_together(client):
    part = {"type": "file", "file": {"file_data": data_url(receipts(2))}}
    body = {"messages": [{"role": "user", "content": [part, part, {"type": "text", "text": TOTAL}]}]}
    error = client.post("/v1/chat/completions", json=body).json()["error"]
    assert (error["code"], error["param"]) == ("too_many_pages", "messages[0].content[1]")
    assert error["message"].startswith("the documents have more than 3 pages together")


def test_the_same_page_is_not_computed_twice(client):
    asked(client, receipts(4), pages="4")
    reply = asked(client, receipts(4), "What is the date?", pages="4").json()
    assert reply["sightline"]["cached_images"] == 1


def test_a_form_takes_a_pdf_as_a_file(client):
    files = {"file": ("receipts.pdf", receipts(2), "application/pdf")}
    fields = {"prompt": TOTAL, "pages": "2", "temperature": "0"}
    reply = client.post("/v1/chat/completions", files=files, data=fields).json()
    assert reply["choices"][0]["message"]["content"] == TOTALS[1]


def test_the_openai_library_sends_a_pdf(cache):
    with serving(cache) as server:
        reply = server.ask(
            {"type": "file", "file": {"file_data": data_url(receipts(1)), "filename": "receipt.pdf"}},
            {"type": "text", "text": TOTAL},
            temperature=0,
            max_tokens=20,
        )
    assert reply.choices[0].message.content == TOTALS[0]


def test_an_estimate_counts_the_pages(client):
    reply = asked(client, receipts(3), path="/v1/estimate").json()
    assert [page["page"] for page in reply["images"]] == [1, 2, 3]
    assert reply["image_tokens"] == 3 * 88


@pytest.mark.parametrize(
    ("document", "wishes", "status", "code"),
    [
        (b"no PDF", {}, 400, "unsupported_media_type"),
        (one_page()[:200], {}, 400, "document_parse_error"),
        (pages(4), {}, 400, "too_many_pages"),
        (pages(4), {"pages": "5"}, 400, "invalid_value"),
        (pages(4), {"pages": "2-1"}, 400, "invalid_value"),
        (pages(4), {"dpi": 10_000}, 400, "invalid_value"),
    ],
)
def test_a_document_that_cannot_be_read_is_refused_by_name(client, document, wishes, status, code):
    reply = asked(client, document, **wishes)
    error = reply.json()["error"]
    assert (reply.status_code, error["code"]) == (status, code)
    assert error["param"].startswith("messages[0].content[0]")


def test_a_task_refuses_a_document_with_its_own_codes(client):
    def refusal(**fields: object) -> tuple[int, int, str]:
        reply = client.post("/infer", json={"task": "doc_analyze"} | fields)
        return reply.status_code, reply.json()["code"], reply.json()["msg"]

    picture = base64.b64encode((RECEIPTS / "1.png").read_bytes()).decode()
    status, code, message = refusal(documents=[picture])
    assert (status, code) == (400, 1000)
    assert "this is a picture; pictures go into 'images'" in message
    status, code, message = refusal(images=[picture])
    assert (status, code) == (400, 1000)
    assert "ask about pictures with task 'vqa' or 'ocr'" in message


def test_a_png_of_a_page_and_the_page_are_read_alike(client):
    picture = png(PIL.Image.open(RECEIPTS / "5.png"))
    body = {"task": "vqa", "images": [picture], "text": TOTAL, "options": {"temperature": 0}}
    alone = client.post("/infer", json=body).json()["result"]["answer"]
    assert analysed(client, receipts(5), pages="5")["data"]["pages"][0]["answer"] == alone == TOTALS[4]
