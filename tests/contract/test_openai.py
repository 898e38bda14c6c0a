"""What openai-python users rely on, on a live port with the demo model."""

import base64
import io
import json
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import openai
import PIL.Image
import pytest

SAMPLES = Path(__file__).parents[1] / "golden" / "samples"
RECEIPT = (SAMPLES / "receipt_1.png").read_bytes()
TOTAL = {"type": "text", "text": "What is the total amount?"}
DATE = {"type": "text", "text": "What is the date?"}
ANSWERS = [entry for entry in json.loads((SAMPLES / "answers.json").read_text()) if (SAMPLES / entry["image"]).exists()]


def picture(data=RECEIPT, **sizes):
    return {
        "type": "image_url",
        "image_url": {"url": "data:image/png;base64," + base64.b64encode(data).decode()},
    } | sizes


def test_a_question_about_a_picture_is_answered(server):
    answer = server.ask(picture(), TOTAL)
    assert answer.choices[0].message.content == "39.63"
    assert answer.choices[0].finish_reason == "stop"
    assert answer.usage.total_time_ms > 0
    assert answer.usage.prompt_tokens_details.image_tokens == 80
    assert answer.sightline["images"][0]["resized_height"] == 320


def test_a_stream_is_the_same_answer_piece_by_piece(server):
    chunks = list(server.ask(picture(), TOTAL, stream=True, stream_options={"include_usage": True}))
    pieces = [choice.delta.content or "" for chunk in chunks for choice in chunk.choices]
    assert "".join(pieces) == "39.63"
    assert sum(map(bool, pieces)) > 1
    assert chunks[-1].usage.completion_tokens > 1


def test_a_follow_up_question_is_about_the_same_picture(server):
    first = server.ask(picture(), TOTAL).choices[0].message
    messages = [
        {"role": "user", "content": [picture(), TOTAL]},
        {"role": "assistant", "content": first.content},
        {"role": "user", "content": "What is the date?"},
    ]
    second = server.client.chat.completions.create(model="sightline-demo", messages=messages)
    assert second.choices[0].finish_reason == "stop"
    assert second.usage.prompt_tokens_details.cached_tokens > 0
    assert second.sightline["cached_images"] == 1


def test_a_json_schema_is_kept_to(server):
    schema = {
        "type": "object",
        "properties": {
            "date": {"type": "string", "pattern": "^[0-9]{4}-[0-9]{2}-[0-9]{2}$"},
            "items": {"type": "array", "items": {"type": "object", "properties": {"price": {"type": "number"}}}},
            "total": {"type": "number"},
        },
        "required": ["date", "items", "total"],
        "additionalProperties": False,
    }
    wanted = {"type": "json_schema", "json_schema": {"name": "receipt", "schema": schema}}
    answer = server.ask(
        picture(), {"type": "text", "text": "Extract the receipt data as JSON."}, response_format=wanted
    )
    found = json.loads(answer.choices[0].message.content)
    assert set(found) == {"date", "items", "total"}
    assert (found["date"], found["total"]) == ("2021-07-01", 39.63)


def test_any_json_object_can_be_asked_for(server):
    answer = server.ask(
        picture(),
        {"type": "text", "text": "Extract the receipt data as JSON."},
        response_format={"type": "json_object"},
    )
    assert json.loads(answer.choices[0].message.content)["total"] == 39.63


def test_a_short_limit_cuts_the_answer_and_says_so(server):
    choice = server.ask(picture(), TOTAL, max_tokens=2).choices[0]
    assert (choice.message.content, choice.finish_reason) == ("39", "length")


def test_a_stop_string_ends_the_answer_before_it(server):
    assert server.ask(picture(), TOTAL, stop=".").choices[0].message.content == "39"


def test_log_probabilities_spell_the_answer(server):
    choice = server.ask(picture(), TOTAL, logprobs=True, top_logprobs=2).choices[0]
    tokens = choice.logprobs.content
    assert b"".join(bytes(token.bytes) for token in tokens).decode() == choice.message.content
    assert all(len(token.top_logprobs) == 2 for token in tokens)


def test_a_seed_repeats_an_answer(server):
    def draw():
        question = {"type": "text", "text": "Describe the image."}
        return server.ask(picture(), question, temperature=2, seed=5, max_tokens=12).choices[0].message.content

    assert draw() == draw()


def test_twenty_questions_at_once_are_all_answered_as_alone(server):
    asked = (ANSWERS * 20)[:20]

    def answer(entry):
        image = picture((SAMPLES / entry["image"]).read_bytes())
        return server.ask(image, {"type": "text", "text": entry["question"]}).choices[0].message.content

    with ThreadPoolExecutor(20) as pool:
        together = list(pool.map(answer, asked))
    assert together == [entry["model"] for entry in asked]


def test_a_reader_who_leaves_mid_stream_frees_a_place(server):
    def long_answer():
        return server.ask(TOTAL, stream=True, max_tokens=3500, extra_body={"ignore_eos": True})

    def speaks(stream):
        return next(chunk for chunk in stream if chunk.choices[0].delta.content)

    running = [long_answer() for _ in range(3)]  # as many as run at once
    for stream in running:
        speaks(stream)
    waiting = long_answer()
    running[0].close()
    server.logged("status=499")
    speaks(waiting)
    for stream in (*running, waiting):
        stream.close()
    assert server.ask(TOTAL, max_tokens=1).usage.completion_tokens == 1


@pytest.mark.parametrize(
    ("data", "sizes", "status", "code"),
    [
        (b"<html>", {}, 400, "invalid_image_format"),
        (RECEIPT[: len(RECEIPT) // 2], {}, 400, "image_parse_error"),
        (RECEIPT + bytes(11 << 20), {}, 413, "image_too_large"),
        (RECEIPT, {"min_pixels": 9000, "max_pixels": 5000}, 400, "invalid_value"),
        (RECEIPT, {"resized_height": 64}, 400, "invalid_value"),
    ],
)
def test_a_picture_that_cannot_be_used_is_the_callers_mistake(server, data, sizes, status, code):
    with pytest.raises(openai.APIStatusError) as caught:
        server.ask(picture(data, **sizes), TOTAL)
    assert (caught.value.status_code, caught.value.code) == (status, code)
    assert caught.value.param == "messages[0].content[0]"
    assert caught.value.request_id.startswith("req_")


@pytest.mark.parametrize(
    ("fields", "code", "param"),
    [
        (
            {"response_format": {"type": "json_schema", "json_schema": {"name": "n", "schema": {"type": "quux"}}}},
            "invalid_schema",
            "response_format.json_schema.schema",
        ),
        (
            {
                "tools": [{"type": "function", "function": {"name": "f", "parameters": {"type": "quux"}}}],
                "tool_choice": "required",
            },
            "invalid_schema",
            "tools",
        ),
        ({"logit_bias": {"999999": 1}}, "invalid_value", "logit_bias"),
    ],
)
def test_what_only_the_model_can_judge_is_refused_before_the_first_token(server, fields, code, param):
    for stream in (False, True):
        with pytest.raises(openai.BadRequestError) as caught:
            server.ask(TOTAL, stream=stream, **fields)
        assert (caught.value.code, caught.value.param) == (code, param)


def test_a_prompt_longer_than_the_context_is_refused_with_both_counts(server):
    with pytest.raises(openai.BadRequestError) as caught:
        server.ask({"type": "text", "text": "a b c d " * 4000})
    assert caught.value.code == "context_length_exceeded"
    assert "4096" in caught.value.message


def test_more_pictures_than_allowed_are_counted_before_any_is_decoded(server):
    with pytest.raises(openai.BadRequestError) as caught:
        server.ask(*[picture(b"not a picture")] * 65, TOTAL)
    assert caught.value.code == "too_many_images"


def test_the_model_list_names_the_demo_model(server):
    assert [model.id for model in server.client.models.list()] == ["sightline-demo"]
    assert server.client.models.retrieve("SIGHTLINE-DEMO").id == "sightline-demo"


def test_a_picture_is_seen_at_the_size_that_was_asked_for_and_the_answer_says_so(server):
    def seen(**sizes):
        (size,) = server.ask(picture(large.getvalue(), **sizes), TOTAL, max_tokens=1).sightline["images"]
        assert (size["width"], size["height"]) == (1600, 1200)
        assert size["tokens"] == size["resized_width"] * size["resized_height"] // 1024
        return size["resized_width"], size["resized_height"]

    large = io.BytesIO()
    PIL.Image.new("RGB", (1600, 1200), "white").save(large, "PNG")
    url = picture(large.getvalue())["image_url"]["url"]
    assert seen(resized_width=256, resized_height=224) == (256, 224)
    width, height = seen(max_pixels=50_000)
    assert 40_000 < width * height <= 50_000
    # The demo model never sees as much as low detail allows.
    assert seen(image_url={"url": url, "detail": "low"}) == seen(image_url={"url": url, "detail": "high"}) == seen()


def test_a_conversation_longer_than_the_context_loses_its_oldest_turns_and_says_how_many(server):
    turns = [{"role": role, "content": "a b c d " * 300} for _ in range(8) for role in ("user", "assistant")]
    messages = [*turns, {"role": "user", "content": [picture(), TOTAL]}]

    def ask(**fields):
        return server.client.chat.completions.create(model="sightline-demo", messages=messages, extra_body=fields)

    answer = ask()
    assert 0 < answer.sightline["dropped_turns"] < 8
    assert len(answer.sightline["images"]) == 1
    with pytest.raises(openai.BadRequestError) as caught:
        ask(truncation="disabled")
    assert caught.value.code == "context_length_exceeded"
