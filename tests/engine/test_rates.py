"""What is foretold comes from what was measured, and from nothing else."""

from sightline.engine.rates import MOST_RETRY_S, RECENT, UNKNOWN_RETRY_S, Rates
from sightline.types import Usage

PLAIN = Usage(prompt_tokens=100, prefill_ms=200)
SEEN = Usage(prompt_tokens=100, image_tokens=50, prefill_ms=200, vision_ms=500, encoded_images=1)


def learned(*answers: tuple[Usage, int]) -> Rates:
    rates = Rates()
    for usage, pictures in answers:
        rates.note(usage, pictures)
    return rates


def test_before_the_first_answer_nothing_is_foretold():
    assert Rates().first_token_s(10, 0) is None
    assert Rates().unmeasured(0) == "no question has been answered yet"


def test_before_the_first_picture_only_text_is_foretold():
    rates = learned((PLAIN, 0))
    assert rates.first_token_s(50, 0) == 0.1
    assert rates.first_token_s(50, 10) is None
    assert rates.unmeasured(10) == "no new picture has been looked at yet"


def test_prompt_and_pictures_add_up():
    assert learned((SEEN, 1)).first_token_s(100, 25) == 0.2 + 0.25


def test_what_a_cache_gave_does_not_count_as_fast():
    cached = Usage(prompt_tokens=100, cached_tokens=90, image_tokens=50, prefill_ms=20, encoded_images=0)
    rates = learned((cached, 1))
    assert rates.first_token_s(100, 0) == 0.2
    assert rates.unmeasured(1) == "no new picture has been looked at yet"
    assert learned((Usage(prompt_tokens=100, cached_tokens=100), 0)).first_token_s(100, 0) is None


def test_a_picture_among_cached_ones_does_not_count():
    assert learned((SEEN, 2)).first_token_s(100, 25) is None


def test_old_answers_are_forgotten():
    rates = learned((Usage(prompt_tokens=1000, prefill_ms=9e9), 0), *[(PLAIN, 0)] * RECENT)
    assert rates.first_token_s(100, 0) == 0.2


def test_who_finds_a_free_place_does_not_wait_and_needs_no_measurement():
    assert Rates().queue_s(0, running=2, places=3) == 0
    assert Rates().queue_s(1, running=2, places=3) is None


def test_the_queue_moves_up_once_per_answer_in_each_of_its_places():
    rates = learned((Usage(prompt_tokens=10, prefill_ms=1000, vision_ms=2000, decode_ms=3000), 0))
    assert rates.queue_s(0, running=3, places=3) == 2
    assert rates.queue_s(2, running=3, places=3) == 6
    assert rates.queue_s(2, running=2, places=3) == 4


def test_who_finds_the_queue_full_comes_back_when_an_answer_has_ended():
    assert Rates().retry_s(3) == UNKNOWN_RETRY_S
    assert learned((Usage(prompt_tokens=10, prefill_ms=100), 0)).retry_s(3) == 1
    assert learned((Usage(prompt_tokens=10, prefill_ms=9000, decode_ms=9000), 0)).retry_s(3) == 6
    assert learned((Usage(prompt_tokens=10, decode_ms=9e9), 0)).retry_s(1) == MOST_RETRY_S
