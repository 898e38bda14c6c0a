"""Every task, one entry each: what it is asked with and what its answer looks like. Knows no HTTP and no engine.

An entry has no cache or degradation policy: there is no result cache and no second model yet, so nothing would read
them.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from sightline.errors import InvalidRequest
from sightline.types import Lane, PictureInfo


@dataclass(frozen=True, slots=True)
class Task:
    """One kind of question about at least one picture.

    `template` makes the question of the caller's text, `question` stands in when there is none; without a `question`
    the text is needed. `role` and `steps` go before it as the system message; most tasks have none, because the demo
    model reads worse with any (docs/api.md has figures) and for others nobody measured that they help.
    """

    name: str
    question: str | None = None
    template: str = "{}"
    role: str = ""
    steps: tuple[str, ...] = ()
    schema: str | None = None  # JSON text: what the answer satisfies
    callers_schema: bool = False  # the caller must send one instead
    greedy: bool = True  # unless the caller sends a temperature; False: as the model's own defaults say
    max_tokens: int = 512
    max_images: int | None = None  # None: as many as the server takes
    max_videos: int = 0  # a task that takes any is asked about clips, not about pictures
    paged: bool = False  # asked of each page of a document, see documents.py
    lane: Lane = "interactive"  # of a live call; a batch asks in bulk whatever the task
    refine: Callable[[Any, Sequence[PictureInfo]], Any] | None = None  # makes `data` of the parsed answer

    @property
    def structured(self) -> bool:
        """Whether the answer is JSON."""
        return self.callers_schema or self.schema is not None


def _record(**properties: object) -> dict[str, object]:
    """The schema of an object with exactly these properties."""
    return {
        "type": "object",
        "properties": properties,
        "required": list(properties),
        "additionalProperties": False,
    }


def _list(items: object, **limits: int) -> dict[str, object]:
    return {"type": "array", "items": items, **limits}


WORD, NUMBER = {"type": "string"}, {"type": "number"}
POINT = _record(x={"anyOf": [NUMBER, WORD]}, y=NUMBER)
CHART = _record(
    chart_type=WORD, title=WORD, x_axis=WORD, y_axis=WORD, series=_list(_record(name=WORD, points=_list(POINT)))
)
# Qwen3-VL gives corners as left, top, right, bottom, in thousandths of the picture's width and height.
BOX_SCALE = 1000
CORNERS = _list({"type": "integer", "minimum": 0, "maximum": BOX_SCALE}, minItems=4, maxItems=4)
BOXES = _list(_record(bbox_2d=CORNERS, label=WORD))


def in_pixels(boxes: list[dict[str, Any]], pictures: Sequence[PictureInfo]) -> list[dict[str, Any]]:
    """The boxes, each with `bbox_pixels`: the same corners in pixels of the picture as sent, turned upright."""
    height, width = pictures[0].original
    sides = (width, height, width, height)
    return [
        box | {"bbox_pixels": [round(at * side / BOX_SCALE) for at, side in zip(box["bbox_2d"], sides, strict=True)]}
        for box in boxes
    ]


_ALL = (
    Task("vqa", greedy=False),
    Task("captioning", question="Describe the image.", greedy=False, max_images=1),
    Task(
        "chart_parse",
        question="Extract the chart data as JSON.",
        role="You read charts for people who compute with their numbers.",
        steps=(
            "Find the kind of the chart, its title and the names of its axes; an empty string stands for what is "
            "not there.",
            "Find every series, by the legend if there is one.",
            "Read the points of each series from left to right: x as the axis names it, y as a number without its "
            "unit.",
            "Answer with JSON only: chart_type, title, x_axis, y_axis and series, each with its name and points.",
        ),
        schema=json.dumps(CHART),
        max_tokens=2048,
        max_images=1,
    ),
    Task("ocr", question="Read all the text.", max_tokens=2048, max_images=1),
    Task("doc_analyze", question="Read all the text.", max_tokens=1024, paged=True, lane="bulk"),
    Task(
        "video_qa",
        question="Describe what happens in the video.",
        role="You watch a video and answer what is asked about it.",
        steps=(
            "Look at the frames in their order; the time of each pair of them stands before it, in seconds.",
            "Find those that the question is about.",
            "Answer from what they show, in the language of the question, and name the seconds where they matter.",
            "Where the frames do not show it, say so.",
        ),
        greedy=False,
        max_videos=1,
    ),
    Task("extract", question="Extract as JSON.", callers_schema=True, max_tokens=2048),
    Task(
        "ground",
        template="Locate {}.",
        schema=json.dumps(BOXES),
        max_tokens=1024,
        max_images=1,
        refine=in_pixels,
    ),
)


def merging(pages: Sequence[int]) -> Task:
    """The question that puts the answers of these pages together."""
    statement = _record(text=WORD, pages=_list({"enum": list(pages)}, minItems=1))
    return Task(
        "merging",
        role="You put together what was found on the single pages of a document.",
        steps=(
            "Read the question, and below it what was found on each page.",
            "Answer the question for the whole document, with nothing that was not found on a page.",
            "Give with each statement the numbers of the pages it stands on.",
            "Answer with JSON only: statements, each with its text and pages.",
        ),
        schema=json.dumps(_record(statements=_list(statement, minItems=1))),
        max_tokens=1024,
    )


TASKS: Mapping[str, Task] = {task.name: task for task in _ALL}


def find(name: str) -> Task:
    """The task of this name. Raises InvalidRequest when there is none."""
    if name not in TASKS:
        raise InvalidRequest(f"task is {name[:80]!r}; known are {', '.join(TASKS)}", param="task")
    return TASKS[name]
