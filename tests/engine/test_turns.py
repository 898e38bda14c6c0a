"""A conversation that outgrows the context loses whole oldest turns, and only as many as it must."""

import asyncio

import pytest

from conftest import SAMPLES
from sightline.engine.prepare import Preparer
from sightline.engine.turns import count_turns, without_oldest
from sightline.errors import PromptTooLong
from sightline.media.decoders import Decoders
from sightline.model.load import Model
from sightline.settings import MediaSettings
from sightline.types import Conversation, Image, Message, Sampling, Text, ToolCall

SYSTEM = Message("system", (Text("Be brief."),))
CALL = Message("assistant", tool_calls=(ToolCall("now", "{}"),))
RESULT = Message("tool", (Text("noon"),))
PICTURE = (SAMPLES / "receipt_1.png").read_bytes()


def said(text: str) -> Message:
    return Message("assistant", (Text(text),))


def asked(text: str, *pictures: Image) -> Message:
    return Message("user", (*pictures, Text(text)))


@pytest.fixture
def prepare(demo_model: Model, workers: Decoders):
    def prepared(*messages: Message, context: int, max_tokens: int = 1, may_drop_turns: bool = True):
        preparer = Preparer(demo_model, workers, MediaSettings(), context)
        conversation = Conversation(messages, may_drop_turns=may_drop_turns)
        return asyncio.run(preparer.prepare(conversation, Sampling(max_tokens=max_tokens)))

    return prepared


def test_a_turn_is_a_question_with_all_that_answers_it():
    first = (asked("a"), CALL, RESULT, said("b"))
    conversation = Conversation((SYSTEM, *first, asked("c"), said("d"), asked("e"), CALL, RESULT))
    assert count_turns(conversation) == 3
    assert without_oldest(conversation, 0) == conversation
    assert without_oldest(conversation, 1).messages == (SYSTEM, *conversation.messages[5:])
    assert without_oldest(conversation, 2).messages == (SYSTEM, asked("e"), CALL, RESULT)


def test_what_the_assistant_says_before_the_first_question_is_a_turn():
    conversation = Conversation((said("Hello!"), asked("a"), asked("b")))
    assert count_turns(conversation) == 3
    assert without_oldest(conversation, 1).messages == (asked("a"), asked("b"))


def test_a_conversation_that_fits_loses_nothing(prepare):
    messages = (asked("one"), said("two"), asked("three"))
    length = len(prepare(*messages, context=4096).token_ids)
    fitted = prepare(*messages, context=length + 1, max_tokens=1000)
    assert (fitted.dropped_turns, len(fitted.token_ids), fitted.max_new) == (0, length, 1)


def test_as_few_turns_go_as_make_room_for_the_answer(prepare):
    turns = [(asked(f"question {i}"), said(f"answer {i}")) for i in range(7)]

    def messages(first: int):
        return (SYSTEM, *(m for turn in turns[first:] for m in turn), asked("last"))

    for first in range(1, 8):
        kept = prepare(*messages(first), context=4096).token_ids
        fitted = prepare(*messages(0), context=len(kept) + 5, max_tokens=5)
        assert fitted.dropped_turns == first
        assert fitted.token_ids.tolist() == kept.tolist()
        assert fitted.max_new == 5


def test_a_wish_for_a_very_long_answer_does_not_cost_the_whole_history(prepare):
    messages = (*(m for i in range(40) for m in (asked(f"question {i}"), said(f"answer {i}"))), asked("last"))
    fitted = prepare(*messages, context=400, max_tokens=100_000)
    assert 0 < fitted.dropped_turns < 40
    assert fitted.max_new >= 100


def test_a_picture_goes_with_its_turn_and_the_others_stay_in_their_places(prepare):
    small, large = Image(PICTURE, max_pixels=32 * 32 * 8), Image(PICTURE, max_pixels=32 * 32 * 30)
    kept = prepare(SYSTEM, asked("b", large), context=4096)
    fitted = prepare(SYSTEM, asked("a", small), said("x"), asked("b", large), context=len(kept.token_ids) + 1)
    assert (fitted.dropped_turns, len(fitted.visuals)) == (1, 1)
    assert fitted.visuals[0].picture.digest == kept.visuals[0].picture.digest
    assert fitted.token_ids.tolist() == kept.token_ids.tolist()
    assert fitted.positions.tolist() == kept.positions.tolist()


def test_a_last_turn_that_does_not_fit_alone_is_refused(prepare):
    with pytest.raises(PromptTooLong, match="context holds 64"):
        prepare(asked("one"), said("two"), asked("a b c d " * 40), context=64)
    with pytest.raises(PromptTooLong, match="characters"):
        prepare(asked("one"), said("two"), asked("a" * 64 * 129), context=64)


def test_text_far_beyond_the_context_goes_as_well(prepare):
    assert prepare(asked("a" * 64 * 129), said("two"), asked("three"), context=64).dropped_turns == 1


def test_turns_that_must_stay_make_the_conversation_too_long(prepare):
    messages = (asked("one " * 60), said("two"), asked("three"))
    assert prepare(*messages, context=64).dropped_turns == 1
    with pytest.raises(PromptTooLong, match='"truncation": "auto"'):
        prepare(*messages, context=64, may_drop_turns=False)
