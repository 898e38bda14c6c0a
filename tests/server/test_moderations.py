"""Moderation over HTTP: OpenAI's shape around whichever moderator there is, and never a guess without one."""

import pytest

from asgi import post
from fake_backend import FakeBackend
from sightline.moderation import CATEGORIES, Score
from sightline.server.app import create_app
from sightline.settings import Settings

pytestmark = pytest.mark.anyio
PICTURE = {"type": "image_url", "image_url": {"url": "data:image/png;base64,aGVsbG8="}}


class WordModerator:
    """Finds violence in the word "knife", and in the bytes of a picture."""

    name = "words-1"

    def __init__(self):
        self.asked = []

    async def judge(self, text, pictures):
        self.asked.append((text, pictures))
        looked_at = ("text",) + (("image",) if pictures else ())
        found = "knife" in text or b"hello" in pictures
        return {"violence": Score(0.9 if found else 0.01, found, looked_at)}


async def judge(body, moderator):
    return await post(create_app(FakeBackend(), Settings(), moderator=moderator), body, "/v1/moderations").end()


async def test_each_text_has_its_own_result():
    reply = await judge({"input": ["a spoon", "a knife"], "model": "omni-moderation-latest"}, WordModerator())
    assert reply.status == 200, reply.body
    assert (reply.json["model"], reply.json["id"][:5]) == ("words-1", "modr-")
    spoon, knife = reply.json["results"]
    assert (spoon["flagged"], knife["flagged"]) == (False, True)
    assert [name for name, flagged in knife["categories"].items() if flagged] == ["violence"]
    assert knife["category_scores"]["violence"] == 0.9
    for part in ("categories", "category_scores", "category_applied_input_types"):
        assert tuple(knife[part]) == CATEGORIES


async def test_a_text_with_pictures_is_one_input():
    moderator = WordModerator()
    reply = await judge({"input": [{"type": "text", "text": "a spoon"}, PICTURE]}, moderator)
    assert moderator.asked == [("a spoon", [b"hello"])]
    (result,) = reply.json["results"]
    assert result["flagged"]
    assert result["category_applied_input_types"]["violence"] == ["text", "image"]
    assert result["category_applied_input_types"]["hate"] == []  # nobody looked


async def test_without_a_moderator_nothing_is_called_harmless():
    reply = await judge({"input": "a knife"}, None)
    assert (reply.status, reply.error["code"]) == (404, "moderation_not_configured")


@pytest.mark.parametrize(
    ("body", "param", "code"),
    [
        ({}, "input", "missing_required_parameter"),
        ({"input": []}, "input", "invalid_value"),
        ({"input": 3}, "input", "invalid_value"),
        ({"input": ["a", {"type": "text", "text": "b"}]}, "input[0]", "invalid_value"),
        ({"input": [{"type": "image_url", "image_url": {}}]}, "input[0].image_url.url", "missing_required_parameter"),
        ({"input": "a", "threshold": 1}, "threshold", "unsupported_parameter"),
        ({"input": "a", "model": "gpt-4"}, "model", "model_not_found"),
        (
            {"input": [{"type": "image_url", "image_url": {"url": "http://127.0.0.1/a.png"}}]},
            "input[0].image_url.url",
            "remote_media_disabled",
        ),
    ],
    ids=["none", "empty", "number", "mixed", "no url", "unknown field", "unknown model", "an address"],
)
async def test_an_input_that_cannot_be_judged_is_refused_by_name(body, param, code):
    reply = await judge(body, WordModerator())
    assert (reply.status, reply.error["param"], reply.error["code"]) == (404 if param == "model" else 400, param, code)
