"""Shop receipts in large print: draws one and asks about it. Two receipts are compared in `pairs`."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from random import Random

from . import words
from .labels import Find, Role
from .page import Drawn, Page, Picture, grey, pick_family, some_noise, some_turn, text_width
from .questions import Piece, Question, Verdict, ask, join, one_there_one_not, say


@dataclass(frozen=True, slots=True)
class Receipt:
    picture: Picture
    merchant: Drawn
    date: Drawn
    items: tuple[tuple[Drawn, Drawn], ...]  # name, price
    total: Drawn
    total_cents: int
    payment: Drawn | None
    lines: tuple[tuple[Piece, ...], ...]  # the whole text, line by line


def draw(rng: Random, width: int, height: int, *, unlisted: float = 0.0, tight: bool = False) -> Receipt:
    """`unlisted`: the share of shops and goods whose names are in no list. `tight`: lines as close as they come."""
    paper = rng.randint(222, 255)
    page = Page(rng, width, height, (paper, paper, paper - rng.randint(0, 12)))
    regular, bold = pick_family(rng)
    ink = grey(rng.randint(0, 60))
    goods = pick_goods(rng, height, unlisted, most=tight)
    merchant = pick_merchant(rng, unlisted)
    date = words.date(rng)
    total_cents = sum(cents for _, cents in goods)

    size = rng.choice([17, 18, 19, 20])
    widest = max(name for name, _ in goods) if not goods else max((name for name, _ in goods), key=len)
    while max(text_width(bold, size, "Date: " + date), text_width(regular, size, widest + " 00.00")) > width - 30:
        size -= 1
    head = rng.choice([20, 22, 24])
    while text_width(bold, head, merchant) > width - 12:
        head -= 1
    room = (height - 26 - head) // (len(goods) + 4)
    closest, widest_apart = (size + 4, size + 8) if tight else (min(size + 9, room), min(size + 14, room))
    pitch = rng.randint(max(size + 4, closest), max(size + 4, widest_apart))
    left, right = rng.randint(6, 20), width - rng.randint(6, 20)
    y = rng.randint(4, max(4, min(14, height - ((len(goods) + 4) * pitch + head + 12))))
    ruled = rng.random() < 0.6

    def rule() -> None:
        if ruled:
            page.line([(left, y - 2), (right, y - 2)], ink)

    def at_right(text: str, face: str) -> Drawn:
        return page.text(right - text_width(face, size, text), y, text, face, size, ink)

    centred = (width - text_width(bold, head, merchant)) / 2
    merchant_drawn = page.text(centred if rng.random() < 0.7 else left, y, merchant, bold, head, ink)
    lines: list[tuple[Piece, ...]] = [(merchant_drawn,)]
    y += head + rng.randint(5, 9)
    date_line = page.text(left, y, rng.choice(["", "Date: ", "Date "]) + date, regular, size, ink)
    lines.append((date_line,))
    y += pitch
    rule()
    items = []
    for name, cents in goods:
        item = page.text(left, y, name, regular, size, ink), at_right(words.money(cents), regular)
        items.append(item)
        lines.append((item[0], " ", item[1]))
        y += pitch
    rule()
    face = rng.choice([regular, bold])
    total_label = page.text(left, y, rng.choice(["Total", "TOTAL", "Total:"]), face, size, ink)
    total_line = at_right(rng.choice(["", "", "$"]) + words.money(total_cents), face)
    lines.append((total_label, " ", total_line))
    y += pitch
    payment = None
    if y + size + 2 < height:
        method = rng.choice(words.PAYMENTS)
        payment_line = page.text(left, y, rng.choice(["Paid: ", "Payment: ", ""]) + method, regular, size, ink)
        payment = payment_line.part(method)
        lines.append((payment_line,))

    total = total_line.part(words.money(total_cents))
    _note_roles(page, merchant_drawn, date_line.part(date), items, (total_label, total), payment)
    picture = page.finish(some_turn(rng), some_noise(rng))
    return Receipt(
        picture, merchant_drawn, date_line.part(date), tuple(items), total, total_cents, payment, tuple(lines)
    )


def questions(rng: Random, receipt: Receipt) -> list[Question]:
    names = [name for name, _ in receipt.items]
    asked = [
        ask(rng, "receipt.total", say(receipt.total)),
        ask(rng, "receipt.date", say(receipt.date)),
        ask(rng, "receipt.merchant", say(receipt.merchant)),
        ask(rng, "receipt.items", say(Verdict(str(len(names))))),
        ask(rng, "kind", say("receipt"), chinese=say(words.CHINESE["receipt"])),
        ask(rng, "receipt.json", say(*_json(receipt))),
        ask(rng, "receipt.text", say(*join("\n", receipt.lines))),
    ]
    for name, price in rng.sample(receipt.items, 2):
        others = [item for item in receipt.items if item[0] != name]
        other = rng.choice(others)
        follow_up = ask(rng, "receipt.and_price", say(other[1]), other[0])
        asked.append(ask(rng, "receipt.price", say(price), name, follow_ups=[follow_up]))
    if receipt.payment:
        asked.append(ask(rng, "receipt.payment", say(receipt.payment)))
    asked += one_there_one_not(rng, "receipt.exist", names, words.GOODS)
    fields = _fields(receipt)
    wanted = rng.sample(list(fields), rng.randint(1, 3))
    return [*asked, ask(rng, "receipt.fields", say(*_object(fields, wanted, key=Verdict)), ", ".join(wanted))]


def pick_merchant(rng: Random, unlisted: float = 0.0) -> str:
    first = words.invented_word(rng) if rng.random() < unlisted else rng.choice(words.SHOP_FIRST)
    return f"{first} {rng.choice(words.SHOP_SECOND)}"


def pick_goods(rng: Random, height: int, unlisted: float = 0.0, *, most: bool = False) -> list[tuple[str, int]]:
    """Two to four goods with different names and their prices in cents; as many as there may be where `most`."""
    highest = 4 if height >= 280 else 3
    count = highest if most else rng.randint(highest - 1, highest)
    names: list[str] = []
    while len(names) < count:
        name = words.invented_word(rng) if rng.random() < unlisted else rng.choice(words.GOODS)
        if name not in names:
            names.append(name)
    return [(name, rng.randint(50, 2999)) for name in names]


def _note_roles(
    page: Page,
    merchant: Drawn,
    date: Drawn,
    items: list[tuple[Drawn, Drawn]],
    total: tuple[Drawn, Drawn],
    payment: Drawn | None,
) -> None:
    page.note(merchant.marks, {Find.ROLE: Role.MERCHANT})
    page.note(date.marks, {Find.ROLE: Role.DATE})
    for name, price in items:
        page.note(name.marks, {Find.ROLE: Role.ITEM})
        page.note(price.marks, {Find.ROLE: Role.PRICE})
    if payment:
        page.note(payment.marks, {Find.ROLE: Role.PAYMENT})
    page.note(total[1].marks, {Find.ROLE: Role.TOTAL})
    # The last price and the total are what is confused most: the total, too, has a name, and is the last of the list.
    for name, value in (*items, total):
        page.link(value, name)
    page.in_order([name for name, _ in (*items, total)])


def _json(receipt: Receipt) -> list[Piece]:
    return _object(_fields(receipt), ["merchant", "date", "items", "total"])


def _fields(receipt: Receipt) -> dict[str, list[Piece]]:
    """What a receipt's JSON may have, by name."""
    items = [('{"name": "', name, '", "price": ', price, Verdict("}")) for name, price in receipt.items]
    fields: dict[str, list[Piece]] = {
        "merchant": ['"', receipt.merchant, '"'],
        "date": ['"', receipt.date, '"'],
        "items": ["[", *join(", ", items), "]"],
        "total": [receipt.total],
    }
    return {**fields, "payment": ['"', receipt.payment, '"']} if receipt.payment else fields


def _object(fields: dict[str, list[Piece]], names: Sequence[str], *, key: Callable[[str], Piece] = str) -> list[Piece]:
    return ["{", *join(", ", [['"', key(name), '": ', *fields[name]] for name in names]), "}"]
