"""The first minutes at the page: everything a picture can come by, and what happens to files that are none."""

import base64
import io
import re

import pytest
from PIL import Image
from playwright.sync_api import expect

from browser.files import heic_of, noise_jpeg, pdf, video
from browser.visit import SAMPLES
from media.test_documents import encrypted

RECEIPT = SAMPLES / "receipt_1.png"


def test_a_newcomer_opens_the_page_takes_the_receipt_and_reads_the_right_total(visit):
    expect(visit.page.get_by_role("heading", name="Ask about a picture")).to_be_visible()
    visit.button(re.compile("A receipt"), exact=False).click()
    expect(visit.question).to_have_value("What is the total?")
    visit.ask()
    visit.until_answered()
    expect(visit.answer).to_contain_text("39.63")


@pytest.mark.parametrize(("sample", "right"), [("A chart", "May"), ("A few shapes", "3")])
def test_the_other_samples_are_answered_right_as_well(visit, sample, right):
    visit.button(re.compile(sample), exact=False).click()
    visit.ask()
    visit.until_answered()
    expect(visit.answer.get_by_text(right, exact=True)).to_be_visible()


def test_every_task_says_what_it_gives_back(visit):
    told = set()
    for task in ("Ask", "Read text", "Fill fields", "Chart to table", "Find objects", "Document", "Video"):
        visit.choose(task)
        expect(visit.question).to_have_accessible_description(re.compile("^Gives: "))
        told.add(visit.page.locator("#task-returns").text_content())
    assert len(told) == 7


def test_the_page_says_that_the_demo_model_answers_and_how_to_get_a_real_one(visit):
    notice = visit.page.get_by_text("The demo model answers.")
    expect(notice).to_be_visible()
    expect(visit.page.get_by_text(re.compile(r"sightline serve \S+"))).to_be_visible()


def test_a_picture_is_picked_and_asked_about(visit):
    visit.add(RECEIPT)
    visit.ask("What is the total amount?")
    visit.until_answered()
    expect(visit.answer).to_contain_text("39.63")


def send_event(visit, kind, field, target, name, data, mime):
    """A paste or drop of one file, as the browser would send it."""
    visit.page.evaluate(
        """([kind, field, target, name, data, mime]) => {
            const bytes = Uint8Array.from(atob(data), (letter) => letter.charCodeAt(0));
            const transfer = new DataTransfer();
            transfer.items.add(new File([bytes], name, { type: mime }));
            const make = kind === 'paste' ? ClipboardEvent : DragEvent;
            const event = new make(kind, { [field]: transfer, bubbles: true, cancelable: true });
            document.querySelector(target).dispatchEvent(event);
        }""",
        [kind, field, target, name, base64.b64encode(data).decode(), mime],
    )


@pytest.mark.parametrize(("kind", "field"), [("paste", "clipboardData"), ("drop", "dataTransfer")])
def test_a_picture_is_pasted_or_dropped_and_asked_about(visit, kind, field):
    expect(visit.question).to_be_visible()
    send_event(visit, kind, field, "#question", "receipt.png", RECEIPT.read_bytes(), "image/png")
    expect(visit.tray).to_have_count(1)
    visit.ask("What is the date?")
    visit.until_answered()
    expect(visit.answer).to_contain_text("2021-07-01")


def test_a_photo_is_taken_with_the_camera_and_asked_about(visit):
    visit.button("Take a photo").click()
    visit.button("Take the photo").click()
    expect(visit.tray).to_have_count(1)
    visit.ask("What is this?")
    visit.until_answered()


def test_several_pictures_are_reordered_and_removed_with_the_keyboard(visit):
    visit.add(SAMPLES / "receipt_1.png", SAMPLES / "chart_1.png", SAMPLES / "scene_0.png")
    first = visit.tray.first
    expect(first).to_have_attribute("aria-label", re.compile("receipt_1.png, 1 of 3"))
    first.focus()
    visit.page.keyboard.press("ArrowRight")
    expect(visit.tray.nth(1)).to_have_attribute("aria-label", re.compile("receipt_1.png, 2 of 3"))
    expect(visit.tray.nth(1)).to_be_focused()
    visit.page.keyboard.press("Delete")
    expect(visit.tray).to_have_count(2)
    visit.button("Remove scene_0.png").click()
    expect(visit.tray).to_have_count(1)


def test_pictures_are_reordered_by_dragging_and_in_the_large_view(visit):
    visit.add(SAMPLES / "receipt_1.png", SAMPLES / "chart_1.png")
    visit.tray.first.drag_to(visit.tray.nth(1))
    expect(visit.tray.first).to_have_attribute("aria-label", re.compile("chart_1.png, 1 of 2"))
    visit.tray.first.click()
    visit.button("Move back").click()
    visit.page.keyboard.press("Escape")
    expect(visit.tray.first).to_have_attribute("aria-label", re.compile("receipt_1.png, 1 of 2"))


def test_a_heic_from_a_phone_is_named_where_it_cannot_be_shown_and_is_read_all_the_same(visit):
    visit.add({"name": "IMG_2041.heic", "mimeType": "image/heic", "buffer": heic_of(RECEIPT)})
    expect(visit.tray.get_by_text("HEIC")).to_be_visible()
    visit.ask("What is the total?")
    visit.until_answered()
    expect(visit.answer).to_contain_text("39.63")
    expect(visit.page.get_by_text("This browser cannot show this kind of picture.")).to_be_visible()
    expect(visit.page.get_by_text("IMG_2041.heic")).to_be_visible()


def test_a_locked_pdf_asks_for_its_password_and_once_more_after_a_reload(visit):
    visit.add({"name": "locked.pdf", "mimeType": "application/pdf", "buffer": encrypted()})
    visit.ask()
    expect(visit.page.get_by_role("alert").get_by_text("locked.pdf is locked")).to_be_visible()
    password = visit.page.get_by_label("Password")
    password.fill("guess")
    password.press("Enter")
    expect(visit.page.get_by_text("This password does not open the PDF.").first).to_be_visible()
    password.fill("secret")
    password.press("Enter")
    expect(visit.page.get_by_label("Pages")).to_be_visible()
    visit.ask("What is on it?")
    visit.until_answered()
    visit.page.reload()
    password.fill("secret")
    password.press("Enter")
    expect(visit.page.get_by_role("img", name="Page 1")).to_be_visible()
    visit.ask("What is in the corner?")
    visit.until_answered(turns=2)


def test_pages_that_are_not_there_are_said_before_anything_is_sent(visit):
    visit.add({"name": "paper.pdf", "mimeType": "application/pdf", "buffer": pdf(RECEIPT, RECEIPT)})
    visit.page.get_by_label("Pages").fill("2-7")
    visit.ask("What is the total?")
    expect(visit.page.get_by_role("alert").get_by_text("out of 1 to 2")).to_be_visible()
    expect(visit.turns).to_have_count(0)


def test_a_pdf_shows_its_pages_and_is_analysed(visit):
    visit.add({"name": "paper.pdf", "mimeType": "application/pdf", "buffer": pdf(RECEIPT, SAMPLES / "chart_1.png")})
    visit.choose("Document")
    expect(visit.page.get_by_label("Pages")).to_have_attribute("placeholder", re.compile("all 2"))
    visit.page.get_by_label("Pages").fill("1")
    visit.ask("What is the total?")
    visit.until_answered()


def test_a_video_is_asked_about(visit):
    visit.add({"name": "clip.webm", "mimeType": "video/webm", "buffer": video(SAMPLES / "scene_0.png", seconds=2)})
    visit.choose("Video")
    visit.ask("What is in the video?")
    visit.until_answered()


def test_a_large_photo_is_scaled_in_the_browser(visit):
    with visit.page.expect_request("**/v1/chat/completions") as asked:
        visit.add({"name": "photo.jpg", "mimeType": "image/jpeg", "buffer": noise_jpeg(3000, 2000)})
        visit.ask("What is this?")
    url = asked.value.post_data_json["messages"][-1]["content"][0]["image_url"]["url"]
    sent = Image.open(io.BytesIO(base64.b64decode(url.partition(",")[2])))
    assert max(sent.size) == 1920
    assert abs(sent.width / sent.height - 1.5) < 0.01
    visit.until_answered()


def test_a_file_over_the_limit_is_refused_before_anything_is_sent(visit, tmp_path):
    expect(visit.question).to_be_visible()
    big = tmp_path / "big.heic"
    big.write_bytes(b"\0\0\0\x18ftypheic\0\0\0\0mif1heic" + bytes(11 << 20))
    visit.picker.set_input_files(big)
    expect(visit.page.get_by_text(re.compile(r"big\.heic has 11.* the limit is 10"))).to_be_visible()
    expect(visit.tray).to_have_count(0)
    assert not [url for url in visit.requested if "completions" in url]


@pytest.mark.parametrize(
    ("name", "data"),
    [("cut.png", RECEIPT.read_bytes()[:300]), ("page.png", b"<html>"), ("empty.png", b""), ("notes.txt", b"hello")],
)
def test_a_file_that_is_no_picture_is_named_and_left_out(visit, name, data):
    expect(visit.question).to_be_visible()
    visit.picker.set_input_files({"name": name, "mimeType": "image/png", "buffer": data})
    expect(visit.page.get_by_text(re.compile(f"{re.escape(name)} (is|cannot)")).first).to_be_visible()
    expect(visit.tray).to_have_count(0)
