"""Two numbers in a question, the larger to be named: practice for comparing what was read. Needs no picture."""

from random import Random

from .questions import Question, Verdict, ask, say
from .words import money


def larger(rng: Random) -> Question:
    """The answer has the form in which two totals are compared, so what is learnt here serves there."""
    first, second = _two(rng)
    is_first = float(first) > float(second)
    place, chinese_place = ("first", "第一") if is_first else ("second", "第二")
    english = say("First: ", first, ", second: ", second, ". The ", Verdict(place), " is larger.")
    chinese = say("第一个", first, "，第二个", second, "，", Verdict(chinese_place), "个更大。")
    about = f"{first} or {second}"
    return ask(rng, "number.larger", english, about, chinese=chinese, chinese_about=f"{first}，{second}")


def _two(rng: Random) -> tuple[str, str]:
    """Two different sums of money, in half of the cases with the same first digit, or two small whole numbers."""
    kind = rng.random()
    if kind < 0.2:
        first, second = rng.sample(range(1, 100), 2)
        return str(first), str(second)
    while True:
        first, second = _sum(rng), _sum(rng)
        if kind < 0.6:
            second = first // 1000 * 1000 + rng.randint(0, 999)
        if first != second:
            return money(first), money(second)


def _sum(rng: Random) -> int:
    """What a receipt may come to, in cents."""
    return sum(rng.randint(50, 2999) for _ in range(rng.randint(1, 4)))
