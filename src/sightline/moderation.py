"""What a moderator is: a text and pictures in, a score per category out. Knows no policy and no HTTP."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, Protocol, get_args

Category = Literal[
    "harassment",
    "harassment/threatening",
    "hate",
    "hate/threatening",
    "illicit",
    "illicit/violent",
    "self-harm",
    "self-harm/instructions",
    "self-harm/intent",
    "sexual",
    "sexual/minors",
    "violence",
    "violence/graphic",
]
CATEGORIES: tuple[Category, ...] = get_args(Category)  # OpenAI's, in its order


@dataclass(frozen=True, slots=True)
class Score:
    """How sure the moderator is, 0 to 1, whether that is over its limit, and what it looked at for it."""

    value: float
    flagged: bool
    looked_at: tuple[Literal["text", "image"], ...]


class Moderator(Protocol):
    """Judges one text with its pictures. Implementations decode pictures where hostile bytes may be decoded."""

    @property
    def name(self) -> str:
        """What callers see as the model."""
        ...

    async def judge(self, text: str, pictures: Sequence[bytes]) -> Mapping[Category, Score]:
        """The scores; a category that is left out was not looked for. `pictures` are encoded, as they came."""
        ...
