"""A browser, a server with the demo model, and a first visit to its page."""

import os
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
from playwright.sync_api import Browser, sync_playwright

from browser.visit import Visit, Visits, open_chromium
from contract.serving import Server, serving

PAGE = Path(__file__).parents[2] / "src" / "sightline" / "web" / "index.html"


@pytest.fixture(scope="module")  # not longer: other tests count child processes, and run event loops of their own
def chromium() -> Iterator[Browser]:
    """Debian's chromium. Without it these tests are skipped, unless BROWSER_TESTS says that they are required."""
    if shutil.which("chromium") is None:
        reason = "chromium is not installed; on Debian: apt install chromium"
        if os.environ.get("BROWSER_TESTS") == "required":
            pytest.fail(reason)
        pytest.skip(reason)
    with sync_playwright() as playwright:
        browser = open_chromium(playwright)
        yield browser
        browser.close()


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """One server for the tests that leave it as they found it."""
    assert PAGE.is_file(), "the web page is not built; run: make web"
    with serving(tmp_path_factory.mktemp("cache")) as running:
        yield running


@pytest.fixture
def visits(chromium: Browser) -> Iterator[Visits]:
    """Opens pages, each in a browser profile of its own; at the end none of them may have complained."""
    opened = Visits(chromium)
    yield opened
    opened.check_and_close()


@pytest.fixture
def visit(visits: Visits, server: Server) -> Visit:
    """A first visit to the page, in English, on a desk."""
    return visits.open(server.url)
