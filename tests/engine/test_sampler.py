"""The next token follows the rules the caller chose, and a seed repeats it."""

from typing import Any

import numpy as np
import pytest

from sightline.engine.sampler import Sampler
from sightline.errors import InternalError, InvalidRequest
from sightline.types import Grammar, Sampling

VOCAB, PADDED = 50, 64


def sampler(prompt: tuple[int, ...] = (), vocab: int = VOCAB, stop_ids: tuple[int, ...] = (), **fields: Any) -> Sampler:
    return Sampler(Sampling(**{"temperature": 0.0} | fields), np.array(prompt, np.int64), vocab, stop_ids)


def row(values: dict[int, float], rest: float = -30.0) -> np.ndarray:
    """Logits [PADDED] that are `rest` but for `values`."""
    logits = np.full(PADDED, rest, np.float32)
    for token, value in values.items():
        logits[token] = value
    return logits


def random_rows(count: int, seed: int = 0, scale: float = 2.0) -> np.ndarray:
    return np.random.default_rng(seed).normal(0, scale, (count, PADDED)).astype(np.float32)


def frequencies(logits: np.ndarray, draws: int = 5000, **fields: Any) -> np.ndarray:
    drawn = sampler(**{"temperature": 1.0, "seed": 7} | fields)
    return np.bincount([drawn.choose(logits).token for _ in range(draws)], minlength=PADDED) / draws


def softmax(logits: np.ndarray) -> np.ndarray:
    weights = np.exp(logits - logits.max())
    return weights / weights.sum()


def test_greedy_takes_the_highest_logit_and_the_lowest_id_among_equals():
    assert sampler().choose(row({9: 5.0, 4: 5.0, 30: 4.9})).token == 4


def test_a_tiny_temperature_is_greedy():
    assert sampler(temperature=1e-7).choose(row({9: 5.0, 4: 5.0})).token == 4


def test_padding_columns_are_never_chosen_nor_reported():
    logits = row({60: 100.0, 50: 99.0, 3: 1.0})
    choice = sampler(top_logprobs=20).choose(logits)
    assert choice.token == 3
    assert max(token for token, _ in choice.top) < VOCAB
    assert sum(np.exp(p) for _, p in sampler(top_logprobs=VOCAB).choose(logits).top) == pytest.approx(1)
    assert frequencies(random_rows(1)[0] * 0, draws=2000)[VOCAB:].sum() == 0


def test_a_bias_moves_a_token_and_does_not_touch_the_logits_given():
    logits = row({1: 2.0, 2: 1.0})
    before = logits.copy()
    assert sampler(logit_bias={2: 5.0}).choose(logits).token == 2
    assert sampler(logit_bias={1: -100.0}).choose(logits).token == 2
    assert (logits == before).all()


def test_no_setting_writes_to_the_logits():
    logits = random_rows(1)[0]
    logits.flags.writeable = False
    mask = np.arange(PADDED) % 2 == 0
    everything = {
        "temperature": 0.8,
        "top_k": 9,
        "top_p": 0.9,
        "min_p": 0.01,
        "repetition_penalty": 1.2,
        "presence_penalty": 0.5,
        "frequency_penalty": 0.5,
        "logit_bias": {3: 1.0},
        "top_logprobs": 3,
        "ignore_eos": True,
    }
    assert sampler((1, 2), stop_ids=(5,), **everything).choose(logits, mask).token % 2 == 0


def test_a_bias_for_a_token_the_model_lacks_is_named():
    with pytest.raises(InvalidRequest, match="logit_bias names token 50, the model has tokens 0 to 49"):
        sampler(logit_bias={50: 1.0})


def test_repetition_penalty_divides_positive_and_multiplies_negative_logits_of_prompt_and_answer():
    assert sampler((1,), repetition_penalty=2.0).choose(row({1: 3.0, 2: 1.6})).token == 2
    assert sampler((1,), repetition_penalty=2.0).choose(row({1: -1.0, 2: -1.9})).token == 2
    answer = sampler((), repetition_penalty=2.0)
    assert [answer.choose(row({1: 3.0, 2: 1.6})).token for _ in range(3)] == [1, 2, 1]


def test_presence_and_frequency_penalties_count_the_answer_and_not_the_prompt():
    logits = row({1: 3.0, 2: 2.0, 3: 1.0})
    presence = sampler((1, 1, 1), presence_penalty=1.5)
    assert [presence.choose(logits).token for _ in range(4)] == [1, 2, 1, 1]
    frequency = sampler((1, 1, 1), frequency_penalty=0.75)
    assert [frequency.choose(logits).token for _ in range(4)] == [1, 1, 2, 1]


def test_incremental_penalties_equal_those_computed_from_the_whole_history():
    fields = {"repetition_penalty": 1.3, "presence_penalty": 0.4, "frequency_penalty": 0.3}
    prompt, chosen = (3, 3, 7, 49), []
    incremental = sampler(prompt, **fields)
    for logits in random_rows(200, seed=3):
        expected = logits[:VOCAB].astype(np.float64)
        for token in set(prompt) | set(chosen):
            expected[token] *= 1 / 1.3 if expected[token] > 0 else 1.3
            times = chosen.count(token)
            expected[token] -= 0.4 * (times > 0) + 0.3 * times
        chosen.append(incremental.choose(logits).token)
        assert chosen[-1] == expected.argmax()


def test_a_mask_is_obeyed_greedy_and_sampled_and_with_top_k():
    mask = np.zeros(PADDED, bool)
    mask[[5, 6, 60]] = True
    for fields in ({}, {"temperature": 1.0}, {"temperature": 1.0, "top_k": 20, "top_p": 0.9}):
        masked = sampler(**fields, seed=1)
        assert {masked.choose(logits, mask).token for logits in random_rows(100)} == {5, 6}


def test_an_empty_mask_is_our_error():
    with pytest.raises(InternalError, match="allows no token"):
        sampler().choose(row({1: 1.0}), np.zeros(PADDED, bool))


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_logits_that_are_not_finite_are_our_error(bad: float):
    with pytest.raises(InternalError, match="1 of them not finite"):
        sampler().choose(row({7: bad}))
    assert sampler().choose(row({60: bad, 1: 1.0})).token == 1  # padding is not looked at


def test_too_few_logits_are_our_error():
    with pytest.raises(InternalError, match="40 logits for 50 tokens"):
        sampler().choose(np.zeros(40, np.float32))


def test_temperature_shapes_the_distribution():
    logits = row({1: 1.0, 2: 0.0, 3: -1.0})
    for temperature in (0.5, 1.0, 2.0):
        expected = softmax(logits[:VOCAB].astype(np.float64) / temperature)
        assert np.abs(frequencies(logits, temperature=temperature)[:VOCAB] - expected).max() < 0.03


def test_top_k_keeps_exactly_the_k_best_and_among_equals_the_lowest_ids():
    logits = row({8: 1.0, 3: 0.5, 20: 0.5, 11: 0.5})
    assert set(np.flatnonzero(frequencies(logits, top_k=3))) == {8, 3, 11}
    assert frequencies(logits, top_k=1, draws=50)[8] == 1


def test_top_p_keeps_the_smallest_set_that_reaches_it():
    logits = row(dict(enumerate(np.log([0.5, 0.3, 0.15, 0.05]))), rest=-60.0)
    assert set(np.flatnonzero(frequencies(logits, top_p=0.7))) == {0, 1}
    assert set(np.flatnonzero(frequencies(logits, top_p=0.85))) == {0, 1, 2}
    assert set(np.flatnonzero(frequencies(logits, top_p=0.0, draws=200))) == {0}
    assert frequencies(logits, top_p=0.7)[0] == pytest.approx(0.5 / 0.8, abs=0.03)


def test_top_p_works_on_what_top_k_left():
    logits = row(dict(enumerate(np.log([0.4, 0.2, 0.2, 0.2]))), rest=-60.0)
    assert set(np.flatnonzero(frequencies(logits, top_k=2, top_p=0.6))) == {0}


def test_top_p_over_a_flat_distribution_keeps_the_lowest_ids_of_equals():
    assert set(np.flatnonzero(frequencies(row({}, rest=0.0), top_p=0.1))) == {0, 1, 2, 3, 4}


def test_top_p_agrees_with_a_full_sort_for_any_logits():
    for logits in random_rows(30, seed=5, scale=4.0):
        p = softmax(logits[:VOCAB].astype(np.float64))
        order = np.argsort(-p, kind="stable")
        kept = order[: np.searchsorted(np.cumsum(p[order]), 0.9) + 1]
        seen = np.flatnonzero(frequencies(logits, top_p=0.9, draws=300))
        assert set(seen) <= set(kept)


def test_min_p_drops_what_is_too_far_below_the_best():
    logits = row(dict(enumerate(np.log([0.6, 0.25, 0.1, 0.05]))), rest=-60.0)
    assert set(np.flatnonzero(frequencies(logits, min_p=0.3))) == {0, 1}
    assert set(np.flatnonzero(frequencies(logits, min_p=1.0, draws=100))) == {0}


def test_a_seed_repeats_the_answer_and_another_seed_does_not():
    rows = random_rows(40)

    def answer(seed: int | None) -> list[int]:
        drawn = sampler(temperature=1.0, seed=seed)
        return [drawn.choose(logits).token for logits in rows]

    assert answer(3) == answer(3)
    assert answer(3) != answer(4)
    assert answer(-1) == answer(-1)
    assert answer(2**80) == answer(2**80)
    assert answer(None) != answer(None)


def test_a_seeded_sequence_does_not_depend_on_the_others_in_the_batch():
    rows = random_rows(60, seed=9)
    alone = sampler(temperature=0.9, top_p=0.9, seed=11)
    expected = [alone.choose(logits).token for logits in rows]
    mine, others = sampler(temperature=0.9, top_p=0.9, seed=11), [sampler(temperature=1.0, seed=i) for i in range(3)]
    got = []
    for step, logits in enumerate(rows):
        for other in others[: step % 4]:
            other.choose(logits)
        got.append(mine.choose(logits).token)
    assert got == expected


def test_every_sampled_token_takes_one_draw_whatever_it_was_chosen_from():
    rows = random_rows(10)
    one = np.zeros(PADDED, bool)
    one[4] = True
    free, forced = sampler(temperature=1.0, seed=5), sampler(temperature=1.0, seed=5)
    for logits in rows[:5]:
        free.choose(logits)
        forced.choose(logits, one)
    assert [free.choose(logits).token for logits in rows[5:]] == [forced.choose(logits).token for logits in rows[5:]]


def test_log_probabilities_are_those_of_the_raw_logits():
    logits = random_rows(1, seed=2)[0]
    expected = np.log(softmax(logits[:VOCAB].astype(np.float64)))
    choice = sampler((1, 2), temperature=0.3, logit_bias={9: 100.0}, repetition_penalty=1.5, top_logprobs=4).choose(
        logits
    )
    assert choice.token == 9
    assert choice.logprob == pytest.approx(expected[9], abs=1e-6)
    best = np.argsort(-expected, kind="stable")[:4]
    assert [token for token, _ in choice.top] == best.tolist()
    assert [p for _, p in choice.top] == pytest.approx(expected[best].tolist(), abs=1e-6)


def test_log_probabilities_come_only_when_asked_for():
    logits = row({1: 3.0})
    assert sampler().choose(logits).logprob is None
    alone = sampler(top_logprobs=0).choose(logits)
    assert alone.logprob == pytest.approx(0.0, abs=1e-6)
    assert alone.top == ()


def test_huge_logits_have_finite_log_probabilities():
    choice = sampler(top_logprobs=2).choose(row({1: 3e38, 2: 1.0}, rest=0.0))
    assert choice.logprob == 0.0
    assert all(np.isfinite(p) for _, p in choice.top)


def test_ignore_eos_never_chooses_an_end_unless_a_grammar_decides():
    logits = row({7: 9.0, 8: 8.0, 9: 7.0})
    assert sampler(stop_ids=(7, 8)).choose(logits).token == 7
    assert sampler(stop_ids=(7, 8), ignore_eos=True).choose(logits).token == 9
    assert sampler(stop_ids=(7, 8), ignore_eos=True, grammar=Grammar()).choose(logits).token == 7


def test_a_large_flat_vocabulary_is_drawn_evenly_to_both_ends():
    drawn = Sampler(Sampling(temperature=1.0, seed=2), np.zeros(0, np.int64), 5000, ())
    tokens = [drawn.choose(np.zeros(5000, np.float32)).token for _ in range(5000)]
    assert np.histogram(tokens, bins=5, range=(0, 5000))[0] == pytest.approx([1000] * 5, abs=150)


def test_a_full_vocabulary_keeps_its_distribution_under_every_filter():
    vocab = 151_669
    logits = np.random.default_rng(0).normal(0, 1, 151_936).astype(np.float32)
    logits[[100_000, 5, 70_000]] = 16.0, 15.0, 14.0
    drawn = Sampler(Sampling(temperature=0.7, top_k=20, top_p=0.8, seed=1), np.zeros(0, np.int64), vocab, ())
    counts = np.bincount([drawn.choose(logits).token for _ in range(1000)], minlength=vocab)
    assert set(np.flatnonzero(counts)) == {100_000, 5}
    assert counts[5] / 1000 == pytest.approx(1 / (1 + np.exp(1 / 0.7)), abs=0.06)
