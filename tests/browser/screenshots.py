"""Takes the pictures of the page that the README and docs/ show.

Run as `PYTHONPATH=src:tests python -m browser.screenshots`. Needs the built page, chromium and
fonts (on Debian: chromium, fonts-noto-cjk); writes docs/images/.
"""

from __future__ import annotations

import io
import tempfile
from collections.abc import Callable
from pathlib import Path

import httpx2
from PIL import Image
from playwright.sync_api import Browser, expect, sync_playwright

from browser.visit import ROOT, SAMPLES, Visit, Visits, open_chromium
from contract.serving import serving

FOLDER = ROOT / "docs" / "images"
DESK = {"viewport": {"width": 1200, "height": 760}}
PHONE = {"viewport": {"width": 390, "height": 780}, "device_scale_factor": 2, "is_mobile": True, "has_touch": True}


def start(visit: Visit) -> None:
    expect(visit.question).to_be_visible()


def answer(visit: Visit) -> None:
    visit.add(SAMPLES / "receipt_1.png")
    visit.ask("What is the total amount?")
    visit.until_answered()
    visit.ask("What is the date?")
    visit.until_answered(turns=2)


def chinese_answer(visit: Visit) -> None:
    visit.add(SAMPLES / "receipt_1.png")
    visit.question.fill("总金额是多少?")
    visit.page.keyboard.press("Enter")
    visit.until_answered()


def chart(visit: Visit) -> None:
    visit.add(SAMPLES / "chart_1.png")
    visit.choose("Chart to table")
    visit.ask()
    visit.until_answered()
    visit.button("Hide this notice").click()


def status(visit: Visit) -> None:
    answer(visit)
    visit.page.get_by_role("link", name="Status").click()
    expect(visit.page.get_by_role("heading", name="Status")).to_be_visible()
    question = {"messages": [{"role": "user", "content": "hello"}], "max_tokens": 200, "ignore_eos": True}
    for _ in range(8):  # so that its charts have something to draw
        httpx2.post(f"{visit.origin}/v1/chat/completions", json=question, timeout=60)
        visit.page.wait_for_timeout(2000)


SHOTS: dict[str, tuple[dict[str, object], Callable[[Visit], None]]] = {
    "page-light": (DESK, answer),
    "page-dark": (DESK | {"color_scheme": "dark"}, chart),
    "page-phone": (PHONE, start),
    "page-phone-answer": (PHONE, answer),
    "page-chinese": (DESK | {"locale": "zh-CN"}, chinese_answer),
    "page-status": (DESK, status),
}


def shoot(chromium: Browser, url: str) -> None:
    for name, (profile, view) in SHOTS.items():
        visits = Visits(chromium)
        visit = visits.open(url, **profile)
        view(visit)
        visit.page.mouse.move(0, 0)
        shot = Image.open(io.BytesIO(visit.page.screenshot(animations="disabled")))
        visits.check_and_close()
        file = FOLDER / f"{name}.webp"
        shot.convert("RGB").save(file, quality=82, method=6)
        print(f"{file.relative_to(ROOT)}: {file.stat().st_size // 1024} kB")


def main() -> None:
    FOLDER.mkdir(exist_ok=True)
    with tempfile.TemporaryDirectory() as cache, serving(Path(cache)) as server, sync_playwright() as playwright:
        shoot(open_chromium(playwright), server.url)


if __name__ == "__main__":
    main()
