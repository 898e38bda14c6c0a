"""What an answer becomes on the page: marks on the picture, tables, trees, exports; in the right place to the pixel."""

import io
import json
import re

import pytest
from PIL import Image
from playwright.sync_api import expect

from browser.visit import SAMPLES

SCENE = SAMPLES / "scene_0.png"
RECEIPT = SAMPLES / "receipt_1.png"
FOUND = [{"bbox_2d": [250, 125, 750, 500], "label": "blue star"}, {"bbox_2d": [0, 900, 1000, 1000], "label": "edge"}]
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


def as_chat_stream(text):
    """A chat answer as our server streams it."""
    head = {"id": "chatcmpl-1", "object": "chat.completion.chunk", "created": 1, "model": "sightline-demo"}
    pieces = [text[at : at + 7] for at in range(0, len(text), 7)]
    deltas = [{"role": "assistant", "content": ""}, *({"content": piece} for piece in pieces)]
    choices = [{"index": 0, "delta": delta, "logprobs": None, "finish_reason": None} for delta in deltas]
    choices.append({"index": 0, "delta": {}, "logprobs": None, "finish_reason": "stop"})
    events = [f"data: {json.dumps(head | {'choices': [choice]})}\n\n" for choice in choices]
    return {"body": "".join(events) + "data: [DONE]\n\n", "content_type": "text/event-stream"}


@pytest.fixture
def told(visit):
    """Asks with a picture and has the server say a fixed text: for what the demo model never says."""

    def ask(text, picture=SCENE):
        visit.page.route("**/v1/chat/completions", lambda route: route.fulfill(**as_chat_stream(text)))
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


def test_an_answer_says_who_gave_it_and_what_it_took(visit):
    visit.add(RECEIPT)
    visit.ask("What is the total?")
    visit.until_answered()
    expect(visit.answer.get_by_text("sightline-demo").first).to_be_visible()
    expect(visit.answer.get_by_text(re.compile(r"\d+ tokens")).first).to_be_visible()


def test_a_question_is_copied_as_curl_that_runs(visit, server):
    visit.add(RECEIPT)
    visit.ask("What is the total?")
    visit.until_answered()
    visit.answer.get_by_role("button", name="More").click()
    visit.page.get_by_text("Copy as curl").click()
    copied = visit.page.evaluate("navigator.clipboard.readText()")
    assert copied.startswith("curl ")
    assert f"{server.url}/v1/chat/completions" in copied
    assert "What is the total?" in copied
