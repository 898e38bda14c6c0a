"""Every task, one entry each: what it is asked with and what its answer looks like. Knows no HTTP and no engine.

An entry's `lane` is its policy for queue and caches, `lighter` what becomes of it when the queue is full. There is no
result cache yet; docs/architecture.md says where its policy will stand.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from sightline.errors import InvalidRequest
from sightline.types import Lane, PictureInfo
from sightline.wire_tasks import BOX_SCALE, Analysis, Boxes, Chart, FoundBoxes, Kind, Statements, schema_text


@dataclass(frozen=True, slots=True)
class Task:
    """One kind of question about at least one picture.

    `role`, `steps` and `form`, the form of the output, are the system message. A model that was taught bare questions
    does not get it (`Backend.takes_instructions`). `{schema}` in `form` is what the answer is held to.
    `template` makes the question of the caller's text, `question` stands in when there is none; without a `question`
    the text is needed.
    """

    name: str
    role: str
    steps: tuple[str, ...]
    form: str
    question: str | None = None
    template: str = "{}"
    writes: Kind | None = None  # what the model is held to, JSON of this kind
    narrowed: str | None = None  # JSON schema: the same with what only this call knows
    callers_schema: bool = False  # the caller must send one instead
    data: Kind | None = None  # what is made of the answer, as published
    refine: Callable[[Any, Sequence[PictureInfo]], Any] | None = None  # makes `data` of what the model wrote
    greedy: bool = True  # unless the caller sends a temperature; False: as the model's own defaults say
    max_tokens: int = 512
    max_images: int | None = None  # None: as many as the server takes
    max_videos: int = 0  # a task that takes any is asked about clips, not about pictures
    paged: bool = False  # asked of each page of a document, see documents.py
    # The queue of a live call, and whether what it leaves in the caches goes first. A batch asks in bulk anyway.
    lane: Lane = "interactive"
    # Whether a lighter model answers a live call, where there is one, when the queue is full. Else the call is refused.
    lighter: bool = True

    @property
    def structured(self) -> bool:
        """Whether the answer is JSON."""
        return self.callers_schema or self.writes is not None

    @property
    def schema(self) -> str | None:
        """The JSON schema that the answer is held to, unless it is the caller's or there is none."""
        return self.narrowed if self.narrowed or not self.writes else schema_text(self.writes)


def in_pixels(boxes: list[dict[str, Any]], pictures: Sequence[PictureInfo]) -> list[dict[str, Any]]:
    """The boxes, each with `bbox_pixels`: the same corners in pixels of the picture as sent, turned upright."""
    height, width = pictures[0].original
    sides = (width, height, width, height)
    return [
        box | {"bbox_pixels": [round(at * side / BOX_SCALE) for at, side in zip(box["bbox_2d"], sides, strict=True)]}
        for box in boxes
    ]


_ALL = (
    Task(
        "vqa",
        role="You answer questions about pictures.",
        steps=(
            "Look at the pictures in their order and find what the question is about.",
            "Answer from what they show. Where they do not show it, say so.",
        ),
        form="Answer in the language of the question, with what was asked for and nothing else.",
        greedy=False,
    ),
    Task(
        "captioning",
        role="You describe pictures for people who do not see them.",
        steps=(
            "Say what the picture is of, then what is in it, the most important first.",
            "Leave out what is not to be seen.",
        ),
        form="Answer with one paragraph of plain text, in the language of the question.",
        question="Describe the image.",
        greedy=False,
        max_images=1,
    ),
    Task(
        "chart_parse",
        role="You read charts for people who compute with their numbers.",
        steps=(
            "Find the kind of the chart, its title and the names of its axes; an empty string stands for what is "
            "not there.",
            "Find every series, by the legend if there is one.",
            "Read the points of each series from left to right: x as the axis names it, y as a number without its "
            "unit.",
        ),
        form="Answer with JSON only: chart_type, title, x_axis, y_axis and series, each with its name and points.",
        question="Extract the chart data as JSON.",
        writes=Chart,
        data=Chart,
        max_tokens=2048,
        max_images=1,
    ),
    Task(
        "ocr",
        role="You copy the text of pictures.",
        steps=(
            "Read from top to bottom, and columns from left to right.",
            "Keep spelling, numbers and language as they are: correct nothing, translate nothing, add nothing.",
        ),
        form="Answer with the text alone, a line for each line of the picture.",
        question="Read all the text.",
        max_tokens=2048,
        max_images=1,
    ),
    Task(
        "doc_analyze",
        role="You read one page of a document.",
        steps=(
            "Find what the question is about on this page.",
            "Answer from this page alone. Where it says nothing about it, say so.",
        ),
        form="Answer with plain text, in the language of the question.",
        question="Read all the text.",
        data=Analysis,
        max_tokens=1024,
        paged=True,
        lane="bulk",
        lighter=False,  # all pages by one model, so that they can be put together; a page waits for its place
    ),
    Task(
        "video_qa",
        role="You watch a video and answer what is asked about it.",
        steps=(
            "Look at the frames in their order; the time of each pair of them stands before it, in seconds.",
            "Find those that the question is about.",
            "Answer from what they show. Where they do not show it, say so.",
        ),
        form="Answer in the language of the question, and name the seconds where they matter.",
        question="Describe what happens in the video.",
        greedy=False,
        max_videos=1,
    ),
    Task(
        "extract",
        role="You take fields out of pictures, for programs.",
        steps=(
            "Find each field of the schema in the pictures.",
            "Copy its value as it stands there; a number without its unit and without separators of thousands.",
        ),
        form="Answer with JSON only, by this JSON schema: {schema}",
        question="Extract as JSON.",
        callers_schema=True,
        max_tokens=2048,
    ),
    Task(
        "ground",
        role="You find things in pictures and say where they are.",
        steps=(
            "Find everything in the picture that is named.",
            "Draw a box around each: left, top, right and bottom, in thousandths of the picture's width and height.",
        ),
        form="Answer with JSON only: a list of bbox_2d, four whole numbers, and label; empty where there is nothing.",
        template="Locate {}.",
        writes=Boxes,
        data=FoundBoxes,
        refine=in_pixels,
        max_tokens=1024,
        max_images=1,
    ),
)


def merging(pages: Sequence[int]) -> Task:
    """The question that puts the answers of these pages together."""
    schema = json.loads(schema_text(Statements))
    schema["$defs"]["Statement"]["properties"]["pages"]["items"] = {"enum": list(pages)}
    return Task(
        "merging",
        role="You put together what was found on the single pages of a document.",
        steps=(
            "Read the question, and below it what was found on each page.",
            "Answer the question for the whole document, with nothing that was not found on a page.",
            "Give with each statement the numbers of the pages it stands on.",
        ),
        form="Answer with JSON only: statements, each with its text and pages.",
        writes=Statements,
        narrowed=json.dumps(schema),
        max_tokens=1024,
    )


TASKS: Mapping[str, Task] = {task.name: task for task in _ALL}


def find(name: str) -> Task:
    """The task of this name. Raises InvalidRequest when there is none."""
    if name not in TASKS:
        raise InvalidRequest(f"task is {name[:80]!r}; known are {', '.join(TASKS)}", param="task")
    return TASKS[name]
