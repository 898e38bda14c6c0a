"""Finds the model's tool calls in its text as the text comes. Knows Qwen's form of them; no grammar, no wire format."""

from __future__ import annotations

import json
import secrets

from sightline.types import FinishReason, ToolCall

OPEN, CLOSE = "<tool_call>", "</tool_call>"


class CallReader:
    """Tells the calls of one answer from its text. What does not read as a call stays text, and so do all marks
    when `tools` is False. Blanks before and between calls are dropped.
    """

    def __init__(self, *, tools: bool):
        self.tools = tools
        self.calls = 0  # found so far
        self._waiting = ""

    def push(self, text: str) -> tuple[str, tuple[ToolCall, ...]]:
        """The text that is certain to be no call, and the calls that are now complete."""
        if not self.tools:
            return text, ()
        self._waiting += text
        said = ""
        calls: list[ToolCall] = []
        while True:
            before, opened, rest = self._waiting.partition(OPEN)
            body, closed, after = rest.partition(CLOSE)
            if not closed:
                break
            call = _read(body)
            if call:
                said += before.rstrip()
                calls.append(call)
            else:
                said += before + opened + body + closed
            self._waiting = after
        cut = len(before) if opened else _could_open(before)
        cut = len(before[:cut].rstrip())
        said, self._waiting = said + self._waiting[:cut], self._waiting[cut:]
        self.calls += len(calls)
        return said, tuple(calls)

    def flush(self) -> str:
        """The rest of the text when no more comes."""
        rest, self._waiting = self._waiting, ""
        return rest if rest.strip() or not self.calls else ""

    def finish(self, finish: FinishReason) -> FinishReason:
        """Why the answer ended, seen from outside: a model that stops after its calls waits for their results."""
        return "tool_calls" if self.calls and finish == "stop" else finish


def _could_open(text: str) -> int:
    """Where at the end of `text` the beginning of an opening mark may stand; its length if nowhere."""
    lengths = range(min(len(OPEN) - 1, len(text)), 0, -1)
    return len(text) - next((n for n in lengths if text.endswith(OPEN[:n])), 0)


def _read(body: str) -> ToolCall | None:
    """The call between two marks; None when it is not one."""
    try:
        call = json.loads(body)
        name, arguments = call["name"], call["arguments"]
    except (ValueError, KeyError, TypeError, RecursionError):
        return None
    if not isinstance(name, str) or not name:
        return None
    arguments = arguments if isinstance(arguments, str) else json.dumps(arguments, ensure_ascii=False)
    return ToolCall(name, arguments, f"call_{secrets.token_hex(12)}")
