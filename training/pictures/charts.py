"""Bar and line charts with the value printed above every mark: draws one and asks about it."""

from collections.abc import Sequence
from dataclasses import dataclass
from random import Random

from . import words
from .labels import BAR, POINT, Find, Link, Role, colour_class
from .page import Drawn, Page, Picture, grey, pick_family, some_noise, text_width
from .questions import Piece, Question, Verdict, ask, chosen, join, one_there_one_not, say

AXIS_TOP = 100


@dataclass(frozen=True, slots=True)
class Chart:
    picture: Picture
    is_bar: bool
    title: Drawn
    points: tuple[tuple[Drawn, Drawn], ...]  # label, value


def draw(rng: Random, width: int, height: int) -> Chart:
    page = Page(rng, width, height, rng.choice([(255, 255, 255), (250, 250, 245), (240, 244, 250)]))
    regular, bold = pick_family(rng)
    size, ink, is_bar = rng.choice([17, 18, 19]), grey(rng.randint(0, 60)), rng.random() < 0.6
    left, top, right, bottom = 36, 54, width - 8, height - 32
    labels = _labels(rng, int((right - left) // (text_width(regular, size, "0000") + 4)))
    values = rng.sample(range(5, 100), len(labels))

    def level(value: float) -> float:
        return bottom - (bottom - top) * value / AXIS_TOP

    name = rng.choice(words.CHART_TITLES)
    title = page.text((width - text_width(bold, 20, name)) / 2, 4, name, bold, 20, ink)
    page.note(title.marks, {Find.ROLE: Role.TITLE})
    page.line([(left, top), (left, bottom), (right, bottom)], ink)
    for value in (0, 50, 100):
        if value:
            page.line([(left, level(value)), (right, level(value))], grey(205))
        page.text(left - 4 - text_width(regular, 12, str(value)), level(value) - 8, str(value), regular, 12, ink)

    step = (right - left) / len(labels)
    tops = [(left + step * (number + 0.5), level(value)) for number, value in enumerate(values)]
    _marks(rng, page, tops, step, bottom, is_bar=is_bar)
    points = []
    roles = {max(values): (Role.HIGHEST, Role.HIGHEST_VALUE), min(values): (Role.LOWEST, Role.LOWEST_VALUE)}
    for label, value, (x, y) in zip(labels, values, tops, strict=True):
        label_drawn = page.text(x - text_width(regular, size, label) / 2, bottom + 4, label, regular, size, ink)
        value_x = x - text_width(regular, size, str(value)) / 2
        value_drawn = page.text(value_x, y - size - 6, str(value), regular, size, ink)
        label_role, value_role = roles.get(value, (Role.LABEL, Role.VALUE))
        page.note(label_drawn.marks, {Find.ROLE: label_role})
        page.note(value_drawn.marks, {Find.ROLE: value_role})
        page.link(value_drawn, label_drawn)
        points.append((label_drawn, value_drawn))
    by_value = _by_value(points)
    for text in (text for point in points for text in point):
        page.look_at(Link.HIGHEST, text.marks, by_value[-1][1].first)
        page.look_at(Link.LOWEST, text.marks, by_value[0][1].first)
    page.in_order([label for label, _ in points])
    return Chart(page.finish(noise=some_noise(rng, 16)), is_bar, title, tuple(points))


def questions(rng: Random, chart: Chart) -> list[Question]:
    mark, kind = ("bar", "bar chart") if chart.is_bar else ("point", "line chart")
    by_value = _by_value(chart.points)
    asked = [
        ask(rng, "chart.title", say(chart.title)),
        ask(rng, "chart.type", say(kind), chinese=say(words.CHINESE[kind])),
        ask(rng, "kind", say("chart"), chinese=say(words.CHINESE["chart"])),
        ask(rng, "chart.parse", say(*_json(chart))),
    ]
    for task, (label, value) in (("chart.lowest", by_value[0]), ("chart.highest", by_value[-1])):
        follow_up = ask(rng, "chart.its_value", say(value))
        asked.append(ask(rng, task, say(*chosen(label)), mark, follow_ups=[follow_up]))
    for label, value in rng.sample(chart.points, 2):
        other = rng.choice([point for point in chart.points if point[0] != label])
        follow_up = ask(rng, "chart.and_value", say(other[1]), other[0])
        asked.append(ask(rng, "chart.value", say(value), label, follow_ups=[follow_up]))
    labels = [label for label, _ in chart.points]
    known = [name for names in words.CHART_LABELS for name in names]
    return asked + one_there_one_not(rng, "chart.exist", labels, known)


def _by_value(points: Sequence[tuple[Drawn, Drawn]]) -> list[tuple[Drawn, Drawn]]:
    """Lowest first."""
    return sorted(points, key=lambda point: int(point[1].text))


def _labels(rng: Random, room: int) -> list[str]:
    """Three to five labels of one kind, as many as fit side by side."""
    known = rng.choice(words.CHART_LABELS)
    count = rng.randint(3, max(3, min(5, len(known), room)))
    if known in words.UNORDERED_LABELS and rng.random() < 0.6:
        return rng.sample(known, count)
    start = rng.randint(0, len(known) - count) if rng.random() < 0.7 else 0
    return known[start : start + count]


def _marks(
    rng: Random, page: Page, tops: list[tuple[float, float]], step: float, bottom: float, *, is_bar: bool
) -> None:
    """The bars, or the line and its points."""
    names = list(words.COLOURS)
    if not is_bar:
        name = rng.choice(names)
        page.line(tops, words.COLOURS[name], 2)
        for x, y in tops:
            dot = (x - 4, y - 4, x + 4, y + 4)
            page.draw.ellipse([side * page.scale for side in dot], fill=words.COLOURS[name])
            page.area((x - 8, y - 8, x + 8, y + 8), POINT, colour_class(name))
        return
    colours = [rng.choice(names)] * len(tops) if rng.random() < 0.4 else rng.sample(names, len(tops))
    half = step * rng.uniform(0.25, 0.35)
    for (x, y), name in zip(tops, colours, strict=True):
        bar = (x - half, y, x + half, bottom)
        page.draw.rectangle([side * page.scale for side in bar], fill=words.COLOURS[name])
        page.area(bar, BAR, colour_class(name))


def _json(chart: Chart) -> list[Piece]:
    """The service's `chart_parse` schema."""
    points = [('{"x": "', label, '", "y": ', value, Verdict("}")) for label, value in chart.points]
    kind = "bar" if chart.is_bar else "line"
    opening: list[Piece] = [f'{{"chart_type": "{kind}", "title": "', chart.title, '", "x_axis": "", "y_axis": "", ']
    return [*opening, '"series": [{"name": "", "points": [', *join(", ", points), "]}]}"]
