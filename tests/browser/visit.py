"""A person at the page: what they see by its role and name, what they do. Knows the English names; no CSS."""

from __future__ import annotations

import json
import os
import re
import shutil
from pathlib import Path
from typing import Any

from playwright.sync_api import Browser, BrowserContext, ConsoleMessage, Locator, Page, Playwright, Request, expect

ROOT = Path(__file__).parents[2]
SAMPLES = ROOT / "tests" / "golden" / "samples"
AXE = ROOT / "web" / "node_modules" / "axe-core" / "axe.min.js"
OWN_SCHEMES = ("blob:", "data:")
# Resolves when the transitions that the last change began have ended. Two frames: the first one starts them.
SETTLED = """async () => {
    for (let frames = 0; frames < 2; frames += 1) await new Promise(requestAnimationFrame);
    const passing = document.getAnimations().filter((each) => each instanceof CSSTransition);
    await Promise.allSettled(passing.map((each) => each.finished));
}"""
# Writes down what the line above a growing answer has said, each new text once.
NOTING = """() => {
    window.noted = [];
    new MutationObserver(() => {
        const line = document.querySelector('[data-testid=working]');
        if (line && window.noted.at(-1) !== line.innerText) window.noted.push(line.innerText);
    }).observe(document.body, {subtree: true, childList: true, characterData: true});
}"""
PATIENCE_MS = 15_000  # only ever spent by a test that fails
# The camera is chromium's own test picture, and nobody is there to press "allow".
CHROMIUM_ARGUMENTS = ["--use-fake-device-for-media-stream", "--use-fake-ui-for-media-stream"]

expect.set_options(timeout=PATIENCE_MS)


class Visit:
    """One page. `complaints` collects errors in the console and requests to other origins; both must stay empty."""

    def __init__(self, page: Page, origin: str):
        self.page = page
        self.origin = origin
        self.complaints: list[str] = []
        self.requested: list[str] = []
        self._expected: list[re.Pattern[str]] = []
        page.on("console", self._hear)
        page.on("pageerror", lambda error: self.complaints.append(f"exception: {error}"))
        page.on("request", self._see)

    def _hear(self, message: ConsoleMessage) -> None:
        if message.type == "error" and not any(pattern.search(message.text) for pattern in self._expected):
            self.complaints.append(f"console: {message.text}")

    def _see(self, request: Request) -> None:
        self.requested.append(request.url)
        if not request.url.startswith((self.origin + "/", *OWN_SCHEMES)):
            self.complaints.append(f"request to another origin: {request.url}")

    def expect_error(self, pattern: str) -> None:
        """Errors in the console that match are part of the test: browsers report every refused request there."""
        self._expected.append(re.compile(pattern))

    # ---- what is there

    def button(self, name: str | re.Pattern[str], *, exact: bool = True) -> Locator:
        return self.page.get_by_role("button", name=name, exact=exact)

    @property
    def question(self) -> Locator:
        return self.page.locator("#question")

    @property
    def picker(self) -> Locator:
        """What a click on the paper clip opens."""
        return self.page.locator('input[type=file][accept*="pdf"]')

    @property
    def tray(self) -> Locator:
        """The files of the next question."""
        return self.page.get_by_role("form").get_by_role("list").first.get_by_role("listitem")

    @property
    def turns(self) -> Locator:
        return self.page.get_by_role("article")

    @property
    def answer(self) -> Locator:
        """The last turn, where its answer stands."""
        return self.turns.last

    @property
    def picture(self) -> Locator:
        """The large picture beside the turns."""
        return self.page.get_by_role("img", name=re.compile("^Picture ")).first

    @property
    def marks(self) -> Locator:
        """Boxes and points on it."""
        return self.page.get_by_test_id("mark")

    # ---- what one does

    def add(self, *files: Path | dict[str, Any]) -> None:
        """Pick files, as paths or as playwright's {name, mimeType, buffer}, and wait until they are in the tray."""
        before = self.tray.count()
        self.picker.set_input_files(list(files))
        expect(self.tray).to_have_count(before + len(files))

    def choose(self, task: str) -> None:
        self.page.get_by_role("radio", name=task).check(force=True)

    def ask(self, text: str = "") -> None:
        """Type and send."""
        if text:
            self.question.fill(text)
        self.button("Ask").click()

    def until(self, state: str, turns: int = 1) -> None:
        """Wait until there are so many turns and the answer of the last one is in `state`."""
        expect(self.turns).to_have_count(turns)
        expect(self.answer.locator("section[data-state]")).to_have_attribute("data-state", state)

    def until_answered(self, turns: int = 1) -> None:
        self.until("done", turns)

    def note_progress(self) -> None:
        """From now on, remember everything the page says of an answer that is being worked on."""
        self.page.evaluate(NOTING)

    @property
    def progress(self) -> str:
        """What it has said, line by line."""
        return "\n".join(self.page.evaluate("window.noted"))

    def copied(self, what: str) -> str:
        """Copy the last answer's question by its menu, as `what` says, and look into the clipboard."""
        self.answer.get_by_role("button", name="More").click()
        self.page.get_by_text(what).click()
        return self.page.evaluate("navigator.clipboard.readText()")

    def make_answers_long(self, tokens: int) -> None:
        """Have the model go on to `tokens` whatever it thinks: the page's own requests, with a field more."""

        def longer(route) -> None:
            body = json.loads(route.request.post_data)
            route.continue_(post_data=json.dumps(body | {"ignore_eos": True, "max_tokens": tokens}))

        self.page.route("**/v1/chat/completions", longer)

    def violations(self) -> list[str]:
        """What axe finds wrong with the page as it is once its colours have settled: rule, element."""
        self.page.evaluate(SETTLED)
        self.page.evaluate(AXE.read_text(encoding="utf-8") + "\n;0")
        found = self.page.evaluate("axe.run(document, {resultTypes: ['violations']})")
        return [
            f"{violation['id']}: {node['target'][0]} ({node['failureSummary']})"
            for violation in found["violations"]
            for node in violation["nodes"]
        ]


def open_chromium(playwright: Playwright) -> Browser:
    """Debian's chromium; as root without its sandbox, in which it refuses to run then."""
    return playwright.chromium.launch(
        executable_path=shutil.which("chromium"), chromium_sandbox=os.getuid() != 0, args=CHROMIUM_ARGUMENTS
    )


class Visits:
    """The pages a test has opened."""

    def __init__(self, browser: Browser):
        self._browser = browser
        self._open: list[tuple[BrowserContext, Visit]] = []

    def open(self, url: str, path: str = "/", **profile) -> Visit:
        """A new profile's first look at `path`. `profile`: what playwright's new_context takes, such as `locale`."""
        settings = {"locale": "en-US", "viewport": {"width": 1280, "height": 800}, "reduced_motion": "reduce"}
        context = self._browser.new_context(**(settings | profile))
        context.set_default_timeout(PATIENCE_MS)
        context.grant_permissions(["camera", "clipboard-read", "clipboard-write"], origin=url)
        visit = Visit(context.new_page(), url)
        self._open.append((context, visit))
        visit.page.goto(url + path)
        return visit

    def check_and_close(self) -> None:
        for context, _ in self._open:
            context.close()
        complaints = [complaint for _, visit in self._open for complaint in visit.complaints]
        assert complaints == []
