"""Plain text: a few lines to read, small forms, and dense pages that only teach the vision tower its letters."""

from random import Random

from . import words
from .labels import Find, Role
from .page import FAMILIES, Drawn, Page, grey, pick_family, some_noise, some_turn, text_width
from .questions import Example, Question, Verdict, ask, chosen, join, say
from .words import CHINESE

ORDINALS = ["first", "second", "third", "fourth", "fifth", "sixth"]
CHINESE_ORDINALS = "一二三四五六"


def text_lines(rng: Random, width: int, height: int) -> Example:
    """One to six lines of random words, codes and prices."""
    page = Page(rng, width, height, grey(rng.randint(215, 255)))
    face = rng.choice(pick_family(rng))
    size = rng.choice([17, 18, 19, 20, 22, 24])
    pitch = size + rng.randint(7, 16)
    left, y, wanted = rng.randint(4, 24), rng.randint(4, 14), rng.randint(1, 6)
    lines: list[Drawn] = []
    while len(lines) < wanted and y + size + 6 < height:
        text = _fitting(rng, face, size, width - left - 8, words_at_most=4)
        slack = int(width - left - 8 - text_width(face, size, text))
        x = left if rng.random() < 0.8 else left + rng.randint(0, max(0, slack))
        lines.append(page.text(x, y, text, face, size, grey(rng.randint(0, 70))))
        y += pitch
    return Example((page.finish(some_turn(rng, 1.0), some_noise(rng)),), tuple(_line_questions(rng, lines)))


def form(rng: Random, width: int, height: int) -> Example:
    """Three to five `Name: Anna` rows."""
    page = Page(rng, width, height, grey(rng.randint(225, 255)))
    regular, bold = pick_family(rng)
    key_face = rng.choice([regular, bold])
    size, ink = rng.choice([17, 18, 19, 20]), grey(rng.randint(0, 60))
    keys = rng.sample(words.FORM_FIELDS, rng.randint(3, 5))
    y, left = rng.randint(6, 20), rng.randint(6, 20)
    pitch = rng.randint(size + 9, max(size + 9, min(size + 24, (height - 20) // len(keys))))
    aligned = rng.random() < 0.5
    widest = max(text_width(key_face, size, key + ": ") for key in keys)
    rows = []
    for key in keys:
        indent = widest if aligned else text_width(key_face, size, key + ": ")
        value = _field(rng, key)
        row = page.text(left, y, key + ":", key_face, size, ink), page.text(left + indent, y, value, regular, size, ink)
        page.note(row[0].marks, {Find.ROLE: Role.KEY})
        page.note(row[1].marks, {Find.ROLE: Role.FIELD})
        page.link(row[1], row[0])
        rows.append((row[0].part(key), row[1]))
        y += pitch
    page.in_order([key for key, _ in rows])
    asked = [ask(rng, "form.field", say(value), key) for key, value in rng.sample(rows, 3)]
    pairs = [('"', key, '": "', value, Verdict('"')) for key, value in rows]
    asked.append(ask(rng, "form.json", say("{", *join(", ", pairs), "}")))
    asked.append(ask(rng, "form.text", say(*join("\n", [(key, ": ", value) for key, value in rows]))))
    asked.append(ask(rng, "kind", say("form"), chinese=say(CHINESE["form"])))
    wanted = rng.sample(rows, rng.randint(1, 3))
    fields = [('"', *chosen(key), '": "', value, Verdict('"')) for key, value in wanted]
    asked.append(ask(rng, "form.fields", say("{", *join(", ", fields), "}"), ", ".join(key.text for key, _ in wanted)))
    return Example((page.finish(some_turn(rng), some_noise(rng)),), tuple(asked))


def dense(rng: Random, width: int, height: int) -> Example:
    """A page full of words and random characters in every size and font; nothing is asked about it."""
    dark = rng.random() < 0.05
    level = rng.randint(0, 60) if dark else rng.randint(205, 255)
    page = Page(rng, width, height, grey(level))
    y = rng.randint(1, 8)
    while True:
        size = rng.choice([13, 14, 15, 16, 17, 18, 18, 19, 20, 22, 24])
        if y + size + 4 > height:
            break
        regular, bold, _ = rng.choices(FAMILIES, [share for *_, share in FAMILIES])[0]
        face = regular if rng.random() < 0.65 else bold
        ink = rng.randint(190, 255) if dark else rng.randint(0, 80)
        left = rng.randint(2, 24)
        text = _fitting(rng, face, size, width - left - 3, words_at_most=12, noise=0.15)
        page.text(left, y, text, face, size, grey(ink))
        y += size + rng.randint(3, 12)
    return Example((page.finish(some_turn(rng), some_noise(rng)),), ())


def _fitting(rng: Random, face: str, size: int, room_px: float, *, words_at_most: int, noise: float = 0.0) -> str:
    """As many random words as fit; `noise` is the share of words made of any printable characters."""
    text = ""
    for _ in range(rng.randint(1, words_at_most)):
        if rng.random() < noise:
            word = "".join(chr(rng.randint(33, 126)) for _ in range(rng.randint(1, 5)))
        else:
            word = words.any_word(rng)
        longer = f"{text} {word}".strip()
        if text_width(face, size, longer) > room_px:
            break
        text = longer
    return text or str(rng.randint(0, 99))


def _line_questions(rng: Random, lines: list[Drawn]) -> list[Question]:
    asked = [
        ask(rng, "text.text", say(*join("\n", [(line,) for line in lines]))),
        ask(rng, "text.lines", say(Verdict(str(len(lines))))),
        ask(rng, "kind", say("text"), chinese=say(CHINESE["text"])),
    ]
    for number in rng.sample(range(len(lines)), min(2, len(lines))):
        line = lines[number]
        asked.append(ask(rng, "text.line", say(line), ORDINALS[number], chinese_about=CHINESE_ORDINALS[number]))
    return asked


def _field(rng: Random, key: str) -> str:
    digits = "".join(rng.choice("0123456789") for _ in range(6))
    values = {
        "Name": rng.choice(words.PEOPLE),
        "City": rng.choice(words.CITIES),
        "Phone": f"{digits[:3]}-{digits[2:]}",
        "ID": digits[: rng.randint(4, 6)],
        "Date": words.date(rng),
        "Age": str(rng.randint(18, 90)),
        "Room": str(rng.randint(100, 999)),
        "Code": words.code(rng),
    }
    return values[key]
