"""Guesses come from what was written before and from the grammar, and are tried only where they should pay."""

from __future__ import annotations

from collections.abc import Sequence
from importlib.resources import files
from pathlib import Path

import numpy as np
import pytest

from sightline.engine.constrain import GrammarCompiler
from sightline.engine.guess import FORCED, MOST, Guess, Guesser, StepTimes, drafts
from sightline.model.prompt import Tokenizer
from sightline.types import Grammar

SCHEMA = (
    '{"type":"object","properties":{"store_name":{"type":"string"}},"required":["store_name"],'
    '"additionalProperties":false}'
)


def guesser(*prompt: int) -> Guesser:
    return Guesser(np.array(prompt, np.int32), None)


def times(**seconds: float) -> StepTimes:
    """Steps of so many tokens (`r4` is four), each met twice."""
    known = StepTimes()
    for name, value in seconds.items():
        known.note(int(name[1:]), value)
        known.note(int(name[1:]), value)
    return known


def sure(*tokens: int, chance: float = 0.9) -> Guess:
    return Guess(tokens, (6,) * len(tokens), tuple(chance ** (i + 1) for i in range(len(tokens))))


def test_what_followed_the_last_words_before_is_the_guess():
    assert guesser(1, 2, 3, 4, 5, 9, 2, 3).guess(2).tokens == (4, 5)


def test_the_longest_agreement_wins_and_then_the_latest():
    assert guesser(1, 2, 3, 10, 2, 3, 20, 7, 1, 2, 3).guess(1).tokens == (10,)
    assert guesser(2, 3, 10, 2, 3, 20, 7, 2, 3).guess(1).tokens == (20,)


def test_one_word_in_common_is_a_guess_that_is_tried_once_such_guesses_were_right():
    known = times(r1=1, r2=1.15, r4=1.3)
    one = guesser(*(token for word in range(10, 20) for token in (word, 1, 50 + word, 2)), 10)
    assert one.guess(1).tokens == (1,)
    assert drafts({"a": one.guess(5)}, known) == {}
    for word in range(11, 14):
        one.learn([1])
        one.guess(1)
        one.learn([500 + word])  # what follows is new
        one.guess(1)
        one.learn([word])
        tried = drafts({"a": one.guess(5)}, known)
    assert tried["a"][0] == 1


def test_what_stands_before_a_short_text_agrees_with_nothing():
    assert guesser(7, 7).guess(3).tokens[:1] == (7,)
    assert guesser(7).guess(3).tokens == ()


def test_text_that_repeats_itself_is_guessed_to_go_on():
    assert guesser(5, 6, 7, 5, 6, 7, 5, 6).guess(7).tokens == (7, 5, 6, 7, 5, 6, 7)


def test_there_is_no_guess_beyond_the_room_and_never_more_than_a_step_takes():
    one = guesser(*[1, 2, 3] * 20)
    assert one.guess(2).tokens == (1, 2)
    assert one.guess(0).tokens == one.guess(-1).tokens == ()
    assert len(one.guess(1000).tokens) == MOST


def test_an_answer_is_looked_up_as_its_prompt_is_and_can_be_long():
    one = guesser(1, 2)
    one.learn(range(10, 1000))
    one.learn([20, 21, 22])
    assert one.guess(2).tokens == (23, 24)


def test_guesses_that_were_wrong_lower_the_chance_of_their_kind_and_right_ones_raise_it():
    wrong, right = guesser(*[1, 2, 3] * 20), guesser(*[1, 2, 3] * 20)
    before = right.guess(1).chances[0]
    right.learn([1])
    wrong.guess(1)
    wrong.learn([99])
    wrong.learn([1, 2, 3] * 3)
    assert wrong.guess(1).chances[0] < before < right.guess(1).chances[0]


def test_a_longer_guess_is_less_likely_than_its_beginning():
    chances = guesser(*[1, 2, 3] * 20).guess(5).chances
    assert list(chances) == sorted(chances, reverse=True)


@pytest.fixture(scope="module")
def tokenizer() -> Tokenizer:
    return Tokenizer.load(Path(str(files("sightline") / "demo_model")))


def constrained(tokenizer: Tokenizer, schema: str, prompt: str, answer: str) -> Guesser:
    """A guesser for an answer under a schema that has begun with `answer`."""
    constraint = GrammarCompiler(tokenizer.definition, tokenizer.size, [0]).compile(Grammar(schema))
    one = Guesser(np.array(tokenizer.encode(prompt), np.int32), constraint)
    for token in tokenizer.encode(answer):
        constraint.accept(token)
    one.learn(tokenizer.encode(answer))
    return one


def text(tokenizer: Tokenizer, tokens: Sequence[int]) -> str:
    return b"".join(map(tokenizer.token_bytes, tokens)).decode()


def test_what_the_grammar_forces_is_guessed_with_no_text_to_copy_from(tokenizer: Tokenizer):
    guess = constrained(tokenizer, SCHEMA, "x", '{"').guess(20)
    assert text(tokenizer, guess.tokens) == "store_name"
    assert set(guess.sources) == {FORCED}


def test_what_follows_a_forced_piece_is_looked_up_behind_it(tokenizer: Tokenizer):
    guess = constrained(tokenizer, SCHEMA, 'So {"store_name": "Ox"}', '{"').guess(20)
    assert text(tokenizer, guess.tokens).startswith('store_name": "Ox"}')


def test_a_guess_ends_where_the_grammar_would_not_follow(tokenizer: Tokenizer):
    guess = constrained(tokenizer, SCHEMA, 'say "Ox", then more', '{"store_name": "Ox').guess(20)
    assert '",' not in text(tokenizer, guess.tokens)


def test_a_guess_is_tried_as_far_as_it_makes_more_tokens_per_second():
    guesses = {"a": sure(1, 2, 3, 4, 5, 6, 7)}
    flat, steep = times(r1=1, r2=1, r4=1, r8=1), times(r1=1, r2=1, r4=1.1, r8=4)
    assert drafts(guesses, flat) == {"a": (1, 2, 3, 4, 5, 6, 7)}
    assert drafts(guesses, steep) == {"a": (1, 2, 3)}
    assert drafts(guesses, times(r1=1, r2=2, r4=4, r8=8)) == {}


def test_an_unlikely_guess_is_not_worth_a_slower_step():
    assert drafts({"a": sure(1, 2, 3, chance=0.05)}, times(r1=1, r2=1.2, r4=1.3)) == {}


def test_the_likeliest_guesses_of_all_answers_are_tried_first():
    guesses = {"a": sure(1, 2, 3, chance=0.9), "b": sure(7, 8, 9, chance=0.3)}
    assert drafts(guesses, times(r2=1, r4=1.1, r8=9)) == {"a": (1, 2)}


def test_without_a_guess_there_is_nothing_to_try():
    assert drafts({"a": Guess()}, StepTimes()) == {}


def test_a_size_that_was_slow_once_is_tried_again_later():
    known = times(r1=1, r2=3)
    guesses = {"a": sure(1, 2, 3, chance=0.6)}
    assert drafts(guesses, known) == {}
    for _ in range(200):
        known.note(1, 1)
    assert drafts(guesses, known) == {}
    for _ in range(600):
        known.note(1, 1)
    assert drafts(guesses, known) == {"a": (1,)}


def test_to_a_size_nobody_tried_times_go_on_as_before_it():
    assert times().expected(4) == times(r1=1).expected(8) == 1
    assert times(r1=1, r2=1.5).expected(4) == pytest.approx(2.5, rel=0.01)
    assert times(r1=1, r4=0.8).expected(16) == 0.8
    assert times(r4=2).expected(1) == 2


def test_the_first_step_of_a_size_teaches_nothing_because_its_kernels_are_made_in_it():
    known = times(r1=1)
    known.note(4, 100)
    assert known.expected(4) == 1
