"""For everyone: Chinese, a phone, the keyboard alone, both themes without a fault, quick to load, only from here."""

import re

import httpx2
import pytest
from playwright.sync_api import expect

from browser.files import pdf
from browser.visit import AXE, SAMPLES
from contract.serving import serving

RECEIPT = SAMPLES / "receipt_1.png"
PHONE = {"viewport": {"width": 360, "height": 740}, "device_scale_factor": 2, "has_touch": True, "is_mobile": True}
FIRST_LOAD_BYTES = 300_000  # compressed JavaScript
INTERACTIVE_MS = 1000


@pytest.fixture
def chinese(visits, server):
    return visits.open(server.url, locale="zh-CN")


def test_a_chinese_browser_gets_a_chinese_page_and_a_chinese_answer_path(chinese):
    expect(chinese.page.locator("html")).to_have_attribute("lang", re.compile("^zh"))
    chinese.add(RECEIPT)
    chinese.question.fill("总金额是多少?")
    chinese.page.keyboard.press("Enter")
    chinese.until_answered()
    expect(chinese.answer).to_contain_text("39.63")


def test_no_english_is_left_on_the_chinese_page(chinese):
    texts = chinese.page.locator("body").inner_text()
    names = chinese.page.evaluate(
        "[...document.querySelectorAll('[aria-label], [title], [placeholder]')]"
        ".flatMap((node) => ['aria-label', 'title', 'placeholder'].map((name) => node.getAttribute(name) ?? ''))"
    )
    known = re.compile(r"sightline[\w-]*|serve|Qwen\S*|PDF|JPG|PNG|JSON|COCO|Enter|Shift|API|HEIC|English", re.I)
    left = [text for text in [*texts.splitlines(), *names] if re.search(r"[A-Za-z]{3,}", known.sub("", text))]
    assert left == []


def test_a_phone_has_no_sideways_scrolling_and_room_for_the_thumb(visits, server):
    visit = visits.open(server.url, **PHONE)
    visit.button(re.compile("A receipt"), exact=False).tap()
    visit.button("Ask").tap()
    visit.until_answered()
    expect(visit.answer).to_contain_text("39.63")
    assert visit.page.evaluate("document.documentElement.scrollWidth") <= 360
    small = visit.page.evaluate(
        "[...document.querySelectorAll('button, a[href]')].filter((node) => node.checkVisibility())"
        ".map((node) => [node.getAttribute('aria-label') ?? node.textContent, node.getBoundingClientRect()])"
        ".filter(([, box]) => box.width && box.height && Math.min(box.width, box.height) < 24).map(([name]) => name)"
    )
    assert small == []


def test_a_question_is_asked_with_the_keyboard_alone(visit):
    expect(visit.question).to_be_visible()
    visit.page.keyboard.press("Tab")
    expect(visit.page.get_by_text("Skip to the question")).to_be_focused()
    visit.page.keyboard.press("Enter")
    expect(visit.question).to_be_focused()
    visit.add(RECEIPT)
    visit.question.focus()
    visit.page.keyboard.type("What is the total?")
    visit.page.keyboard.press("Enter")
    visit.until_answered()
    expect(visit.question).to_be_focused()
    expect(visit.page.locator("[aria-live], [role=status]").filter(has_text="The answer is complete.")).to_have_count(1)


def test_a_dialog_takes_the_focus_and_gives_it_back(visit):
    settings = visit.button("Settings")
    settings.focus()
    visit.page.keyboard.press("Enter")
    expect(visit.page.get_by_role("dialog")).to_be_visible()
    visit.page.keyboard.press("Escape")
    expect(visit.page.get_by_role("dialog")).to_be_hidden()
    expect(settings).to_be_focused()


def answered(visit):
    visit.add(RECEIPT)
    visit.ask("What is the total?")
    visit.until_answered()


def fields(visit):
    visit.add(RECEIPT)
    visit.choose("Fill fields")
    visit.ask()
    visit.until_answered()


def marked(visit):
    visit.add(SAMPLES / "scene_0.png")
    visit.choose("Find objects")
    visit.ask("the blue star")
    visit.until_answered()


def failed(visit):
    visit.expect_error("ERR_FAILED|Failed to load")
    visit.page.route("**/v1/chat/completions", lambda route: route.abort())
    visit.add(RECEIPT)
    visit.ask("What is the total?")
    visit.until("failed")


def document(visit):
    visit.add({"name": "paper.pdf", "mimeType": "application/pdf", "buffer": pdf(RECEIPT)})
    visit.choose("Document")


def camera(visit):
    visit.button("Take a photo").click()
    expect(visit.button("Take the photo")).to_be_enabled()


def settings(visit):
    visit.button("Settings").click()


def status(visit):
    visit.page.get_by_role("link", name="Status").click()
    expect(visit.page.get_by_role("heading", name="Status")).to_be_visible()


VIEWS = {"empty": lambda visit: None} | {
    view.__name__: view for view in (answered, fields, marked, failed, document, camera, settings, status)
}


@pytest.mark.parametrize("view", VIEWS)
def test_axe_finds_no_fault_in_either_theme(visits, server, view):
    assert AXE.is_file(), "web/node_modules is missing; run: make web"
    visit = visits.open(server.url, bypass_csp=True)  # axe is not part of the page
    expect(visit.question).to_be_visible()
    VIEWS[view](visit)
    for theme in ("light", "dark"):
        visit.page.emulate_media(color_scheme=theme)
        assert visit.violations() == []


def test_the_first_load_is_small(visits, server):
    visit = visits.open(server.url)
    visit.page.wait_for_load_state("networkidle")
    scripts = [url for url in visit.requested if re.search(r"\.m?js($|\?)", url)]
    assert scripts
    with httpx2.Client(headers={"accept-encoding": "br, gzip"}) as client:
        sizes = {}
        for url in scripts:
            with client.stream("GET", url) as reply:
                sizes[url.rpartition("/")[2]] = sum(len(chunk) for chunk in reply.iter_raw())
    assert sum(sizes.values()) < FIRST_LOAD_BYTES, sizes


def test_the_page_can_be_used_within_a_second(visits, server):
    """The best of five, by the browser's own clock: from the click on the link to a question box that takes text."""
    times = []
    for _ in range(5):
        visit = visits.open(server.url)
        visit.question.fill("x")
        times.append(visit.page.evaluate("performance.getEntriesByName('ready')[0].startTime"))
    assert min(times) < INTERACTIVE_MS


def test_the_page_opens_without_any_other_host_and_under_a_base_path(visits, tmp_path):
    with serving(tmp_path, SIGHTLINE_BASE_PATH="/qwen-vl") as based:
        visit = visits.open(based.url, "/qwen-vl")
        visit.button(re.compile("A receipt"), exact=False).click()
        visit.ask()
        visit.until_answered()
        expect(visit.answer).to_contain_text("39.63")
        own = [url for url in visit.requested if url.startswith(based.url)]
        assert all(url.startswith(f"{based.url}/qwen-vl") for url in own)
