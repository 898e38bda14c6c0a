"""What runs next, decided with plain numbers: no model."""

from __future__ import annotations

import numpy as np

from sightline.engine.cache import BlockCache
from sightline.engine.prompt import Prompt
from sightline.engine.scheduler import Scheduler
from sightline.engine.sequence import Sequence


def sequence(length: int, seed: int = 0) -> Sequence:
    ids = np.random.default_rng(seed).integers(0, 900, length).astype(np.int32)
    positions = np.broadcast_to(np.arange(length, dtype=np.int32), (3, length))
    return Sequence(Prompt(ids, positions, length, (), 10_000))


def scheduler(blocks: int = 100, running: int = 4, alone: int = 256, mixed: int = 64) -> Scheduler:
    return Scheduler(BlockCache(blocks), running, alone, mixed)


def step(s: Scheduler) -> dict[int, int]:
    """Run one step: every sequence whose prompt is done gets a token. Returns what was computed by sequence id."""
    work = s.next_step()
    done = [w.sequence for w in work if w.is_last]
    s.advance(work)
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


def test_at_least_the_last_token_is_computed_even_when_every_block_is_known():
    s, first, second = scheduler(), sequence(96, 1), sequence(96, 1)
    s.add(first)
    step(s)
    s.add(second)
    assert step(s)[second.id] == 32


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
            alive.append(sequence(int(rng.integers(1, 300)), int(rng.integers(5))))
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
