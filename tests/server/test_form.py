"""A multipart form asks as JSON does; one that is broken or a bomb is refused before it costs anything."""

import pytest

from asgi import post
from fake_backend import FakeBackend
from sightline.server.app import create_app
from sightline.settings import Settings
from sightline.types import Grammar, Image, Text

pytestmark = pytest.mark.anyio
FORM = {"content-type": "multipart/form-data; boundary=b"}
PICTURE = b"\x89PNG\r\n\r\n--not the boundary\r\n not decoded here"


def part(name, value, *rest):
    header = "; ".join([f'form-data; name="{name}"', *rest])
    return f"--b\r\nContent-Disposition: {header}\r\n\r\n".encode() + value + b"\r\n"


def picture(data=PICTURE, filename="a.png"):
    return part("image", data, f'filename="{filename}"\r\nContent-Type: image/png')


def form(*parts):
    return b"".join(parts) + b"--b--\r\n"


PROMPT = part("prompt", "总额?".encode())
ASKS = form(picture(), PROMPT)


def send(body, backend=None, headers=FORM, **settings):
    return post(create_app(backend or FakeBackend(), Settings(**settings)), body, headers=headers)


async def asked(*parts):
    backend = FakeBackend()
    reply = await send(form(*parts), backend).end()
    assert reply.status == 200, reply.body
    return backend.answers[0]


async def test_a_form_asks_about_its_picture_and_is_answered_as_json_is():
    backend = FakeBackend()
    reply = await send(ASKS, backend).end()
    assert (reply.status, reply.json["choices"][0]["message"]["content"]) == (200, "Hello")
    assert reply.json["usage"]["total_time_ms"] >= 0
    (message,) = backend.answers[0].asked.messages
    assert (message.role, message.parts) == ("user", (Image(PICTURE, param="image[0]"), Text("总额?")))


async def test_a_form_may_arrive_byte_by_byte():
    backend = FakeBackend()
    assert (await send([bytes([byte]) for byte in ASKS], backend).end()).status == 200
    assert backend.answers[0].asked.messages[0].parts == (Image(PICTURE, param="image[0]"), Text("总额?"))


async def test_several_pictures_keep_their_order_and_the_prompt_follows_wherever_it_stood():
    answer = await asked(picture(b"one"), PROMPT, picture(b"two"))
    assert [part.data for part in answer.asked.messages[0].parts[:2]] == [b"one", b"two"]
    assert answer.asked.messages[0].parts[2] == Text("总额?")


async def test_sizes_in_a_form_are_those_of_its_pictures():
    answer = await asked(picture(), PROMPT, part("resized_height", b"64"), part("resized_width", b"96"))
    assert answer.asked.messages[0].parts[0] == Image(PICTURE, None, None, 64, 96, param="image[0]")


@pytest.mark.parametrize("rest", [(), ('filename="prompt"',), ('filename="q.txt"\r\nContent-Type: text/plain',)])
async def test_a_prompt_may_be_a_field_or_a_file(rest):
    answer = await asked(picture(), part("prompt", b"hi", *rest))
    assert answer.asked.messages[0].parts[1] == Text("hi")


async def test_the_fields_of_a_chat_may_stand_in_a_form():
    answer = await asked(
        picture(),
        PROMPT,
        part("model", b"SIGHTLINE-demo"),
        part("temperature", b"0.5"),
        part("max_tokens", b"7"),
        part("stop", b"[1]"),
        part("max_pixels", b"900"),
        part("response_format", b'{"type": "json_object"}'),
        part("seed", b""),
    )
    sampling = answer.sampling
    assert (sampling.temperature, sampling.max_tokens, sampling.stop, sampling.seed) == (0.5, 7, ("[1]",), None)
    assert sampling.grammar == Grammar()
    assert answer.asked.messages[0].parts[0].max_pixels == 900


async def test_a_known_field_may_come_with_a_filename():
    answer = await asked(picture(), PROMPT, part("max_tokens", b"7", 'filename="max_tokens"'))
    assert answer.sampling.max_tokens == 7


@pytest.mark.parametrize("true", [b"true", b"True"])
async def test_a_form_may_ask_for_a_stream(true):
    reply = await send(form(picture(), PROMPT, part("stream", true))).end()
    assert reply.events[-1] == "data: [DONE]"


@pytest.mark.parametrize(
    ("parts", "param", "words"),
    [
        ([], "prompt", "prompt is empty"),
        ([picture()], "prompt", "prompt is empty"),
        ([picture(), part("prompt", b" \n")], "prompt", "prompt is empty"),
        ([PROMPT], "image", "no picture"),
        ([PROMPT, picture(b"", filename="")], "image", "no picture"),
        ([PROMPT, PROMPT, picture()], "prompt", "twice"),
        ([PROMPT, part("prompt", b"\xff")], "prompt", "twice"),
        ([picture(), part("prompt", b"\xff")], "prompt", "not valid UTF-8"),
        (
            [picture(), PROMPT, part("photo", b"x", 'filename="a.png"')],
            "photo",
            "belong into 'image', 'file' or 'video'",
        ),
        ([part("video", b"\0"), PROMPT, part("fps", b"0")], "fps", "fps is 0: input should be greater than 0"),
        ([part("file", b"\0"), PROMPT, part("dpi", b"high")], "dpi", "dpi is 'high': input should be a valid integer"),
        ([picture(), PROMPT, part("pages", b"1")], "pages", "'pages' is for files in the field 'file'"),
        ([picture(), PROMPT, part("fps", b"2")], "fps", "'fps' is for files in the field 'video'"),
        ([picture(), PROMPT, part("messages", b"[]")], "messages", "application/json"),
        ([picture(), PROMPT, part("temperature", b"warm")], "temperature", "'warm'"),
        ([picture(), PROMPT, part("temperature", b"NaN")], "temperature", "'NaN'"),
        ([picture(), PROMPT, part("max_tokens", b"0")], "max_tokens", "greater than or equal to 1"),
        ([picture(), PROMPT, part("stream", b"yes")], "stream", "'yes'"),
    ],
)
async def test_a_form_that_cannot_be_used_is_refused_by_name(parts, param, words):
    reply = await send(form(*parts)).end()
    assert (reply.status, reply.error["code"], reply.error["param"]) == (400, "invalid_value", param)
    assert words in reply.error["message"]


async def test_a_pdf_of_a_form_stands_before_the_prompt_with_its_pages():
    backend = FakeBackend()
    sent = form(part("file", b"%PDF", 'filename="a.pdf"'), part("pages", b"1-3,7"), part("dpi", b"72"), PROMPT)
    assert (await send(sent, backend).end()).status == 200
    document, text = backend.answers[0].asked.messages[0].parts
    assert (document.data, document.pages, document.dpi) == (b"%PDF", "1-3,7", 72)
    assert text == Text("总额?")


async def test_a_clip_of_a_form_stands_before_the_prompt_with_the_part_that_is_asked_about():
    wishes = [part(name, value) for name, value in (("num_frames", b"6"), ("start", b"1.5"), ("end", b"9"))]
    answer = await asked(part("video", b"\x00\x00ftyp", 'filename="a.mp4"'), part("video", b"\x00"), *wishes, PROMPT)
    first, second, text = answer.asked.messages[0].parts
    assert (first.data, second.data) == (b"\x00\x00ftyp", b"\x00")
    assert (first.fps, first.num_frames, first.start, first.end) == (None, 6, 1.5, 9)
    assert text == Text("总额?")


@pytest.mark.parametrize(
    ("field", "code", "begins"),
    [
        ("image", "invalid_image_format", "Invalid image data: cannot decode image: "),
        ("file", "document_parse_error", "Invalid document data: cannot read document: "),
        ("video", "video_parse_error", "Invalid video data: cannot decode video: "),
    ],
)
async def test_the_name_of_a_file_in_its_place_is_answered_with_curls_way_to_send_it(field, code, begins):
    reply = await send(form(part(field, b"receipt.png"), PROMPT)).end()
    assert (reply.status, reply.error["code"], reply.error["param"]) == (400, code, field)
    assert reply.error["message"] == (
        f"{begins}the form field '{field}' is the text 'receipt.png', not a file; with curl, send a file as "
        f"{field}=@receipt.png"
    )


@pytest.mark.row("H15")
@pytest.mark.parametrize(
    ("body", "words"),
    [
        (b"", "ends before"),
        (ASKS[:-4], "ends before"),
        (ASKS[:60], "ends before"),
        (b"hello", "not divided as its boundary says"),
        (b"x" * 100_000 + ASKS, "not divided as its boundary says"),
        (form(b"--b\r\n\r\nno headers\r\n"), "does not say its name"),
        (form(b"--b\r\nContent-Disposition: form-data\r\n\r\nno name\r\n"), "does not say its name"),
        (form(b"--b\r\nContent-Disposition: attachment; name=a\r\n\r\n\r\n"), "does not say its name"),
        (form(part("a", b"") * 1001), "more than 1000 parts"),
        (b"--b\r\n" + b"X-Y: z\r\n" * 100_000, "too many or too long headers"),
        (b"--b\r\nX-Y: " + b"z" * 1_000_000, "too many or too long headers"),
        (b"--b\r\n" + b"z" * 1_000_000, "too many or too long headers"),
    ],
)
async def test_what_is_no_form_is_refused_with_the_reason(body, words, capsys):
    reply = await send(body).end()
    assert (reply.status, reply.error["code"]) == (400, "invalid_form")
    assert reply.error["message"].startswith("Invalid request format: the body is not a multipart form")
    assert words in reply.error["message"]
    assert "status=400" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("kind", "words"),
    [
        ("multipart/form-data", "names no boundary"),
        ("multipart/form-data; boundary=", "names no boundary"),
        ("multipart/form-data; boundary=" + "b" * 1024, "1024"),
    ],
)
async def test_a_form_needs_a_boundary_of_a_sane_length(kind, words):
    exchange = send(ASKS, headers={"content-type": kind})
    reply = await exchange.end()
    assert (reply.status, reply.error["code"], exchange.read) == (400, "invalid_form", 0)
    assert words in reply.error["message"]


async def test_a_boundary_may_stand_in_quotes_after_another_parameter():
    headers = {"content-type": 'Multipart/Form-Data; charset=utf-8; boundary="b"'}
    assert (await send(ASKS, headers=headers).end()).status == 200


@pytest.mark.row("H15")
async def test_a_text_field_of_a_megabyte_is_refused_while_it_grows():
    exchange = send([part("prompt", b"a" * 600_000)[:-2]] + [b"a" * 600_000] * 10)
    reply = await exchange.end()
    assert (reply.status, reply.error["code"], reply.error["param"]) == (413, "content_too_large", "prompt")
    assert exchange.read < 1_300_000


async def test_a_form_over_the_body_limit_is_not_read_further():
    exchange = send([picture(b"x" * 600_000)[:-2]] + [b"x" * 600_000] * 10, max_body_mb=1)
    reply = await exchange.end()
    assert (reply.status, reply.error["code"]) == (413, "content_too_large")
    assert exchange.read < 1_300_000


async def test_a_form_declared_over_the_body_limit_is_refused_unread():
    exchange = send(ASKS, headers=FORM | {"content-length": "2000000"}, max_body_mb=1)
    assert ((await exchange.end()).status, exchange.read) == (413, 0)


async def test_an_access_line_counts_the_pictures_of_a_form(capsys):
    await send(ASKS).end()
    assert f"pictures=1 picture_bytes={len(PICTURE)}" in capsys.readouterr().err
