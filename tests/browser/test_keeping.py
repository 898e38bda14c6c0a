"""What stays in the browser: conversations after a reload, their search, names, export; and a second turn."""

import json
import re

from playwright.sync_api import expect

from browser.visit import SAMPLES

RECEIPT = SAMPLES / "receipt_1.png"


def ask_about_the_total(visit):
    visit.add(RECEIPT)
    visit.ask("What is the total?")
    visit.until_answered()


def test_a_conversation_with_its_picture_is_there_after_a_reload_and_goes_on(visit):
    ask_about_the_total(visit)
    visit.page.reload()
    expect(visit.turns).to_have_count(1)
    expect(visit.answer).to_contain_text("39.63")
    expect(visit.picture).to_have_js_property("naturalWidth", 256)
    visit.ask("What is the date?")
    visit.until_answered(turns=2)
    expect(visit.answer).to_contain_text("2021-07-01")


def test_conversations_are_renamed_found_and_deleted(visit):
    ask_about_the_total(visit)
    visit.button("More for What is the total?").click()
    visit.page.get_by_text("Rename", exact=True).click()
    visit.page.get_by_label("New name").fill("Lunch")
    visit.page.keyboard.press("Enter")
    visit.button("New conversation").first.click()
    visit.add(RECEIPT)
    visit.ask("What is the date?")
    visit.until_answered()
    lunch, date = (visit.page.get_by_role("link", name=re.compile(name)) for name in ("Lunch", "What is the date"))
    search = visit.page.get_by_label("Search conversations")
    search.fill("nothing like it")
    expect(lunch.or_(date)).to_have_count(0)
    search.fill("39.63")
    expect(lunch).to_be_visible()
    expect(date).to_have_count(0)
    visit.button("More for Lunch").click()
    visit.page.get_by_text("Delete", exact=True).click()
    expect(lunch).to_have_count(0)


def test_a_deleted_conversation_comes_back_with_its_picture(visit):
    ask_about_the_total(visit)
    visit.button("More for What is the total?").click()
    visit.page.get_by_text("Delete", exact=True).click()
    expect(visit.turns).to_have_count(0)
    visit.button("Undo").click()
    visit.page.get_by_role("link", name=re.compile("What is the total")).click()
    expect(visit.answer).to_contain_text("39.63")
    expect(visit.picture).to_have_js_property("naturalWidth", 256)


def exported(visit):
    with visit.page.expect_download() as download:
        visit.page.get_by_text("Export all").click()
    return download.value.path()


def without_ids(export):
    """An export in a form that two of the same conversations share: ids are new wherever it is read in."""
    bundle = json.loads(export.read_text("utf-8"))
    for chat in bundle["chats"]:
        for each in (chat, *chat["turns"], *(media for turn in chat["turns"] for media in turn["media"])):
            each["id"] = ""
        for answer in (answer for turn in chat["turns"] for answer in turn["answers"]):
            for passing in ("startedAt", "firstTokenAt", "progress", "logprob"):  # of the visit, not of the answer
                answer.pop(passing, None)
    return bundle["chats"], list(bundle["files"].values())


def test_an_export_is_imported_elsewhere_with_its_pictures_and_nothing_is_lost(visit, visits, server):
    ask_about_the_total(visit)
    visit.choose("Fill fields")
    visit.ask()
    visit.until_answered(turns=2)
    visit.button("More for What is the total?").click()
    visit.page.get_by_text("Rename", exact=True).click()
    visit.page.get_by_label("New name").fill("Lunch")
    visit.page.keyboard.press("Enter")
    first = exported(visit)
    other = visits.open(server.url)
    with other.page.expect_file_chooser() as chooser:
        other.page.get_by_text("Import", exact=True).click()
    chooser.value.set_files(first)
    other.page.get_by_role("link", name="Lunch").click()
    expect(other.turns.first).to_contain_text("39.63")
    expect(other.answer.get_by_role("row", name=re.compile(r"^merchant Urban Foods [\d.]+ %$"))).to_be_visible()
    expect(other.picture).to_have_js_property("naturalWidth", 256)
    assert without_ids(exported(other)) == without_ids(first)


def test_a_file_that_is_no_export_is_refused(visit, tmp_path):
    other = tmp_path / "other.json"
    other.write_text('{"chats": []}')
    with visit.page.expect_file_chooser() as chooser:
        visit.page.get_by_text("Import", exact=True).click()
    chooser.value.set_files(other)
    expect(visit.page.get_by_text("This file is not an export of conversations.")).to_be_visible()


def test_a_question_is_edited_and_asked_again(visit):
    ask_about_the_total(visit)
    visit.answer.hover()
    visit.button("Edit and ask again").click()
    visit.answer.get_by_role("textbox").fill("What is the date?")
    visit.answer.get_by_role("button", name="Ask", exact=True).click()
    expect(visit.answer).to_contain_text("2021-07-01")
    visit.until_answered()
    expect(visit.turns).to_have_count(1)


def test_a_key_is_forgotten_with_the_page_unless_it_is_to_be_kept(visit):
    visit.button("Settings").click()
    visit.page.get_by_label("API key", exact=True).fill("sk-secret")
    visit.page.keyboard.press("Escape")
    kept = "JSON.stringify([{...localStorage}, {...sessionStorage}, document.cookie])"
    assert "sk-secret" not in visit.page.evaluate(kept)
    with visit.page.expect_request("**/v1/chat/completions") as asked:
        visit.add(RECEIPT)
        visit.ask("What is the total?")
    assert asked.value.headers["authorization"] == "Bearer sk-secret"
    visit.until_answered()
    visit.page.reload()
    visit.button("Settings").click()
    key = visit.page.get_by_label("API key", exact=True)
    expect(key).to_have_value("")
    key.fill("sk-secret")
    visit.page.get_by_label("Keep it in this browser").check()
    visit.page.reload()
    visit.button("Settings").click()
    expect(key).to_have_value("sk-secret")
