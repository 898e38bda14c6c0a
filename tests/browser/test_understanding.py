"""What an answer becomes on the page: marks on the picture, tables, trees, exports; in the right place to the pixel."""

import io
import json
import re
import subprocess
import sys

import pytest
from PIL import Image
from playwright.sync_api import expect

from browser.files import pdf
from browser.visit import SAMPLES

SCENE = SAMPLES / "scene_0.png"
RECEIPT = SAMPLES / "receipt_1.png"
FOUND = [{"bbox_2d": [250, 125, 750, 500], "label": "blue star"}, {"bbox_2d": [0, 900, 1000, 1000], "label": "edge"}]
POINTS = [{"point_2d": [500, 900], "label": "a"}, {"point_2d": [990, 10], "label": "b"}]
MARKDOWN = """# Total

| item | price |
|---|---|
| Oil | **6.53** |

```python
print("hello")
```

So $\\frac{a}{b}$ it is. <img src=x onerror="document.title='hacked'"><script>document.title='hacked'</script>
[here](javascript:document.title='hacked')
"""


def as_chat_stream(text, **report):
    """A chat answer as our server streams it. `report` is what its last chunk says of itself."""
    head = {"id": "chatcmpl-1", "object": "chat.completion.chunk", "created": 1, "model": "sightline-demo"}
    pieces = [text[at : at + 7] for at in range(0, len(text), 7)]
    deltas = [{"role": "assistant", "content": ""}, *({"content": piece} for piece in pieces)]
    choices = [{"index": 0, "delta": delta, "logprobs": None, "finish_reason": None} for delta in deltas]
    choices.append({"index": 0, "delta": {}, "logprobs": None, "finish_reason": "stop"})
    chunks = [head | {"choices": [choice]} for choice in choices]
    chunks[-1]["sightline"] = {"model": "sightline-demo"} | report
    events = [f"data: {json.dumps(chunk)}\n\n" for chunk in chunks]
    return {"body": "".join(events) + "data: [DONE]\n\n", "content_type": "text/event-stream"}


@pytest.fixture
def told(visit):
    """Asks with a picture and has the server say a fixed text: for what the demo model never says."""

    def ask(text, picture=SCENE, **report):
        visit.page.route("**/v1/chat/completions", lambda route: route.fulfill(**as_chat_stream(text, **report)))
        visit.add(picture)
        visit.ask("Tell me")
        visit.until_answered()
        return visit

    return ask


def test_boxes_found_by_the_model_lie_where_it_says_to_the_pixel(visit):
    visit.add(SCENE)
    visit.choose("Find objects")
    with visit.page.expect_response("**/infer_stream") as asked:
        visit.ask("the blue star")
    visit.until_answered()
    final = asked.value.text().split("event: final\ndata: ")[1].partition("\n")[0]
    found = json.loads(final)["data"]
    assert found
    check_marks(visit, [each["bbox_2d"] for each in found])


def check_marks(visit, boxes):
    """Every mark lies at its thousandths of the picture, within a pixel of the screen."""
    expect(visit.marks).to_have_count(len(boxes))
    # All in one look: the page may be scrolling to the answer.
    looked = "(marks, picture) => [picture, ...marks].map((each) => each.getBoundingClientRect().toJSON())"
    picture, *seen = visit.marks.evaluate_all(looked, visit.picture.element_handle())
    for mark, (left, top, right, bottom) in zip(seen, boxes, strict=True):
        assert abs(mark["x"] - picture["x"] - left / 1000 * picture["width"]) <= 1
        assert abs(mark["y"] - picture["y"] - top / 1000 * picture["height"]) <= 1
        assert abs(mark["width"] - (right - left) / 1000 * picture["width"]) <= 1
        assert abs(mark["height"] - (bottom - top) / 1000 * picture["height"]) <= 1


@pytest.mark.parametrize("width", [360, 800, 1600])
def test_boxes_in_a_chat_answer_lie_right_at_every_width(visit, told, width):
    told(f"I see:\n```json\n{json.dumps(FOUND)}\n```")
    visit.page.set_viewport_size({"width": width, "height": 800})
    check_marks(visit, [each["bbox_2d"] for each in FOUND])
    visit.button("Hide boxes").click()
    expect(visit.marks).to_have_count(0)


def test_points_are_drawn_where_they_are(visit, told):
    told(f"```json\n{json.dumps(POINTS)}\n```")
    expect(visit.marks).to_have_count(2)
    looked = "(marks, picture) => [picture, ...marks].map((each) => each.getBoundingClientRect().toJSON())"
    picture, *seen = visit.marks.evaluate_all(looked, visit.picture.element_handle())
    for mark, (x, y) in zip(seen, [each["point_2d"] for each in POINTS], strict=True):
        assert abs(mark["x"] + mark["width"] / 2 - picture["x"] - x / 1000 * picture["width"]) <= 1
        assert abs(mark["y"] + mark["height"] / 2 - picture["y"] - y / 1000 * picture["height"]) <= 1
    coco = json.loads(saved(visit, "COCO"))
    assert [each["keypoints"] for each in coco["annotations"]] == [[128, 230, 2], [253, 3, 2]]
    assert all(each["keypoints"] == ["point"] for each in coco["categories"])
    assert [each["point_pixels"] for each in json.loads(saved(visit, "JSON"))] == [[128, 230], [253, 3]]


def test_text_and_box_point_at_each_other(visit, told):
    told(f"I see {json.dumps(FOUND[0])} and {json.dumps(FOUND[1])} there.")
    star = visit.answer.get_by_role("button", name="blue star")
    first, second = visit.marks.nth(0), visit.marks.nth(1)
    star.hover()
    expect(second).to_have_css("opacity", "0.35")
    expect(first).to_have_css("opacity", "1")
    second.hover()
    expect(first).to_have_css("opacity", "0.35")
    expect(visit.answer.get_by_role("button", name="edge")).to_have_css("outline-style", "solid")
    expect(star).to_have_css("outline-style", "none")


def saved(visit, name):
    visit.button("Export").click()
    with visit.page.expect_download() as download:
        visit.page.get_by_role("button", name=name, exact=True).or_(
            visit.page.get_by_role("menuitem", name=name, exact=True)
        ).click()
    return download.value.path().read_bytes()


def test_marks_are_exported_as_json_coco_and_png(visit, told):
    told(json.dumps(FOUND))
    width, height = Image.open(SCENE).size
    coco = json.loads(saved(visit, "COCO"))
    assert coco["images"][0] | {"id": 1} == {"id": 1, "file_name": SCENE.name, "width": width, "height": height}
    assert coco["annotations"][0]["bbox"] == [64, 32, 128, 96]
    assert {each["name"] for each in coco["categories"]} == {"blue star", "edge"}
    assert "blue star" in saved(visit, "JSON").decode()
    drawn = Image.open(io.BytesIO(saved(visit, "PNG with boxes"))).convert("RGB")
    original = Image.open(SCENE).convert("RGB")
    assert drawn.size == original.size
    changed = [y for y in range(40, 120) if drawn.getpixel((64, y)) != original.getpixel((64, y))]
    assert len(changed) == 80  # the whole left side of the first box
    assert drawn.getpixel((128, 80)) == original.getpixel((128, 80))


@pytest.mark.row("T11")
def test_markdown_is_shown_and_nothing_in_it_is_run(visit, told):
    visit.expect_error("Content Security Policy|Refused to|ERR_FILE_NOT_FOUND|404")
    told(MARKDOWN)
    expect(visit.answer.get_by_role("heading", name="Total")).to_be_visible()
    expect(visit.answer.get_by_role("cell", name="6.53")).to_be_visible()
    expect(visit.answer.get_by_text('print("hello")')).to_be_visible()
    expect(visit.answer.locator("math mfrac")).to_have_count(1)
    expect(visit.page).to_have_title(re.compile("Sightline"))
    assert visit.answer.locator("[onerror], script, a[href^='javascript']").count() == 0
    assert not [url for url in visit.requested if url.endswith("/x")]


def test_a_long_answer_is_read_from_its_beginning(visit, told):
    told("\n\n".join(f"Paragraph {number} of a long answer." for number in range(60)))
    asked, end = visit.answer.get_by_text("Tell me"), visit.page.get_by_text("Paragraph 59 of")
    expect(asked).to_be_in_viewport()
    expect(end).not_to_be_in_viewport()
    visit.button("To the end").click()
    expect(end).to_be_in_viewport()
    expect(visit.button("To the end")).to_have_count(0)


def test_fields_are_shown_with_their_confidence(visit):
    visit.add(RECEIPT)
    visit.choose("Fill fields")
    visit.ask()
    visit.until_answered()
    for name in ("merchant", "date", "total"):
        expect(visit.answer.get_by_role("row", name=re.compile(rf"^{name} .*\d ?%$"))).to_be_visible()
    expect(visit.answer).to_contain_text("Urban Foods")


def test_fields_the_model_was_not_sure_of_are_marked(visit):
    visit.add(SAMPLES / "chart_1.png")
    visit.choose("Fill fields")
    visit.ask()
    visit.until_answered()
    expect(visit.answer.get_by_text(re.compile("marked: the model was not sure"))).to_be_visible()


def test_a_chart_becomes_a_table_and_is_drawn_again(visit):
    visit.add(SAMPLES / "chart_1.png")
    visit.choose("Chart to table")
    visit.ask()
    visit.until_answered()
    expect(visit.answer.get_by_role("img", name="Chart drawn again from the numbers read: Profit")).to_be_visible()
    expect(visit.answer.get_by_role("row", name=re.compile("^Mar 69"))).to_be_visible()

    with visit.page.expect_download() as download:
        visit.button("Save as CSV").click()
    assert download.value.suggested_filename == "Profit.csv"
    assert "Mar,69" in download.value.path().read_text("utf-8-sig").splitlines()


def test_structured_answers_are_also_a_tree_and_the_text_itself(visit):
    visit.add(RECEIPT)
    visit.choose("Fill fields")
    visit.ask()
    visit.until_answered()
    visit.page.get_by_role("tab", name="JSON").click()
    tree = visit.answer.get_by_role("tabpanel")
    expect(tree).to_contain_text(re.compile(r'merchant\s*"Urban Foods"\s*[\d.]+ %'))
    visit.page.keyboard.press("ArrowRight")
    expect(visit.answer.get_by_role("tabpanel")).to_contain_text('"merchant": "Urban Foods"')
    with visit.page.expect_download() as download:
        visit.button("Save as JSON").click()
    assert json.loads(download.value.path().read_text("utf-8"))["merchant"] == "Urban Foods"


def test_a_page_named_in_the_answer_opens_with_a_click(visit):
    visit.add(
        {"name": "a.pdf", "mimeType": "application/pdf", "buffer": pdf(RECEIPT, RECEIPT, SAMPLES / "chart_1.png")}
    )
    visit.ask("What is the total?")
    visit.until_answered()
    visit.answer.get_by_role("button", name="p. 3", exact=True).click()
    expect(visit.page.get_by_role("img", name="Page 3")).to_be_visible()
    expect(visit.page.get_by_text("Page 3 / 3")).to_be_visible()


def test_an_answer_says_who_gave_it_how_sure_and_what_it_took(visit):
    visit.add(RECEIPT)
    visit.ask("What is the total?")
    visit.until_answered()
    expect(visit.answer.get_by_text("sightline-demo").first).to_be_visible()
    expect(visit.answer.get_by_text(re.compile(r"^\d+ tokens")).first).to_be_visible()
    expect(visit.answer.get_by_text(re.compile(r"^[\d.]+ m?s$")).first).to_be_visible()
    expect(visit.answer.get_by_text(re.compile(r"^confidence [\d.]+ %$"))).to_be_visible()


def test_an_answer_of_a_lighter_model_or_from_the_cache_says_so(visit, told):
    told("39.63", degraded=True, cache="hit", model="sightline-light")
    for word in ("sightline-light", "lighter model", "from cache"):
        expect(visit.answer.get_by_text(word, exact=True).first).to_be_visible()


def test_an_answer_is_copied(visit):
    visit.add(RECEIPT)
    visit.ask("What is the total?")
    visit.until_answered()
    visit.answer.get_by_role("button", name="Copy", exact=True).click()
    expect(visit.page.get_by_text("Copied", exact=True)).to_have_count(1)
    assert visit.page.evaluate("navigator.clipboard.readText()") == "39.63"


@pytest.fixture
def folder(tmp_path):
    """Where somebody runs what they have copied: their pictures lie there, one with a name that needs care."""
    for name in ("receipt_1.png", "it's my $receipt`.png"):
        (tmp_path / name).write_bytes(RECEIPT.read_bytes())
    return tmp_path


def answer_of(*command, folder):
    return subprocess.run(command, cwd=folder, check=True, capture_output=True, text=True, timeout=60).stdout


def test_a_question_is_copied_as_curl_that_gives_the_same_answer(visit, folder):
    visit.add(folder / "it's my $receipt`.png")
    visit.ask("What is the total?")
    visit.until_answered()
    visit.ask("What is the date?")
    visit.until_answered(turns=2)
    reply = json.loads(answer_of("sh", "-c", visit.copied("Copy as curl"), folder=folder))
    assert reply["choices"][0]["message"]["content"] == "2021-07-01"


def test_a_task_is_copied_as_curl_that_gives_the_same_answer(visit, folder):
    visit.add(folder / "receipt_1.png")
    visit.choose("Fill fields")
    visit.ask()
    visit.until_answered()
    reply = json.loads(answer_of("sh", "-c", visit.copied("Copy as curl"), folder=folder))
    assert reply["result"]["data"]["merchant"] == "Urban Foods"


def test_a_question_is_copied_as_python_that_gives_the_same_answer(visit, folder):
    visit.add(folder / "it's my $receipt`.png")
    visit.ask("What is the total?")
    visit.until_answered()
    program = visit.copied("Copy as Python")
    assert answer_of(sys.executable, "-I", "-c", program, folder=folder) == "39.63\n"
