"""What cannot be answered is told before pictures are decoded; what is left out of a prompt never is.

A picture that is whole up to its pixels shows whether anybody decoded it: it measures like any other.
"""

import asyncio

import pytest

from media.pdfs import inflating, one_page
from media.pictures import png
from media.test_worker import png_with_size
from sightline.engine.prepare import Preparer
from sightline.errors import DamagedImage, DocumentTooLarge, InvalidImage, InvalidSchema, PromptTooLong
from sightline.media.decoders import Decoders
from sightline.model.load import Model
from sightline.settings import MediaSettings
from sightline.types import Conversation, Document, Grammar, Image, Message, Sampling, Text

BROKEN = png_with_size(640, 480)  # 80 tokens, and a damaged picture when it is decoded


def asked(*parts: Image | Document) -> Message:
    return Message("user", (*parts, Text("What is it?")))


@pytest.fixture
def prepare(demo_model: Model, workers: Decoders):
    def prepared(*messages: Message, context: int = 256, may_drop_turns: bool = True, **sampling: object):
        preparer = Preparer(demo_model, workers, MediaSettings(), context)
        conversation = Conversation(messages, may_drop_turns=may_drop_turns)
        return asyncio.run(preparer.prepare(conversation, Sampling(max_tokens=1, **sampling)))

    return prepared


def test_pictures_that_do_not_fit_are_refused_before_any_is_decoded(prepare):
    with pytest.raises(PromptTooLong, match=r"tokens \(400 of them pictures\), the context holds 256"):
        prepare(asked(*[Image(BROKEN)] * 5))
    with pytest.raises(DamagedImage):
        prepare(asked(Image(BROKEN)))


def test_pages_that_do_not_fit_are_refused_before_any_is_drawn(demo_model: Model):
    workers = Decoders(MediaSettings(workers=1, worker_memory_bytes=64 << 20))
    content, filters = inflating(128 << 20)
    bomb = Conversation((asked(Document(one_page(content, filters=filters))),))
    for context, error in ((64, PromptTooLong), (256, DocumentTooLarge)):
        with pytest.raises(error):
            asyncio.run(Preparer(demo_model, workers, MediaSettings(), context).prepare(bomb, Sampling()))
    workers.close()


def test_pictures_of_turns_that_are_left_out_are_not_decoded(prepare):
    old = asked(*[Image(BROKEN)] * 5)
    prompt = prepare(old, Message("assistant", (Text("Dots."),)), asked())
    assert (prompt.dropped_turns, prompt.visuals) == (1, ())


def test_a_schema_that_cannot_be_held_to_is_refused_before_pictures_are_decoded(prepare):
    with pytest.raises(InvalidSchema):
        prepare(asked(Image(BROKEN)), grammar=Grammar('{"type": "nonsense"}'))


def test_a_picture_too_thin_is_refused_before_it_is_decoded(prepare):
    with pytest.raises(InvalidImage, match="50000 pixels wide and 1 high"):
        prepare(asked(Image(png_with_size(50_000, 1))))


def test_a_page_is_measured_as_it_is_drawn(prepare):
    turned = one_page(box=b"[0 0 400 300]", page=b"/CropBox [50 0 350 100] /Rotate 90")
    (info,) = prepare(asked(Document(turned))).pictures
    assert info.original == (600, 200)


def test_a_worker_that_says_two_sizes_is_not_believed(prepare, workers: Decoders, monkeypatch):
    async def another(*_: object) -> tuple[int, int]:
        return 32, 32

    monkeypatch.setattr(workers.images, "measure", another)
    with pytest.raises(DamagedImage, match="its header says another size"):
        prepare(asked(Image(png(300, 200))))
