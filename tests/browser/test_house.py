"""The house and who answers in it: the status view while work is done, and two models side by side."""

import contextlib
import json
import re
import shutil

import httpx2
import pytest
from playwright.sync_api import expect

from browser.visit import ROOT, SAMPLES
from contract.serving import serving

RECEIPT = SAMPLES / "receipt_1.png"
LONG = {"messages": [{"role": "user", "content": "hello"}], "ignore_eos": True, "max_tokens": 4000, "stream": True}


def chart(visit, name):
    return visit.page.get_by_role("img", name=re.compile(f"^{name}, now "))


def test_the_status_view_shows_what_the_server_is_doing(visit, server):
    visit.page.get_by_role("link", name="Status").click()
    expect(visit.page.get_by_text("Healthy", exact=True)).to_be_visible()
    expect(visit.page.get_by_text("Nobody is asking anything right now.")).to_be_visible()
    expect(visit.page.get_by_text("Keys, usage, moderation and the audit log get their pages")).to_be_visible()
    with contextlib.ExitStack() as others:
        for _ in range(2):
            others.enter_context(httpx2.stream("POST", f"{server.url}/v1/chat/completions", json=LONG, timeout=60))
        expect(visit.page.get_by_role("row", name=re.compile(r"^Ask Answering .* \+ \d+$"))).to_have_count(2)
        expect(chart(visit, "Answering now")).to_have_accessible_name("Answering now, now 2")
    expect(chart(visit, "Answering now")).to_have_accessible_name("Answering now, now 0")
    told = httpx2.get(f"{server.url}/v1/status").json()
    expect(chart(visit, "Memory")).to_have_accessible_name(re.compile(r"now \d+ MB"))
    for name in ("First word", "Speed", "Conversation cache", "Picture cache", "Pictures known"):
        expect(chart(visit, name)).to_be_visible()
    expect(visit.page.get_by_text(told["models"][0]["id"], exact=True).first).to_be_visible()


@pytest.fixture(scope="module")
def other(tmp_path_factory):
    """A second server: the demo model once more, as a checkpoint of its own name and in int8."""
    home = tmp_path_factory.mktemp("other")
    shutil.copytree(ROOT / "src" / "sightline" / "demo_model", home / "demo-int8")
    settings = {"SIGHTLINE_MODEL": str(home / "demo-int8"), "SIGHTLINE_PRECISION": "int8"}
    with serving(home, **settings) as running:
        yield running


@pytest.fixture
def two(visits, server, other):
    """The page behind a gateway: one address, the models of both servers, each question to the one that has it."""

    def status(route):
        here, there = (httpx2.get(f"{each.url}/v1/status").json() for each in (server, other))
        route.fulfill(json=here | {"models": here["models"] + there["models"]})

    def chat(route):
        wanted = json.loads(route.request.post_data).get("model")
        path = route.request.url.removeprefix(server.url)
        route.continue_(url=(other if wanted == "demo-int8" else server).url + path)

    visit = visits.open(server.url, bypass_csp=True)  # axe is not part of the page
    visit.page.route("**/v1/status", status)
    visit.page.route("**/v1/chat/completions", chat)
    visit.page.reload()
    return visit


def test_two_models_answer_side_by_side(two, other):
    asked = httpx2.get(f"{other.url}/v1/status").json()["totals"]["answers"]
    two.page.get_by_role("combobox", name="Model", exact=True).select_option("sightline-demo")
    two.page.get_by_role("combobox", name="Compare with").select_option("demo-int8")
    two.add(RECEIPT)
    two.ask("What is the total?")
    answers = two.answer.locator("section[data-state=done]")
    expect(answers).to_have_count(2)
    for at, model in enumerate(("sightline-demo", "demo-int8")):
        expect(answers.nth(at).get_by_role("heading", name=model)).to_be_visible()
        expect(answers.nth(at)).to_contain_text("39.63")
    left, right = (answers.nth(at).bounding_box() for at in (0, 1))
    assert left["x"] + left["width"] <= right["x"]
    assert abs(left["y"] - right["y"]) <= 1
    assert httpx2.get(f"{other.url}/v1/status").json()["totals"]["answers"] == asked + 1
    for theme in ("dark", "light"):
        two.page.emulate_media(color_scheme=theme)
        assert two.violations() == []
    # The second question follows the first model's answer, and the choice outlives a reload.
    two.ask("What is the date?")
    expect(two.turns).to_have_count(2)
    expect(two.turns.last.get_by_text("2021-07-01")).to_have_count(2)
    two.page.reload()
    expect(two.page.get_by_role("combobox", name="Compare with")).to_have_value("demo-int8")
