"""Two pictures in one prompt: their totals or their shapes are compared, or one of them is asked about."""

from random import Random

from . import receipts, scenes
from .questions import Example, Question, Verdict, ask, say

PLACES = [("first", "第一"), ("second", "第二")]


def two_receipts(rng: Random, width: int, height: int) -> Example:
    first, second = receipts.draw(rng, width, height), receipts.draw(rng, width, height)
    base = len(first.picture.mark_tokens)
    totals = [first.total, second.total.shifted(base)]
    merchants = [first.merchant, second.merchant.shifted(base)]
    asked = []
    if first.total_cents != second.total_cents:
        # The answer names both values before it judges: a model this small compares what it has already written.
        larger = 0 if first.total_cents > second.total_cents else 1
        place, chinese_place = PLACES[larger]
        english = say("First: ", totals[0], ", second: ", totals[1], ". The ", Verdict(place), " is larger.")
        chinese = say("第一张", totals[0], "，第二张", totals[1], "，", Verdict(chinese_place), "张更大。")
        asked.append(ask(rng, "pair.larger_total", english, chinese=chinese))
    for (place, chinese_place), total, merchant in zip(PLACES, totals, merchants, strict=True):
        asked.append(ask(rng, "pair.total_of", say(total), place, chinese_about=chinese_place))
        asked.append(ask(rng, "pair.merchant_of", say(merchant), place, chinese_about=chinese_place))
    return Example((first.picture, second.picture), tuple(asked))


def two_scenes(rng: Random, width: int, height: int) -> Example:
    drawn = scenes.draw(rng, width, height), scenes.draw(rng, width, height)
    counts = [len(scene.things) for scene in drawn]
    asked: list[Question] = []
    if counts[0] != counts[1]:
        place, chinese_place = PLACES[0 if counts[0] > counts[1] else 1]
        one, two = (Verdict(str(count)) for count in counts)
        english = say("First: ", one, ", second: ", two, ". The ", Verdict(place), " has more.")
        chinese = say("第一张", one, "，第二张", two, "，", Verdict(chinese_place), "张更多。")
        asked.append(ask(rng, "pair.more_shapes", english, chinese=chinese))
    for (place, chinese_place), count in zip(PLACES, counts, strict=True):
        asked.append(ask(rng, "pair.count_of", say(Verdict(str(count))), place, chinese_about=chinese_place))
    return Example((drawn[0].picture, drawn[1].picture), tuple(asked))
