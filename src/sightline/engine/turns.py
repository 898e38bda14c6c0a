"""Takes the oldest turns off a conversation. Knows messages; what they cost in tokens others say."""

from __future__ import annotations

from dataclasses import replace

from sightline.types import Conversation


def count_turns(conversation: Conversation) -> int:
    """How many turns there are. A turn is a user's message with all that follows it, up to the next user's message.

    So a tool's result stays with its call. The system message belongs to none; what stands before the first user's
    message is a turn of its own.
    """
    return len(_starts(conversation))


def without_oldest(conversation: Conversation, count: int) -> Conversation:
    """The conversation without its `count` oldest turns; the last turn cannot be taken off."""
    starts = _starts(conversation)
    if not count:
        return conversation
    assert count < len(starts)
    return replace(conversation, messages=conversation.messages[: starts[0]] + conversation.messages[starts[count] :])


def _starts(conversation: Conversation) -> list[int]:
    """Where each turn begins."""
    messages = conversation.messages
    first = 1 if messages and messages[0].role == "system" else 0
    return [first] + [i for i in range(first + 1, len(messages)) if messages[i].role == "user"]
