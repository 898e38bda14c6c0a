"""What goes in circles is noticed after a few rounds; what only looks so on honest pages is let be."""

import random

import pytest

from sightline.tasks.repetition import goes_in_circles

WORDS = ["the", "receipt", "shows", "a", "total", "of", "39.63", "paid", "in", "cash", "at", "Urban", "Foods"]


@pytest.mark.parametrize("piece", ["0", "ab", "| ", "Total 39.63\n", "合计 39.63\n", "x" * 99 + "\n", "y" * 199 + "\n"])
def test_a_piece_of_any_length_is_noticed_however_the_text_began(piece):
    text = "Urban Foods\n" + piece * 300
    assert goes_in_circles(text)
    assert goes_in_circles(text + piece[: len(piece) // 2])


def test_it_is_noticed_at_eight_rounds_and_not_before():
    line = "Coffee, large, with milk  4.50\n"
    assert not goes_in_circles(line * 7)
    assert goes_in_circles(line * 8)


def test_short_pieces_need_two_hundred_characters():
    assert not goes_in_circles("Total " + "." * 199)
    assert goes_in_circles("Total " + "." * 200)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "a",
        "-" * 120 + "\n",
        "Coffee 2.50\n" * 12,
        "| | | | | | | |\n" * 8,
        "\n".join(f"{n}. Coffee 2.50" for n in range(200)),
        ", ".join(f'{{"x": {n}, "y": 7}}' for n in range(100)),
        "ab" * 500 + "c",
    ],
)
def test_honest_pages_are_let_be(text):
    assert not goes_in_circles(text)


def test_prose_is_let_be():
    words = random.Random(1)
    text = " ".join(words.choice(WORDS) for _ in range(2000))
    assert not any(goes_in_circles(text[:end]) for end in range(0, len(text), 97))
