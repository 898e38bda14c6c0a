"""While an answer comes: stop it, ask ahead, wait in the queue, lose the server and find it again."""

import asyncio
import contextlib
import re
import socket
import threading

import httpx2
import pytest
import uvicorn
from playwright.sync_api import expect

from browser.files import pdf, video
from browser.visit import SAMPLES
from contract.serving import serving
from fake_backend import FakeBackend
from sightline.server.app import create_app
from sightline.server.run import http_config
from sightline.settings import Settings
from sightline.types import Progress

RECEIPT = SAMPLES / "receipt_1.png"


def figures(server):
    text = httpx2.get(f"{server.url}/metrics").text
    return dict(line.rsplit(" ", 1) for line in text.splitlines() if not line.startswith("#"))


@contextlib.contextmanager
def listening(backend):
    """The service in front of this backend, on a free port; gives its address."""
    server = uvicorn.Server(http_config(create_app(backend, Settings())))
    with socket.create_server(("127.0.0.1", 0)) as sock:
        thread = threading.Thread(target=server.run, kwargs={"sockets": [sock]})
        thread.start()
        try:
            yield f"http://127.0.0.1:{sock.getsockname()[1]}"
        finally:
            server.should_exit = True
            thread.join()


@pytest.fixture
def own_server(tmp_path):
    """A server of the test's own, which answers one question at a time."""
    with serving(tmp_path, SIGHTLINE_MAX_CONCURRENCY="1") as running:
        yield running


def test_stop_ends_the_work_on_the_server_and_keeps_what_was_written(visit, server):
    visit.make_answers_long(3500)
    cancelled = 'sightline_answers_total{finish="cancelled",task="chat"}'
    before = float(figures(server).get(cancelled, 0))
    visit.add(RECEIPT)
    visit.ask("What is the total?")
    expect(visit.answer).to_contain_text("39.63")
    visit.button("Stop").click()
    visit.until("stopped")
    expect(visit.answer).to_contain_text("Stopped. What was written so far is kept.")
    expect(visit.answer).to_contain_text("39.63")
    server.logged(r"route=/v1/chat/completions status=499")
    assert httpx2.get(f"{server.url}/v1/status").json()["requests"] == []
    assert float(figures(server)[cancelled]) == before + 1


def test_a_second_question_may_be_asked_while_the_first_is_answered(visit):
    held = []
    visit.page.route("**/v1/chat/completions", lambda route: held.append(route), times=1)
    visit.add(RECEIPT)
    visit.ask("What is the total?")
    visit.question.fill("What is the date?")
    visit.button("Ask next").click()
    expect(visit.turns).to_have_count(2)
    expect(visit.answer).to_contain_text("Asked next, when the answer above is done")
    expect(visit.turns.first).to_contain_text("Thinking…")
    (first,) = held
    first.continue_()
    visit.until_answered(turns=2)
    expect(visit.turns.first).to_contain_text("39.63")
    expect(visit.answer).to_contain_text("2021-07-01")


def test_a_question_asked_while_its_file_is_being_opened_goes_out_when_that_is_done(visit):
    expect(visit.question).to_be_visible()
    visit.picker.set_input_files({"name": "a.pdf", "mimeType": "application/pdf", "buffer": pdf(RECEIPT)})
    visit.ask("What is the total?")
    visit.until_answered()
    expect(visit.answer).to_contain_text("39.63")


def test_every_page_of_a_document_is_counted_while_it_is_read(visit):
    visit.note_progress()
    visit.add(
        {"name": "a.pdf", "mimeType": "application/pdf", "buffer": pdf(RECEIPT, SAMPLES / "chart_1.png", RECEIPT)}
    )
    visit.ask("What is the total?")
    visit.until_answered()
    assert "Thinking…" in visit.progress
    assert "1 of 3 pages read" in visit.progress
    assert "Putting the pages together" in visit.progress


def test_a_video_says_how_much_of_it_was_seen(visits):
    # The demo model has seen a clip before anybody could read this, so a backend that holds still says it.
    with listening(FakeBackend(Progress("looking", done=4, total=15), asyncio.Event())) as url:
        visit = visits.open(url)
        visit.add({"name": "clip.webm", "mimeType": "video/webm", "buffer": video(SAMPLES / "scene_0.png", seconds=4)})
        visit.ask("What is in the video?")
        expect(visit.answer).to_contain_text("4 of 15 moments seen")
        visit.button("Stop").click()
        visit.until("stopped")


def test_words_come_with_their_speed(visit):
    visit.make_answers_long(400)
    visit.note_progress()
    visit.add(RECEIPT)
    visit.ask("What is the total?")
    visit.until_answered()
    assert re.search(r"Answering\s.*\d tokens/s", visit.progress, re.DOTALL)


def test_the_place_in_the_queue_and_the_wait_are_shown(visits, own_server):
    body = {"messages": [{"role": "user", "content": "hello"}], "ignore_eos": True, "max_tokens": 4000, "stream": True}
    visit = visits.open(own_server.url)
    visit.add(RECEIPT)
    # What a wait takes is measured, not made up: a picture and an answer of some length have to have been before.
    visit.ask("What is the total?")
    visit.until_answered()
    own_server.ask({"type": "text", "text": "hello"}, max_tokens=400, extra_body={"ignore_eos": True})
    with contextlib.ExitStack() as others:  # one has the only place, two wait; all leave when the place was seen
        for _ in range(3):
            asked = httpx2.stream("POST", f"{own_server.url}/v1/chat/completions", json=body, timeout=60)
            others.enter_context(asked)
        visit.ask("What is the date?")
        expect(visit.answer.get_by_text("In the queue", exact=True)).to_be_visible()
        place = visit.answer.get_by_text(re.compile("questions? before yours|Next in the queue"))
        expect(place).to_contain_text(re.compile(r"about [\d.]+ \w+ to the first word"))
    visit.until_answered(turns=2)
    expect(visit.answer).to_contain_text("2021-07-01")


def test_a_refused_question_says_why_and_may_be_asked_again(visit):
    visit.expect_error("status of 503")
    said = "67 requests are running, the limit is 67"
    body = {"error": {"message": said, "type": "server_error", "param": None, "code": "server_overloaded"}}
    full = {"status": 503, "headers": {"retry-after": "1"}, "json": body}
    visit.page.route("**/v1/chat/completions", lambda route: route.fulfill(**full), times=1)
    visit.add(RECEIPT)
    visit.ask("What is the total?")
    visit.until("failed")
    expect(visit.answer).to_contain_text(said)
    visit.button("Try again").click()
    visit.until_answered()
    expect(visit.answer).to_contain_text("39.63")


def test_a_server_that_dies_in_mid_answer_is_found_again(visits, tmp_path):
    with serving(tmp_path) as first:
        port = first.url.rpartition(":")[2]
        visit = visits.open(first.url)
        visit.expect_error("ERR_|Failed to load")
        visit.make_answers_long(3500)
        visit.add(RECEIPT)
        visit.ask("What is the total?")
        expect(visit.answer).to_contain_text("39.63")
    visit.until("failed")
    expect(visit.answer).to_contain_text("39.63")
    expect(visit.answer).to_contain_text("The connection broke off. What was written so far is kept.")
    expect(visit.page.get_by_text(re.compile("server cannot be reached"))).to_be_visible()
    visit.page.unroute("**/v1/chat/completions")
    with serving(tmp_path, port=port):
        visit.button("Try again").click()
        visit.until_answered()
        expect(visit.answer).to_contain_text("39.63")
        expect(visit.page.get_by_text(re.compile("server cannot be reached"))).to_be_hidden()
