"""Turns examples into token sequences: one picture prefix, many questions. Knows the chat format, no gradients.

Every question is a branch: it sees the prefix and itself, and its positions go on where the prefix ended. That equals
one prompt per question exactly, while the pictures are paid for once. In a quarter of the sequences the prefix goes
on with a first question and its answer, so that all branches are follow-up turns of a conversation.
"""

from dataclasses import dataclass, field
from random import Random

import numpy as np
import torch
from tokenizers import Tokenizer
from torch import Tensor

from sightline.tasks.asking import instructions
from sightline.tasks.catalogue import find
from sightline.types import Text

from .pictures.labels import TOKEN_PX, Half, box_sides
from .pictures.page import Picture
from .pictures.questions import Example, Question, Spoken, say

LONG_TASKS = ("receipt.json", "receipt.text", "chart.parse", "text.text", "form.json", "form.text", "scene.boxes")
# Easy tasks are asked less often.
SHARES = {
    "kind": 0.15,
    "chart.type": 0.3,
    "text.lines": 0.5,
    "receipt.items": 0.5,
    "receipt.payment": 0.5,
    "receipt.fields": 0.6,
    "form.fields": 0.6,
    "chart.title": 0.5,
    "number.larger": 0.15,
}
LONG_SHARE = 0.75
CHAT_SHARE = 0.25
SYSTEM_SHARE = 0.1
SYSTEMS = ("You are a helpful assistant.", "You are a helpful assistant that reads pictures.", "Answer briefly.")
# What the service's own task puts before its question; in these words the demo model is to do it, too.
CHART_ROLE = "".join(part.text for part in instructions(find("chart_parse")).parts if isinstance(part, Text))
CHART_ROLE_SHARE = 0.06  # it is 200 tokens long
BRANCH_TOKENS = 320
ANSWER_WEIGHT = -0.6  # each answer token weighs length**this: between one vote per token and one per answer
SEEN_WEIGHT, VERDICT_WEIGHT = 3.0, 6.0  # times that for what is read off the picture, and for what decides


@dataclass(slots=True)
class Sequence:
    """Token ids and all that belongs to each: segment 0 is the prefix, 1.. the branches."""

    ids: list[int] = field(default_factory=list)
    positions: list[tuple[int, int, int]] = field(default_factory=list)
    segments: list[int] = field(default_factory=list)
    weights: list[float] = field(default_factory=list)  # of the loss when this token is predicted; 0 in questions
    seen_in: list[int] = field(default_factory=list)  # sequence index of the visual token this token was read from
    halves: list[int] = field(default_factory=list)  # Half of that visual token
    decided: list[bool] = field(default_factory=list)  # this token is part of a verdict
    images: list[int] = field(default_factory=list)  # sequence indices of the visual tokens
    next_position: int = 0


@dataclass(frozen=True, slots=True)
class Batch:
    pixels: Tensor  # (pictures, height, width, 3) uint8
    patch_labels: Tensor  # (pictures, patches in merge order, slots)
    patch_links: Tensor  # (pictures, len(Link), patches in merge order): linked patch in merge order, or -1
    token_labels: Tensor  # (pictures, tokens, Find.WIDTH)
    places: Tensor  # (pictures, tokens, 6): the token's own x, y and its object's x0, y0, x1, y1, all in 0-1
    ids: Tensor  # (batch, length)
    positions: Tensor  # (3, batch, length)
    segments: Tensor
    targets: Tensor  # the next token where it belongs to an answer, else -100
    weights: Tensor
    answer_glances: Tensor  # where the next token is to be seen, or -1
    answer_halves: Tensor  # in which Half of it
    question_glances: Tensor  # where this question token is to be seen, or -1
    visible: Tensor  # bool: this is a visual token


class Packer:
    def __init__(self, tokenizer: Tokenizer) -> None:
        self._tokenizer = tokenizer
        self.end = tokenizer.token_to_id("<|im_end|>")
        self.pad = tokenizer.token_to_id("<|endoftext|>")
        self._image = tokenizer.token_to_id("<|image_pad|>")

    def prompt(self, sizes: list[tuple[int, int]], turns: list[tuple[str, str]], question: str) -> Sequence:
        """The prompt of a conversation about pictures of (height, width), ready for an answer."""
        sequence = Sequence()
        self._text(sequence, "<|im_start|>user\n")
        self._pictures(sequence, sizes)
        for asked, answered in turns:
            self._text(sequence, f"{asked}<|im_end|>\n<|im_start|>assistant\n{answered}<|im_end|>\n<|im_start|>user\n")
        self._text(sequence, f"{question}<|im_end|>\n<|im_start|>assistant\n")
        return sequence

    def pack(self, rng: Random, example: Example) -> Sequence:
        """All questions of an example that fit, in one sequence."""
        sequence, marks = Sequence(), list(zip(example.mark_tokens, example.mark_halves, strict=True))
        chosen = self._choose(rng, example)
        opener = self._opener(rng, chosen) if rng.random() < CHAT_SHARE else None
        system = rng.choice(SYSTEMS) if rng.random() < SYSTEM_SHARE else ""
        if rng.random() < CHART_ROLE_SHARE and any(question.task == "chart.parse" for question in example.questions):
            system = CHART_ROLE
        if system:
            self._text(sequence, f"<|im_start|>system\n{system}<|im_end|>\n")
        self._text(sequence, "<|im_start|>user\n")
        sizes = [picture.pixels.shape[:2] for picture in example.pictures]
        question_first = opener is not None and rng.random() < 0.4
        if opener and question_first:
            # The pictures are not there yet, so nothing can be looked at while reading this question.
            self._text(sequence, opener.wording.text)
        self._pictures(sequence, sizes)
        if opener is None:
            branches, lead = chosen, ""
        else:
            if not question_first:
                self._spoken(sequence, opener.wording, marks, 0)
            self._reply(sequence, opener.answer, marks, 0)
            self._text(sequence, "\n")
            branches = [*opener.follow_ups, *(question for question in chosen if question is not opener)]
            lead = "<|im_start|>user\n"
        start, position = len(sequence.ids), sequence.next_position
        for segment, question in enumerate(branches, 1):
            cost = len(question.wording.text) // 3 + len(question.answer.text) + 12
            if len(sequence.ids) - start + cost > BRANCH_TOKENS:
                continue
            sequence.next_position = position
            self._text(sequence, lead, segment)
            self._spoken(sequence, question.wording, marks, segment)
            self._reply(sequence, question.answer, marks, segment)
        return sequence

    def batch(self, sequences: list[Sequence], examples: list[Example]) -> Batch:
        length = (max(len(sequence.ids) for sequence in sequences) + 31) // 32 * 32
        shape = (len(sequences), length)
        ids, segments = np.full(shape, self.pad, np.int64), np.full(shape, -1, np.int64)
        targets, weights = np.full(shape, -100, np.int64), np.zeros(shape, np.float32)
        answer_glances, question_glances = np.full(shape, -1, np.int64), np.full(shape, -1, np.int64)
        answer_halves = np.full(shape, Half.BOTH, np.int64)
        positions = np.zeros((3, *shape), np.int64)
        for row, sequence in enumerate(sequences):
            size = len(sequence.ids)
            ids[row, :size], segments[row, :size] = sequence.ids, sequence.segments
            positions[:, row, :size] = np.array(sequence.positions).T
            weight, seen_in = np.array(sequence.weights, np.float32), np.array(sequence.seen_in)
            answered = weight > 0
            weights[row, : size - 1] = weight[1:]
            targets[row, : size - 1] = np.where(answered[1:], sequence.ids[1:], -100)
            answer_glances[row, : size - 1] = np.where(answered[1:], seen_in[1:], -1)
            answer_halves[row, : size - 1] = sequence.halves[1:]
            question_glances[row, :size] = np.where(answered, -1, seen_in)
        pictures = [picture for example in examples for picture in example.pictures]
        patch_labels = [_merge_order(picture.patch_labels) for picture in pictures]
        return Batch(
            *_tensors(np.stack([picture.pixels for picture in pictures]), np.stack(patch_labels)),
            *_tensors(np.stack([_links(picture.patch_links) for picture in pictures])),
            *_tensors(np.stack([picture.token_labels for picture in pictures])),
            *_tensors(np.stack([_places(picture) for picture in pictures])),
            *_tensors(ids, positions, segments, targets, weights, answer_glances, answer_halves, question_glances),
            visible=torch.from_numpy(ids == self._image),
        )

    def left_padded(self, prompts: list[Sequence]) -> tuple[Tensor, Tensor, Tensor]:
        """ids (batch, length), positions (3, batch, length) and where there is no padding, for decoding."""
        length = max(len(prompt.ids) for prompt in prompts)
        ids = np.full((len(prompts), length), self.pad, np.int64)
        positions, there = np.zeros((3, *ids.shape), np.int64), np.zeros(ids.shape, bool)
        for row, prompt in enumerate(prompts):
            first = length - len(prompt.ids)
            ids[row, first:], there[row, first:] = prompt.ids, True
            positions[:, row, first:] = np.array(prompt.positions).T
        return torch.from_numpy(ids), torch.from_numpy(positions), torch.from_numpy(there)

    def visible(self, ids: Tensor) -> Tensor:
        return ids == self._image

    def _choose(self, rng: Random, example: Example) -> list[Question]:
        """Long answers first, so that they find room; the rest in random order."""
        asked = [question for question in example.questions if rng.random() < SHARES.get(question.task, 1.0)]
        long = [question for question in asked if question.task in LONG_TASKS and rng.random() < LONG_SHARE]
        short = [question for question in asked if question.task not in LONG_TASKS]
        rng.shuffle(short)
        return long + short

    def _opener(self, rng: Random, questions: list[Question]) -> Question | None:
        short = [question for question in questions if question.task not in LONG_TASKS]
        leading = [question for question in short if question.follow_ups]
        if leading and rng.random() < 0.8:
            return rng.choice(leading)
        return rng.choice(short) if short else None

    def _pictures(self, sequence: Sequence, sizes: list[tuple[int, int]]) -> None:
        for height, width in sizes:
            self._text(sequence, "<|vision_start|>")
            rows, columns, first = height // TOKEN_PX, width // TOKEN_PX, sequence.next_position
            sequence.images += range(len(sequence.ids), len(sequence.ids) + rows * columns)
            sequence.ids += [self._image] * (rows * columns)
            sequence.positions += [(first, first + y, first + x) for y in range(rows) for x in range(columns)]
            sequence.next_position = first + max(rows, columns)
            self._plain(sequence, rows * columns, 0)
            self._text(sequence, "<|vision_end|>")

    def _text(self, sequence: Sequence, text: str, segment: int = 0) -> None:
        self._spoken(sequence, say(text), [], segment)

    def _reply(self, sequence: Sequence, answer: Spoken, marks: list[tuple[int, int]], segment: int) -> None:
        """`<|im_end|>`, the assistant's turn and its end; only the answer and its end are learnt."""
        self._text(sequence, "<|im_end|>\n<|im_start|>assistant\n", segment)
        first = len(sequence.ids)
        self._spoken(sequence, answer, marks, segment)
        self._text(sequence, "<|im_end|>", segment)
        size = len(sequence.ids) - first
        base, seen = size**ANSWER_WEIGHT, sequence.seen_in[first:]
        decided = sequence.decided[first:]
        sequence.weights[first:] = [
            base * (VERDICT_WEIGHT if verdict else SEEN_WEIGHT if at >= 0 else 1.0)
            for at, verdict in zip(seen, decided, strict=True)
        ]

    def _spoken(self, sequence: Sequence, spoken: Spoken, marks: list[tuple[int, int]], segment: int) -> None:
        encoding = self._tokenizer.encode(spoken.text, add_special_tokens=False)
        first, count = sequence.next_position, len(encoding.ids)
        sequence.ids += encoding.ids
        sequence.positions += [(position,) * 3 for position in range(first, first + count)]
        sequence.next_position += count
        self._plain(sequence, count, segment)
        for number, (start, end) in enumerate(encoding.offsets):
            mark = max(spoken.marks[start:end], default=-1)
            sequence.decided[number - count] = any(spoken.decides[start:end])
            token, half = marks[mark] if mark >= 0 else (-1, Half.BOTH)
            if token >= 0:
                sequence.seen_in[number - count] = sequence.images[token]
                sequence.halves[number - count] = half

    @staticmethod
    def _plain(sequence: Sequence, count: int, segment: int) -> None:
        sequence.segments += [segment] * count
        sequence.weights += [0.0] * count
        sequence.seen_in += [-1] * count
        sequence.halves += [Half.BOTH] * count
        sequence.decided += [False] * count


def tree_mask(segments: Tensor) -> Tensor:
    """(batch, 1, length, length): a token sees what came before it in the prefix and in its own branch."""
    length = segments.shape[1]
    causal = torch.ones(length, length, dtype=torch.bool, device=segments.device).tril()
    query, key = segments[:, :, None], segments[:, None, :]
    return (causal & ((key == 0) | (query == key)))[:, None]


def _merge_order(labels: np.ndarray) -> np.ndarray:
    rows, columns, slots = labels.shape
    return labels.reshape(rows // 2, 2, columns // 2, 2, slots).transpose(0, 2, 1, 3, 4).reshape(-1, slots)


def _links(links: np.ndarray) -> np.ndarray:
    """Renumber the patches that links point to, and the patches themselves, from rows to merge order."""
    kinds, rows, columns = links.shape
    order = _merge_order(np.arange(rows * columns).reshape(rows, columns, 1))[:, 0]
    number = np.empty_like(order)
    number[order] = np.arange(rows * columns)
    ordered = links.reshape(kinds, -1)[:, order]
    return np.where(ordered >= 0, number[ordered], -1)


def _places(picture: Picture) -> np.ndarray:
    height, width, _ = picture.pixels.shape
    rows, columns = height // TOKEN_PX, width // TOKEN_PX
    y, x = np.divmod(np.arange(rows * columns), columns)
    own = np.stack([(x + 0.5) / columns, (y + 0.5) / rows], 1)
    return np.concatenate([own, box_sides(picture.token_labels)], 1).astype(np.float32)


def _tensors(*arrays: np.ndarray) -> list[Tensor]:
    return [torch.from_numpy(np.ascontiguousarray(array)) for array in arrays]
