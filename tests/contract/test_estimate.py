"""What a program learns from /v1/estimate on a live port before it asks."""

import httpx2
import pytest

from contract.test_openai import RECEIPT, TOTAL, picture


@pytest.fixture
def estimate(server):
    def ask(*content, **fields):
        body = {"messages": [{"role": "user", "content": list(content)}]} | fields
        return httpx2.post(f"{server.url}/v1/estimate", json=body, timeout=60)

    return ask


def test_an_estimate_equals_what_the_answer_then_takes_and_learns_from_it(server, estimate):
    before = estimate(picture(), TOTAL).json()
    assert (before["seconds_to_first_token"], before["unmeasured"]) == (None, "no question has been answered yet")
    answer = server.ask(picture(), TOTAL)
    assert before["prompt_tokens"] == answer.usage.prompt_tokens
    assert before["image_tokens"] == answer.usage.prompt_tokens_details.image_tokens
    assert [{name: each[name] for name in each if name != "resized"} for each in before["images"]] == (
        answer.sightline["images"]
    )
    after = estimate(picture(), TOTAL).json()
    assert after["seconds_to_first_token"] > 0
    assert after["unmeasured"] is None


def test_a_smaller_picture_is_estimated_to_cost_less(estimate):
    large, small = estimate(picture(), TOTAL).json(), estimate(picture(max_pixels=32 * 32 * 20), TOTAL).json()
    assert small["images"][0]["resized"]
    assert small["image_tokens"] <= 20 < large["image_tokens"]
    assert 0 < small["peak_memory_bytes"] < large["peak_memory_bytes"]


def test_an_answer_longer_than_the_context_is_estimated_at_what_fits(estimate):
    found = estimate(TOTAL, max_tokens=100_000).json()
    assert found["max_tokens"] + found["prompt_tokens"] == 4096


def test_a_picture_that_would_be_refused_is_refused(estimate):
    reply = estimate(picture(RECEIPT[:100]), TOTAL)
    assert (reply.status_code, reply.json()["error"]["code"]) == (400, "image_parse_error")
    assert reply.json()["error"]["param"] == "messages[0].content[0]"
