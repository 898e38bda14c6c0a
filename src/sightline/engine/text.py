"""Turns tokens into text that may be sent now: whole characters, cut at a stop string. Knows no model, no engine."""

from __future__ import annotations

import codecs
from collections.abc import Callable


class TextStream:
    """The text of one answer, piece by piece. All pieces and `flush()` together are the text up to the first stop.

    A character arrives when its last byte does; bytes that can no longer become one arrive as U+FFFD. Text that
    may be the beginning of a stop string waits until it cannot be. "First" is the stop that starts earliest in the
    text, however the tokens fall; so when one stop is complete inside the possible beginning of another ("bc" in
    "abcd" after "abc"), the decision waits too.
    """

    def __init__(self, token_bytes: Callable[[int], bytes], stop: tuple[str, ...] = ()):
        """`token_bytes` gives the bytes a token stands for; `stop` are non-empty strings."""
        self._token_bytes = token_bytes
        self._stop = stop
        self._decoder = codecs.getincrementaldecoder("utf-8")("replace")
        self._waiting = ""
        self._stopped = False

    @property
    def stopped(self) -> bool:
        """A stop string was completed: neither it nor anything after it is ever emitted."""
        return self._stopped

    def push(self, token_id: int) -> str:
        """The text this token makes safe to send, often empty."""
        if self._stopped:
            return ""
        self._waiting += self._decoder.decode(self._token_bytes(token_id))
        hit, hold = self._first_stop(), self._first_beginning()
        if hit is not None and hit <= hold:
            return self._end(hit)
        ready, self._waiting = self._waiting[:hold], self._waiting[hold:]
        return ready

    def flush(self) -> str:
        """The rest of the text when no token follows. May complete a stop: look at `stopped` afterwards."""
        if self._stopped:
            return ""
        self._waiting += self._decoder.decode(b"", final=True)
        hit = self._first_stop()
        if hit is not None:
            return self._end(hit)
        ready, self._waiting = self._waiting, ""
        return ready

    def _end(self, hit: int) -> str:
        ready, self._waiting, self._stopped = self._waiting[:hit], "", True
        return ready

    def _first_stop(self) -> int | None:
        """Where the earliest complete stop string starts in the waiting text."""
        return min((at for at in map(self._waiting.find, self._stop) if at >= 0), default=None)

    def _first_beginning(self) -> int:
        """Where the waiting text could be entering a stop string that the next tokens complete; its end if nowhere."""
        size = len(self._waiting)
        longest = 0
        for stop in self._stop:
            lengths = range(min(len(stop) - 1, size), longest, -1)
            longest = next((n for n in lengths if self._waiting.endswith(stop[:n])), longest)
        return size - longest
