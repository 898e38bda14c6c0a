"""The held-out questions: seeds that training never uses, one list of trials per task. Knows no model."""

from dataclasses import dataclass, replace
from random import Random

import numpy as np
from numpy.typing import NDArray

from .pictures.draw import example
from .pictures.questions import Example, Question

SEED = "held-out"
# Kind of picture -> canvas (width, height).
CANVASES = {
    "receipt": (256, 320),
    "unlisted_receipt": (256, 320),
    "tight_receipt": (256, 320),
    "chart": (320, 256),
    "scene": (256, 256),
    "text": (256, 256),
    "form": (256, 256),
    "two_receipts": (256, 320),
    "two_scenes": (256, 256),
}


@dataclass(frozen=True, slots=True)
class Trial:
    """A conversation about pictures, up to the question whose answer is scored."""

    task: str
    pictures: tuple[NDArray[np.uint8], ...]
    turns: tuple[tuple[str, str], ...]  # questions and answers before
    question: str
    expected: str

    @property
    def language(self) -> str:
        """Of the question; its answer may be in letters and numbers alone."""
        return "English" if self.question.isascii() else "Chinese"


# Of receipts with names that are in no list, or with lines as close as they come, only what that makes harder is asked.
HARDER = {
    "unlisted_receipt": {
        "receipt.merchant": "unlisted.merchant",
        "receipt.price": "unlisted.price",
        "receipt.json": "unlisted.json",
    },
    "tight_receipt": {"receipt.price": "tight.price", "receipt.json": "tight.json"},
}


def trials(per_task: int, kinds: tuple[str, ...] = tuple(CANVASES), seed: str = SEED) -> dict[str, list[Trial]]:
    """`per_task` trials of every task that these kinds of picture have; the same ones for the same seed.

    Checkpoints are chosen between with another seed than SEED, whose questions are the test.
    """
    by_task: dict[str, list[Trial]] = {}
    for kind in kinds:
        found: dict[str, list[Trial]] = {}
        number = 0
        while number < 40 or min(map(len, found.values())) < per_task:
            drawn = example(Random(f"{seed}/{kind}/{number}"), kind, *CANVASES[kind])
            for trial in _renamed(_trials(drawn), HARDER[kind]) if kind in HARDER else _trials(drawn):
                found.setdefault(trial.task, []).append(trial)
            number += 1
        for task, all_found in found.items():
            by_task.setdefault(task, []).extend(all_found[:per_task])
    return {task: found[:per_task] for task, found in by_task.items()}


def _renamed(found: list[Trial], names: dict[str, str]) -> list[Trial]:
    return [replace(trial, task=names[trial.task]) for trial in found if trial.task in names]


def _trials(drawn: Example) -> list[Trial]:
    pictures = tuple(picture.pixels for picture in drawn.pictures)

    def trial(question: Question, *before: Question) -> Trial:
        turns = tuple((earlier.wording.text, earlier.answer.text) for earlier in before)
        return Trial(question.task, pictures, turns, question.wording.text, question.answer.truth)

    alone = [trial(question) for question in drawn.questions]
    following = [trial(after, question) for question in drawn.questions for after in question.follow_ups]
    return alone + following
