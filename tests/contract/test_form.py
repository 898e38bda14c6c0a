"""What programs that post forms rely on, on a live port with the demo model."""

import io
import json
import shutil
import subprocess

import httpx2
import numpy as np
import PIL.Image
import pytest

from contract.test_openai import RECEIPT, SAMPLES
from media.clips import clip

QUESTION = "What is the total amount?"


@pytest.fixture
def post(server):
    with httpx2.Client(base_url=server.url, timeout=60) as client:
        yield lambda **form: client.post("/v1/chat/completions", **form)


def encoded(kind):
    picture, file = PIL.Image.open(io.BytesIO(RECEIPT)).convert("RGB"), io.BytesIO()
    picture.save(file, kind, **({"quality": 95} if kind == "JPEG" else {"lossless": True} if kind == "WEBP" else {}))
    return file.getvalue()


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "WEBP", "BMP", "GIF"])
def test_a_form_is_answered_for_every_kind_of_picture(post, kind):
    reply = post(files={"image": (f"receipt.{kind.lower()}", encoded(kind))}, data={"prompt": QUESTION})
    assert (reply.status_code, reply.json()["choices"][0]["message"]["content"]) == (200, "39.63")
    assert reply.json()["usage"]["total_time_ms"] > 0


def test_all_fields_may_be_file_parts_without_a_filename(post):
    files = [
        ("image", ("receipt.png", RECEIPT, "image/png")),
        ("prompt", (None, QUESTION)),
        ("max_tokens", (None, "2")),
        ("temperature", (None, "0")),
    ]
    choice = post(files=files).json()["choices"][0]
    assert (choice["message"]["content"], choice["finish_reason"]) == ("39", "length")


def test_two_pictures_are_both_seen(post):
    files = [("image", ("a.png", RECEIPT)), ("image", ("b.png", (SAMPLES / "receipt_1.png").read_bytes()))]
    report = post(files=files, data={"prompt": QUESTION}).json()["sightline"]
    assert len(report["images"]) == 2


def test_a_clip_in_a_form_is_watched(post):
    receipt = np.asarray(PIL.Image.open(io.BytesIO(RECEIPT)).convert("RGB"))
    shown = clip(3, 10, size=receipt.shape[:2], frame=lambda _: receipt)
    reply = post(files={"video": ("receipt.mp4", shown)}, data={"prompt": QUESTION, "num_frames": "2"}).json()
    assert reply["choices"][0]["message"]["content"] == "39.63"
    assert reply["sightline"]["videos"][0]["frames"] == 2


@pytest.mark.skipif(shutil.which("curl") is None, reason="curl is not installed")
def test_curl_without_an_at_sign_is_told_to_add_it(server, tmp_path):
    command = ["curl", "-s", f"{server.url}/v1/chat/completions", "-F", "image=receipt.png", "-F", f"prompt={QUESTION}"]
    told = json.loads(subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=True).stdout)
    assert told["error"]["message"].endswith("with curl, send a file as image=@receipt.png")


def test_a_form_may_be_answered_as_a_stream(post):
    text = post(files={"image": ("a.png", RECEIPT)}, data={"prompt": QUESTION, "stream": "true"}).text
    events = [line.removeprefix("data: ") for line in text.splitlines() if line.startswith("data: ")]
    pieces = [json.loads(event)["choices"][0]["delta"].get("content", "") for event in events[:-1]]
    assert ("".join(pieces), events[-1]) == ("39.63", "[DONE]")


def test_an_empty_prompt_and_a_damaged_picture_are_the_callers_mistakes(post):
    reply = post(files={"image": ("a.png", RECEIPT)}, data={"prompt": ""})
    assert reply.status_code == 400
    assert reply.json()["error"]["message"].startswith("prompt is empty")
    reply = post(files={"image": ("a.png", b"<html>")}, data={"prompt": QUESTION})
    assert (reply.status_code, reply.json()["error"]["code"]) == (400, "invalid_image_format")
    assert reply.json()["error"]["message"].startswith("Invalid image data: cannot decode image")
    reply = post(files={"image": ("a.png", RECEIPT + bytes(11 << 20))}, data={"prompt": QUESTION})
    assert (reply.status_code, reply.json()["error"]["param"]) == (413, "image[0]")
    assert post(files={"image": ("a.png", RECEIPT)}, data={"prompt": QUESTION}).status_code == 200
