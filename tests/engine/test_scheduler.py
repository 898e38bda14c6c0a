"""What runs next, decided with plain numbers: no model."""

from __future__ import annotations

import numpy as np

from sightline.engine.cache import BlockCache, Contents
from sightline.engine.prompt import Prompt
from sightline.engine.scheduler import Scheduler
from sightline.engine.sequence import Sequence


def sequence(length: int, seed: int = 0, *, bulk: bool = False) -> Sequence:
    ids = np.random.default_rng(seed).integers(0, 900, length).astype(np.int32)
    positions = np.broadcast_to(np.arange(length, dtype=np.int32), (3, length))
    return Sequence(Prompt(ids, positions, length, (), 10_000), "bulk" if bulk else "interactive")


def scheduler(
    blocks: int = 100, running: int = 4, alone: int = 256, mixed: int = 64, copied: list[tuple[int, int]] | None = None
) -> Scheduler:
    """`copied` hears which block was copied into which."""
    heard = [] if copied is None else copied
    return Scheduler(BlockCache(blocks), running, alone, mixed, lambda *blocks: heard.append(blocks))


def step(s: Scheduler) -> dict[int, int]:
    """Run one step: every sequence whose prompt is done gets a token. Returns what was computed by sequence id."""
    work = s.next_step()
    done = [w.sequence for w in work if w.is_last]
    for w in work:
        s.advance(w.sequence, w.count)
    for answered in done:
        answered.tokens.append(len(answered.tokens))
    return {w.sequence.id: w.count for w in work}


def test_a_prompt_is_read_in_chunks_that_end_on_block_borders():
    s, essay = scheduler(alone=100), sequence(210)
    s.add(essay)
    assert [step(s)[essay.id] for _ in range(4)] == [96, 96, 18, 1]


def test_a_long_prompt_does_not_stall_a_running_answer():
    s, answer, essay = scheduler(), sequence(4, 1), sequence(1000, 2)
    s.add(answer)
    step(s)
    s.add(essay)
    counts = step(s)
    assert counts[answer.id] == 1
    assert 0 < counts[essay.id] < 64


def test_no_more_than_max_running_start_and_the_others_follow_in_order():
    s = scheduler(running=2)
    three = [sequence(5, i) for i in range(3)]
    for one in three:
        s.add(one)
    assert set(step(s)) == {three[0].id, three[1].id}
    s.remove(three[0])
    assert three[2].id in step(s)


def test_a_second_request_with_the_same_prompt_computes_only_its_tail():
    s, first, second = scheduler(), sequence(100, 1), sequence(100, 1)
    s.add(first)
    step(s)
    s.add(second)
    assert step(s)[second.id] == 100 - 96
    assert second.cached == 96
    assert first.blocks[:3] == second.blocks[:3]


def like(other: Sequence, tokens: int, length: int) -> Sequence:
    """A sequence that has the first `tokens` of another in common."""
    made = sequence(length, seed=99)
    ids = made.prompt.token_ids
    ids[:tokens] = other.prompt.token_ids[:tokens]
    ids[tokens] = (other.prompt.token_ids[tokens] + 1) % 900
    return made


def finish(s: Scheduler, one: Sequence, answer: int = 1) -> None:
    """Read the prompt, write so many tokens, end."""
    s.add(one)
    while len(one.tokens) < answer:
        step(s)
    s.remove(one)


def test_a_prompt_that_differs_within_a_block_begins_with_a_copy_of_what_it_has_in_common():
    copied: list[tuple[int, int]] = []
    s = scheduler(copied=copied)
    first = sequence(100)
    finish(s, first)
    second = like(first, 70, 90)
    s.add(second)
    assert step(s) == {second.id: 20}
    assert copied == [(3, second.blocks[2])]
    assert second.blocks[:2] == [1, 2]
    assert second.cached == 70


def test_a_second_turn_goes_on_behind_the_last_token_of_the_first_although_its_block_was_not_full():
    copied: list[tuple[int, int]] = []
    s = scheduler(copied=copied)
    first = sequence(40)
    finish(s, first, answer=8)  # the last token of an answer is never computed
    ids = np.concatenate([first.prompt.token_ids, np.array(first.tokens, np.int32), np.arange(9, dtype=np.int32)])
    second = sequence(len(ids), seed=5)
    second.prompt.token_ids[:] = ids
    s.add(second)
    assert step(s) == {second.id: 10}
    assert copied == [(2, second.blocks[1])]


def test_a_bulk_prompt_keeps_no_block_that_is_not_full():
    s = scheduler()
    finish(s, sequence(40, bulk=True))
    assert s.cache.accounts().kept == 1
    finish(s, sequence(40, 1))
    assert s.cache.accounts().kept == 3


def test_another_picture_at_the_same_place_has_nothing_in_common():
    ids = np.full(32, 9, np.int32)
    cat, dog = Contents(ids, ((b"cat", 5),)), Contents(ids, ((b"dog", 5),))
    assert cat.in_common(cat) == 32
    assert cat.in_common(dog) == 5
    assert Contents(ids, ((b"cat", -3),)).in_common(Contents(ids, ((b"cat", -4),))) == 0
    assert Contents(ids[:20], ((b"cat", 5),)).in_common(Contents(ids, ((b"cat", 5), (b"dog", 22)))) == 20


def test_at_least_the_last_token_is_computed_even_when_every_block_is_known():
    s, first, second = scheduler(), sequence(96, 1), sequence(96, 1)
    s.add(first)
    step(s)
    s.add(second)
    assert step(s)[second.id] == 1
    assert second.cached == 95


def test_a_twin_waits_for_the_prompt_that_is_being_read_instead_of_reading_it_too():
    s, first, twin, other = scheduler(alone=64), sequence(200, 1), sequence(200, 1), sequence(10, 2)
    for one in (first, twin, other):
        s.add(one)
    assert set(step(s)) == {first.id}
    while first.remaining > 1:
        step(s)
    assert twin.cached == 192
    assert other in s.running


def test_the_youngest_gives_way_when_blocks_run_out_and_starts_over_from_what_is_kept():
    s = scheduler(blocks=1 + 4)
    old, young = sequence(60, 1), sequence(60, 2)
    s.add(old)
    s.add(young)
    while not s.preemptions:
        step(s)
    assert s.running == [old]
    assert list(s.waiting) == [young]
    assert young.blocks == []
    s.remove(old)
    before = len(young.tokens)
    assert young.id in step(s)
    assert len(young.tokens) == before + 1


def test_a_long_document_does_not_drive_out_what_people_ask_about():
    s, chat = scheduler(blocks=1 + 8), sequence(96, 1)
    s.add(chat)
    step(s)
    s.remove(chat)
    for number in range(5):
        page = sequence(96, 10 + number, bulk=True)
        s.add(page)
        step(s)
        s.remove(page)
    again = sequence(96, 1)
    s.add(again)
    step(s)
    assert again.cached == 95  # all but the last token, which is computed in any case


def test_a_request_that_finds_no_blocks_keeps_its_place_in_the_queue():
    s = scheduler(blocks=1 + 4)
    big, small = sequence(100, 1), sequence(100, 2)
    tiny = sequence(3, 3)
    for one in (big, small, tiny):
        s.add(one)
    assert set(step(s)) == {big.id}
    s.remove(big)
    assert set(step(s)) >= {small.id}


def test_cancelling_in_any_state_returns_every_block():
    rng = np.random.default_rng(3)
    s, alive = scheduler(blocks=30, running=3, alone=64), []
    for turn in range(400):
        if rng.random() < 0.3:
            alive.append(sequence(int(rng.integers(1, 300)), int(rng.integers(5)), bulk=rng.random() < 0.4))
            s.add(alive[-1])
        if alive and rng.random() < 0.25:
            s.remove(alive.pop(rng.integers(len(alive))))
        step(s)
        s.cache.accounts()
        assert turn >= 0
    for one in alive:
        s.remove(one)
    assert s.cache.accounts().in_use == 0
    assert not s.running
    assert not s.waiting


def test_an_answer_continues_the_positions_of_its_prompt_in_all_three_axes():
    one = sequence(4)
    one.tokens = [7, 8]
    assert one.ids(2, 6).tolist() == [*one.prompt.token_ids[2:], 7, 8]
    assert one.positions(3, 6).tolist() == [[3, 4, 5]] * 3


def test_bulk_prompts_are_read_in_small_chunks_even_when_nobody_else_is_there():
    s, page = scheduler(alone=256), sequence(100, bulk=True)
    s.add(page)
    assert [step(s)[page.id] for _ in range(4)] == [32, 32, 32, 4]


def test_where_a_block_takes_too_long_bulk_prompts_are_read_in_halves_of_it():
    s, page = scheduler(alone=256), sequence(60, bulk=True)
    s.bulk_tokens = 16
    s.add(page)
    assert [step(s)[page.id] for _ in range(4)] == [16, 16, 16, 12]


def test_an_interactive_prompt_is_read_first_and_bulk_gets_what_is_left_of_its_chunk():
    s, page, question = scheduler(alone=256), sequence(300, 1, bulk=True), sequence(200, 2)
    s.bulk_tokens = 64
    s.add(page)
    assert step(s) == {page.id: 64}
    s.add(question)
    assert step(s) == {question.id: 200}
    assert step(s) == {question.id: 1, page.id: 32}


def test_bulk_answers_go_on_beside_interactive_ones_without_shrinking_their_steps():
    s, essay, question = scheduler(alone=256, mixed=64), sequence(4, 1, bulk=True), sequence(200, 2)
    s.add(essay)
    step(s)
    s.add(question)
    assert step(s) == {essay.id: 1, question.id: 200}


def test_an_interactive_request_takes_the_place_of_the_youngest_bulk_answer():
    s = scheduler(running=2)
    old, young, question = sequence(5, 1, bulk=True), sequence(5, 2, bulk=True), sequence(5, 3)
    s.add(old)
    s.add(young)
    step(s)
    s.add(question)
    assert step(s) == {old.id: 1, question.id: 5}
    assert list(s.waiting_bulk) == [young]
    s.remove(question)
    assert step(s)[young.id] == 1  # it goes on where it was: nobody took its block


def test_bulk_answers_lose_their_blocks_before_any_interactive_one():
    s = scheduler(blocks=1 + 4)
    page, question = sequence(60, 1, bulk=True), sequence(60, 2)
    s.add(question)
    s.add(page)
    while not s.preemptions:
        step(s)
    assert s.running == [question]
    assert list(s.waiting_bulk) == [page]


def test_an_interactive_request_gets_its_blocks_from_bulk_ones():
    s, page, question = scheduler(blocks=1 + 4), sequence(90, 1, bulk=True), sequence(90, 2)
    s.add(page)
    step(s)
    s.add(question)
    assert step(s) == {question.id: 90}
    assert list(s.waiting_bulk) == [page]
    assert page.id not in step(s)


def test_an_interactive_request_does_not_wait_for_its_bulk_twin_but_the_other_way_round_it_does():
    s, page, question = scheduler(alone=64), sequence(200, 1, bulk=True), sequence(200, 1)
    s.add(page)
    step(s)
    s.add(question)
    assert step(s) == {question.id: 64}
    later = sequence(200, 1, bulk=True)
    s.remove(page)
    s.add(later)
    assert later.id not in step(s)


def test_a_draft_is_computed_behind_the_last_token_and_only_what_is_accepted_counts():
    s, answer = scheduler(), sequence(30, 1)
    s.add(answer)
    step(s)
    (work,) = s.next_step({answer: (7, 8, 9)})
    assert (work.count, work.draft, work.rows, work.is_last) == (1, (7, 8, 9), 4, True)
    s.advance(answer, work.count)
    answer.tokens.append(7)
    s.advance(answer, 1)
    answer.tokens.append(5)
    assert (answer.remaining, answer.computed, len(answer.blocks)) == (1, 32, 2)
    assert s.cache.count_cached(answer.keys) == 1


def test_a_draft_that_finds_no_blocks_is_cut_and_nobody_gives_way_for_it():
    s, answer = scheduler(blocks=1 + 1), sequence(28, 1)
    s.add(answer)
    step(s)
    (work,) = s.next_step({answer: (1, 2, 3, 4, 5)})
    assert work.draft == (1, 2, 3)
    assert s.preemptions == 0
