"""How fast recent answers began, so that the next can be foretold. Knows figures of the past; no model, no machine."""

from __future__ import annotations

import math
from collections import deque

from sightline.types import Usage

RECENT = 32  # requests; older ones may be from another load
UNKNOWN_RETRY_S = 5  # when no answer was seen yet
MOST_RETRY_S = 120  # clients take longer times for no


class Rates:
    """Milliseconds per token, of what really was computed in recent requests. Belongs to one thread."""

    def __init__(self) -> None:
        self._prefill: deque[tuple[int, float]] = deque(maxlen=RECENT)  # tokens and their milliseconds
        self._vision: deque[tuple[int, float]] = deque(maxlen=RECENT)
        self._whole: deque[float] = deque(maxlen=RECENT)  # milliseconds from the beginning of the work to its end

    def note(self, usage: Usage, pictures: int) -> None:
        """Learn from an answer with this many pictures, the temporal patches of clips included.

        Tokens from a cache took no time and do not count.
        """
        self._whole.append(usage.vision_ms + usage.prefill_ms + usage.decode_ms)
        computed = usage.prompt_tokens - usage.cached_tokens
        if computed > 0:
            self._prefill.append((computed, usage.prefill_ms))
        encoded = usage.encoded_images + usage.encoded_patches
        if pictures and encoded == pictures:  # else nobody knows which of them took the time
            self._vision.append((usage.image_tokens, usage.vision_ms))

    def first_token_s(self, prompt_tokens: int, image_tokens: int) -> float | None:
        """Seconds from the beginning of the work to the first token, if no cache helps; None: see `unmeasured`."""
        if self.unmeasured(image_tokens):
            return None
        ms = prompt_tokens * _per_token(self._prefill)
        return (ms + (image_tokens * _per_token(self._vision) if image_tokens else 0.0)) / 1000

    def queue_s(self, place: int, running: int, places: int) -> float | None:
        """Seconds until work begins on a request with `place` others ahead, `running` of `places` being answered.

        None when it has to wait for an end, and none was ever seen.
        """
        ends = place + 1 - (places - running)  # answers that must end first
        if ends <= 0:
            return 0.0
        if not self._whole:
            return None
        return ends * sum(self._whole) / len(self._whole) / places / 1000

    def retry_s(self, places: int) -> int:
        """Whole seconds until one of `places` running answers has probably ended, so that there is room again."""
        if not self._whole:
            return UNKNOWN_RETRY_S
        return min(MOST_RETRY_S, math.ceil(sum(self._whole) / len(self._whole) / places / 1000))

    def unmeasured(self, image_tokens: int) -> str | None:
        """What nobody asked for yet, so that nothing can be foretold; None when all is known."""
        if not self._prefill:
            return "no question has been answered yet"
        if image_tokens and not self._vision:
            return "no new picture has been looked at yet"
        return None


def _per_token(seen: deque[tuple[int, float]]) -> float:
    return sum(ms for _, ms in seen) / sum(tokens for tokens, _ in seen)
