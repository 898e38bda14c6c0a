"""A question, its answer, and where in the picture each of their characters is to be seen. Draws nothing."""

from collections.abc import Sequence
from dataclasses import dataclass
from random import Random

from .page import Drawn, Picture
from .wordings import CHINESE_FRAMES, ENGLISH_FRAMES, WORDINGS

CHINESE_SHARE, FRAMED_SHARE = 0.42, 0.08


@dataclass(frozen=True, slots=True)
class At:
    """Words that are all read off one mark, such as an object's colour."""

    text: str
    mark: int


UNSEEN = -1  # the mark of characters that are to be seen nowhere


@dataclass(frozen=True, slots=True)
class Verdict:
    """Words that decide whether an answer is right: a count, a yes, the side of a box, where a list ends."""

    text: str
    mark: int = UNSEEN


Piece = str | Drawn | At | Verdict


@dataclass(frozen=True, slots=True)
class Spoken:
    """A text and, for each of its characters, the mark it was read from, else UNSEEN, and whether it decides.

    `truth` is what it is scored against; other than the text where that says it in coarser steps.
    """

    text: str
    marks: tuple[int, ...]
    decides: tuple[bool, ...]
    truth: str


@dataclass(frozen=True, slots=True)
class Question:
    task: str
    wording: Spoken
    answer: Spoken
    follow_ups: tuple["Question", ...] = ()  # make sense only after this question


@dataclass(frozen=True, slots=True)
class Example:
    """Pictures of one size and what can be asked about them; marks count through all pictures."""

    pictures: tuple[Picture, ...]
    questions: tuple[Question, ...]

    @property
    def mark_tokens(self) -> list[int]:
        """Visual token of every mark, counted through all pictures; -1 when it is out of sight."""
        tokens: list[int] = []
        for number, picture in enumerate(self.pictures):
            base = number * len(picture.token_labels)
            tokens += [base + int(token) if token >= 0 else -1 for token in picture.mark_tokens]
        return tokens

    @property
    def mark_halves(self) -> list[int]:
        return [int(half) for picture in self.pictures for half in picture.mark_halves]


def say(*pieces: Piece, truth: str = "") -> Spoken:
    text, marks, decides = "", [], []
    for piece in pieces:
        if isinstance(piece, str):
            text += piece
            marks += [UNSEEN] * len(piece)
        else:
            text += piece.text
            marks += list(piece.marks) if isinstance(piece, Drawn) else [piece.mark] * len(piece.text)
        decides += [isinstance(piece, Verdict)] * (len(text) - len(decides))
    return Spoken(text, tuple(marks), tuple(decides), truth or text)


def chosen(drawn: Drawn) -> list[Piece]:
    """A name that was picked among others: its first character decides."""
    return [Verdict(drawn.text[0], drawn.first), Drawn(drawn.text[1:], drawn.first + 1)]


def join(separator: str, parts: Sequence[Sequence[Piece]]) -> list[Piece]:
    pieces: list[Piece] = []
    for number, part in enumerate(parts):
        if number:
            pieces.append(separator)
        pieces.extend(part)
    return pieces


def ask(
    rng: Random,
    task: str,
    answer: Spoken,
    about: Piece = "",
    *,
    chinese: Spoken | None = None,
    chinese_about: Piece | None = None,
    follow_ups: Sequence[Question] = (),
) -> Question:
    """Word a question in either language. `chinese` is the answer to the Chinese wording where it differs."""
    in_chinese = rng.random() < CHINESE_SHARE
    template = rng.choice(WORDINGS[task].chinese if in_chinese else WORDINGS[task].english)
    if rng.random() < FRAMED_SHARE:
        template = rng.choice(CHINESE_FRAMES if in_chinese else ENGLISH_FRAMES).replace("{}", template)
    subject = chinese_about if in_chinese and chinese_about is not None else about
    before, slot, after = template.partition("{}")
    wording = say(before, subject, after) if slot else say(template)
    return Question(task, wording, chinese if in_chinese and chinese else answer, tuple(follow_ups))


def one_there_one_not(rng: Random, task: str, shown: Sequence[Drawn], known: Sequence[str]) -> list[Question]:
    """Two questions, in random order: is one of the names there that are shown, and another that is known."""
    there, names = rng.choice(shown), {name.text for name in shown}
    missing = rng.choice([name for name in known if name not in names])
    yes, chinese_yes = say(Verdict("Yes", there.first)), say(Verdict("有", there.first))
    asked = [
        ask(rng, task, yes, there, chinese=chinese_yes),
        ask(rng, task, say(Verdict("No")), missing, chinese=say(Verdict("没有"))),
    ]
    rng.shuffle(asked)
    return asked
