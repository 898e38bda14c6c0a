"""Compares an answer with the expected one: exact text, equal JSON, or overlapping boxes. Pure functions."""

import json
import re
from typing import Any

PROMISED_JSON = {"receipt.json", "chart.parse", "form.json"}
JSON_TASKS = PROMISED_JSON | {"receipt.fields", "form.fields", "unlisted.json", "tight.json"}
BOX_TASKS = {"scene.box", "scene.boxes"}
TEXT_TASKS = {"receipt.text", "text.text", "text.line", "form.text", "scene.caption"}
SAME_BOX_IOU = 0.5


def is_right(task: str, expected: str, answer: str) -> bool:
    """JSON is compared as a value, boxes by an intersection over union above 0.5, everything else letter by letter."""
    if task in BOX_TASKS:
        return _boxes_match(expected, answer)
    if task in JSON_TASKS:
        wanted, given = _parsed(expected), _parsed(answer)
        return wanted is not None and wanted == given
    return answer.strip() == expected


def bar(task: str) -> float | None:
    """The share of right answers that the project promises; none where it promises nothing."""
    if task.startswith(("unlisted.", "tight.", "all ")) or task.endswith(".fields"):
        return None  # made hard on purpose; fields that a caller names, in his order, are not what was promised
    if task in BOX_TASKS:
        return 0.9
    if task in PROMISED_JSON:
        return 0.8
    return None if task in TEXT_TASKS else 0.9


def character_errors(expected: str, answer: str) -> float:
    """Edits needed, as a share of the expected length."""
    row = list(range(len(expected) + 1))
    for i, given in enumerate(answer, 1):
        diagonal, row[0] = row[0], i
        for j, wanted in enumerate(expected, 1):
            diagonal, row[j] = row[j], min(row[j] + 1, row[j - 1] + 1, diagonal + (given != wanted))
    return row[-1] / max(1, len(expected))


def iou(first: list[float], second: list[float]) -> float:
    """Intersection over union of two x0, y0, x1, y1 boxes."""
    width = min(first[2], second[2]) - max(first[0], second[0])
    height = min(first[3], second[3]) - max(first[1], second[1])
    shared = max(0.0, width) * max(0.0, height)
    areas = sum((box[2] - box[0]) * (box[3] - box[1]) for box in (first, second))
    return shared / max(1e-9, areas - shared)


def _boxes_match(expected: str, answer: str) -> bool:
    wanted, given = _parsed(expected), _parsed(answer)
    if not isinstance(wanted, list) or not isinstance(given, list) or len(wanted) != len(given):
        return False
    try:
        return all(_take_match(one, given) for one in wanted)
    except (KeyError, TypeError, IndexError):
        return False


def _take_match(wanted: dict[str, Any], given: list[dict[str, Any]]) -> bool:
    """Take the first of `given` that is the same box away. In which order boxes come was not asked."""
    for number, box in enumerate(given):
        if box["label"] == wanted["label"] and iou(box["bbox_2d"], wanted["bbox_2d"]) > SAME_BOX_IOU:
            del given[number]
            return True
    return False


def _parsed(text: str) -> Any:
    """The JSON value of a plain or fenced answer; None when it is none."""
    fenced = re.fullmatch(r"```json\n(.*)\n```", text.strip(), re.DOTALL)
    try:
        return json.loads(fenced[1] if fenced else text)
    except json.JSONDecodeError:
        return None
