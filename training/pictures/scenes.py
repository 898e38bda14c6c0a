"""Coloured shapes on a plain ground: draws some and asks about them. Two scenes are compared in `pairs`."""

import math
from dataclasses import dataclass
from itertools import pairwise
from random import Random

from . import words
from .labels import FIFTY, FIRST, TOKEN_PX, Find, Link, box_columns, colour_class, object_class, shape_class
from .page import Page, Picture, some_noise
from .questions import At, Piece, Question, Spoken, Verdict, ask, join, say
from .words import CHINESE

Point = tuple[float, float]
SMALLEST_HALF_PX, LARGEST_HALF_PX = 20, 40
DISPUTED = 0.025  # of the picture's side, on either side of a border between two regions
APART = 0.07  # of the width between two centres, so that nobody disputes which shape comes first


@dataclass(frozen=True, slots=True)
class Thing:
    """One shape; `box` is x0, y0, x1, y1 in 0-1000 of the picture's sides, as Qwen3-VL answers."""

    shape: str
    colour: str
    box: tuple[int, int, int, int]
    region: str  # of the picture; "" where that could be disputed
    mark: int
    marks: tuple[int, ...]  # in every visual token of it

    @property
    def english(self) -> str:
        return f"{self.colour} {self.shape}"

    @property
    def chinese(self) -> str:
        return CHINESE[self.colour] + CHINESE[self.shape]


@dataclass(frozen=True, slots=True)
class Scene:
    picture: Picture
    things: tuple[Thing, ...]  # from left to right


def draw(rng: Random, width: int, height: int) -> Scene:
    ground = rng.choice([(255, 255, 255), (245, 240, 225), (225, 235, 245), (230, 245, 230), (200, 200, 200)])
    page = Page(rng, width, height, ground)
    largest = LARGEST_HALF_PX if min(width, height) >= 192 else 26
    wanted = rng.randint(1, 5)
    placed: list[tuple[int, int, int]] = []
    for _ in range(200):
        if len(placed) == wanted:
            break
        half = rng.randint(SMALLEST_HALF_PX if largest == LARGEST_HALF_PX else 16, largest)
        x, y = rng.randint(half + 3, width - half - 3), rng.randint(half + 3, height - half - 3)
        free = all(max(abs(x - ox), abs(y - oy)) > half + oh + 6 for ox, oy, oh in placed)
        if free and all(abs(x - ox) >= APART * width for ox, _, _ in placed):
            placed.append((x, y, half))
    things = [_thing(rng, page, x, y, half) for x, y, half in sorted(placed)]
    for before, thing in pairwise(things):
        page.note(thing.marks, {Find.PREVIOUS: object_class(before.colour, before.shape)})
        page.look_at(Link.PREVIOUS, thing.marks, before.mark)
    page.note(things[0].marks, {Find.PREVIOUS: FIRST})
    return Scene(page.finish(noise=some_noise(rng, 16)), tuple(things))


def questions(rng: Random, scene: Scene) -> list[Question]:
    things = scene.things
    asked = [
        ask(rng, "scene.count", say(Verdict(str(len(things))))),
        ask(rng, "scene.caption", say(*_caption(things)), chinese=say(*_chinese_caption(things))),
        ask(rng, "kind", say("shapes"), chinese=say(CHINESE["shapes"])),
        _exist(rng, things),
    ]
    shape = rng.choice(things).shape if rng.random() < 0.8 else rng.choice(words.SHAPES)
    number = str(sum(thing.shape == shape for thing in things))
    asked.append(ask(rng, "scene.count_shape", say(Verdict(number)), shape, chinese_about=CHINESE[shape]))
    lone_shapes = [thing for thing in things if sum(other.shape == thing.shape for other in things) == 1]
    if lone_shapes:
        thing = rng.choice(lone_shapes)
        colour, chinese = At(thing.colour, thing.mark), At(CHINESE[thing.colour], thing.mark)
        subject, chinese_subject = At(thing.shape, thing.mark), At(CHINESE[thing.shape], thing.mark)
        asked.append(
            ask(rng, "scene.colour", say(colour), subject, chinese=say(chinese), chinese_about=chinese_subject)
        )
    lone = [thing for thing in things if sum(other.english == thing.english for other in things) == 1]
    placed = [thing for thing in lone if thing.region]
    if placed:
        asked.append(_position(rng, "scene.position", rng.choice(placed)))
    if lone:
        for thing in rng.sample(lone, min(3, len(lone))):
            subject, chinese_subject = At(thing.english, thing.mark), At(thing.chinese, thing.mark)
            box, chinese_box = (_boxes([thing], chinese=chinese) for chinese in (False, True))
            asked.append(ask(rng, "scene.box", box, subject, chinese=chinese_box, chinese_about=chinese_subject))
    if len(things) > 1:
        boxes, chinese_boxes = (_boxes(things, chinese=chinese) for chinese in (False, True))
        asked.append(ask(rng, "scene.boxes", boxes, chinese=chinese_boxes))
    return asked


def _thing(rng: Random, page: Page, x: int, y: int, half: int) -> Thing:
    shape, colour = rng.choice(words.SHAPES), rng.choice(list(words.COLOURS))
    red, green, blue = (max(0, min(255, level + rng.randint(-15, 15))) for level in words.COLOURS[colour])
    fill, scale = (red, green, blue), page.scale
    outline = _outline(shape, x, y, half)
    left, right = min(px for px, _ in outline), max(px for px, _ in outline)
    top, bottom = min(py for _, py in outline), max(py for _, py in outline)
    if shape == "circle":
        page.draw.ellipse([left * scale, top * scale, right * scale, bottom * scale], fill=fill)
    else:
        page.draw.polygon([(px * scale, py * scale) for px, py in outline], fill=fill)
    page.area((left, top, right, bottom), shape_class(shape), colour_class(colour))
    across, down = 1000 / page.width, 1000 / page.height
    box = (round(left * across), round(top * down), round(right * across), round(bottom * down))
    region, region_class = _region(x / page.width, y / page.height)
    mark = page.mark(x, y)
    finds = {Find.OBJECT: object_class(colour, shape), Find.REGION: region_class, **box_columns(box)}
    inside = [
        page.mark(cx, cy)
        for cx in range(TOKEN_PX // 2, page.width, TOKEN_PX)
        for cy in range(TOKEN_PX // 2, page.height, TOKEN_PX)
        if left <= cx <= right and top <= cy <= bottom
    ]
    page.note([mark, *inside], finds)
    return Thing(shape, colour, box, region, mark, (mark, *inside))


def _outline(shape: str, x: float, y: float, half: float) -> list[Point]:
    if shape == "triangle":
        return [(x, y - half), (x + half, y + half), (x - half, y + half)]
    if shape == "diamond":
        return [(x, y - half), (x + half * 0.75, y), (x, y + half), (x - half * 0.75, y)]
    if shape == "star":
        radii = [half if corner % 2 == 0 else half * 0.42 for corner in range(10)]
        return [
            (x + math.sin(corner * math.pi / 5) * radius, y - math.cos(corner * math.pi / 5) * radius)
            for corner, radius in enumerate(radii)
        ]
    return [(x - half, y - half), (x + half, y - half), (x + half, y + half), (x - half, y + half)]


def _region(across: float, down: float) -> tuple[str, int]:
    """One of nine parts of the picture, and its class 1-9; "" next to a border between two of them."""
    row, column = min(2, int(down * 3)), min(2, int(across * 3))
    name = f"{['top', 'middle', 'bottom'][row]} {['left', 'center', 'right'][column]}"
    if any(abs(place - border / 3) < DISPUTED for place in (across, down) for border in (1, 2)):
        name = ""
    return ("center" if name == "middle center" else name), 1 + row * 3 + column


def _with_article(name: str) -> str:
    return ("an " if name[0] in "aeiou" else "a ") + name


def _position(rng: Random, task: str, thing: Thing) -> Question:
    region, chinese = Verdict(thing.region, thing.mark), Verdict(CHINESE[thing.region], thing.mark)
    subject, chinese_subject = At(thing.english, thing.mark), At(thing.chinese, thing.mark)
    return ask(rng, task, say(region), subject, chinese=say(chinese), chinese_about=chinese_subject)


def _exist(rng: Random, things: tuple[Thing, ...]) -> Question:
    """Asked about a thing that is there as often as about one that is not."""
    if rng.random() < 0.5:
        thing = rng.choice(things)
        subject = At(_with_article(thing.english), thing.mark)
        chinese_subject = At(thing.chinese, thing.mark)
        only = sum(other.english == thing.english for other in things) == 1 and thing.region
        follow_ups = [_position(rng, "scene.where_is_it", thing)] if only else []
        yes, chinese_yes = say(Verdict("Yes", thing.mark)), say(Verdict("有", thing.mark))
        return ask(
            rng, "scene.exist", yes, subject, chinese=chinese_yes, chinese_about=chinese_subject, follow_ups=follow_ups
        )
    shown = {thing.english for thing in things}
    absent = [(c, s) for c in words.COLOURS for s in words.SHAPES if f"{c} {s}" not in shown]
    # Half of the absent things share their shape or colour with one that is there.
    close = [(c, s) for c, s in absent if any(c == thing.colour or s == thing.shape for thing in things)]
    colour, shape = rng.choice(close if rng.random() < 0.5 else absent)
    subject_text = _with_article(f"{colour} {shape}")
    chinese_text = CHINESE[colour] + CHINESE[shape]
    no, chinese_no = say(Verdict("No")), say(Verdict("没有"))
    return ask(rng, "scene.exist", no, subject_text, chinese=chinese_no, chinese_about=chinese_text)


def _caption(things: tuple[Thing, ...]) -> list[Piece]:
    named: list[At] = [At(_with_article(thing.english), thing.mark) for thing in things]
    if len(named) == 1:
        return ["The image shows ", named[0], "."]
    return ["The image shows ", *join(", ", [(name,) for name in named[:-1]]), " and ", named[-1], "."]


def _chinese_caption(things: tuple[Thing, ...]) -> list[Piece]:
    return ["图片里有", *join("、", [("一个", At(thing.chinese, thing.mark)) for thing in things]), "。"]


def _boxes(things: list[Thing] | tuple[Thing, ...], *, chinese: bool) -> Spoken:
    """Qwen3-VL's grounding answer: a fenced JSON list, one object a line."""
    taught, true = [], []
    for thing in things:
        label = At(thing.chinese if chinese else thing.english, thing.mark)
        sides = join(", ", [_side(side, thing.mark) for side in thing.box])
        taught.append(('{"bbox_2d": [', *sides, '], "label": "', label, '"', Verdict("}", thing.mark)))
        true.append(f'{{"bbox_2d": {list(thing.box)}, "label": "{label.text}"}}')
    start, end = "```json\n[\n\t", "\n]\n```"
    return say(start, *join(",\n\t", taught), end, truth=start + ",\n\t".join(true) + end)


def _side(side: int, mark: int) -> list[Piece]:
    """In fifties, most of a patch: finer digits stayed at chance. The last digit is always 0 and decides nothing."""
    text = str(FIFTY * round(side / FIFTY))
    return [Verdict(text[:-1], mark), At(text[-1], mark)]
