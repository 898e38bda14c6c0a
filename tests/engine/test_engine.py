"""The engine on the demo model: batching, reuse, preemption and cancellation change cost, never answers."""

from __future__ import annotations

import asyncio
import io
import json
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image as Pillow

from conftest import SAMPLES
from sightline.engine.engine import MOST_GIVEN_UP, Engine
from sightline.engine.guess import Guess, Guesser
from sightline.engine.prepare import Preparer
from sightline.engine.prompt import Prompt
from sightline.engine.stream import Stream
from sightline.errors import InternalError, InvalidRequest, Overloaded, PromptTooLong, ShuttingDown
from sightline.media.decoders import Decoders
from sightline.model.kernels import Cancelled
from sightline.model.language import Slice
from sightline.model.load import Model, load
from sightline.settings import EngineSettings, MediaSettings
from sightline.types import (
    Conversation,
    Delta,
    EngineStats,
    Grammar,
    Image,
    Lane,
    Message,
    Progress,
    Sampling,
    Text,
    Usage,
)
from small_checkpoints import copy

GREEDY = Sampling(temperature=0, max_tokens=200)


class House:
    """An engine and its preparer; `ask` gives the whole answer."""

    def __init__(self, model: Model, workers: Decoders, **settings: int):
        self.model = model
        self.engine = Engine(model, EngineSettings(**{"max_running": 8, **settings}))
        self._preparer = Preparer(model, workers, MediaSettings(), self.engine.max_context)

    async def start(
        self,
        *parts: str | bytes,
        sampling: Sampling = GREEDY,
        history: Sequence[Message] = (),
        lane: Lane = "interactive",
    ) -> Stream:
        turn = Message("user", tuple(Text(p) if isinstance(p, str) else Image(p) for p in parts))
        prompt = await self._preparer.prepare(Conversation((*history, turn)), sampling)
        return self.engine.submit(prompt, sampling, lane)

    async def ask(
        self, *parts: str | bytes, sampling: Sampling = GREEDY, history: Sequence[Message] = ()
    ) -> tuple[str, Usage]:
        return whole([delta async for delta in await self.start(*parts, sampling=sampling, history=history)])

    async def rest(self) -> EngineStats:
        """The books once the engine has nothing to do."""
        while self.engine.open_requests:
            await asyncio.sleep(0.01)
        self.engine.close()
        return self.engine.stats


def whole(deltas: Sequence[Delta]) -> tuple[str, Usage]:
    assert deltas[-1].finish
    assert deltas[-1].usage
    return "".join(delta.text for delta in deltas), deltas[-1].usage


@pytest.fixture
def house(demo_model: Model, workers: Decoders) -> Iterator[House]:
    demo_model.language.allocate(200)
    built = House(demo_model, workers)
    yield built
    built.engine.close()
    assert built.engine.stats.problem is None
    assert built.engine.stats.kv_blocks_in_use == 0


def picture(name: str) -> bytes:
    return (SAMPLES / name).read_bytes()


def noise(seed: int, height: int = 256, width: int = 320) -> bytes:
    out = io.BytesIO()
    Pillow.fromarray(np.random.default_rng(seed).integers(0, 256, (height, width, 3), np.uint8)).save(out, "PNG")
    return out.getvalue()


@pytest.mark.anyio
async def test_the_demo_model_answers_as_it_does_in_transformers(house: House, samples: list[dict[str, str]]):
    for sample in samples:
        answer, _ = await house.ask(
            picture(sample["image"]), sample["question"], sampling=replace(GREEDY, max_tokens=400)
        )
        assert answer == sample["model"], sample


@pytest.mark.anyio
async def test_a_request_gives_the_same_greedy_text_alone_and_among_seven_others(
    house: House, samples: list[dict[str, str]]
):
    chosen = samples[::3][:8]
    together = [await house.start(picture(s["image"]), s["question"]) for s in chosen]
    texts = [whole([delta async for delta in stream])[0] for stream in together]
    assert texts == [s["model"] for s in chosen]


@pytest.mark.anyio
async def test_the_same_picture_again_is_neither_encoded_nor_read_again(house: House):
    _, first = await house.ask(picture("receipt_1.png"), "What is the total?")
    _, second = await house.ask(picture("receipt_1.png"), "Which store is this?")
    assert (first.encoded_images, second.encoded_images) == (1, 0)
    # Four tokens before the picture, its 80 and the one behind it; blocks of 32 end in the middle of it.
    assert (first.cached_tokens, second.cached_tokens) == (0, 85)


@pytest.mark.anyio
async def test_the_same_pixels_of_another_file_are_another_picture(house: House):
    await house.ask(picture("receipt_1.png"), "What is the total?")
    _, usage = await house.ask(picture("receipt_1.png") + b"\0", "What is the total?")
    assert usage.encoded_images == 1
    assert usage.cached_tokens == 4  # what stands before the picture


@pytest.mark.anyio
async def test_a_second_turn_reuses_the_first_and_answers_as_if_it_had_not(house: House):
    image, question = picture("receipt_1.png"), "What is the total?"
    answer, _ = await house.ask(image, question)
    history = (Message("user", (Image(image), Text(question))), Message("assistant", (Text(answer),)))
    reused, warm = await house.ask("And the date?", history=history)
    house.model.language.allocate(200)
    fresh = House(house.model, house._preparer._workers)
    again, cold = await fresh.ask("And the date?", history=history)
    fresh.engine.close()
    assert reused == again
    assert warm.cached_tokens >= warm.prompt_tokens - 16  # all but the question
    assert cold.cached_tokens == 0


@pytest.mark.anyio
async def test_when_blocks_run_out_somebody_waits_and_every_answer_is_still_right(
    demo_model: Model, workers: Decoders, samples: list[dict[str, str]]
):
    demo_model.language.allocate(1 + 10)
    house = House(demo_model, workers)
    long = [s for s in samples if len(s["model"]) > 60][:3]
    streams = [
        await house.start(picture(s["image"]), s["question"], sampling=replace(GREEDY, max_tokens=200)) for s in long
    ]
    texts = [whole([delta async for delta in stream])[0] for stream in streams]
    stats = await house.rest()
    assert texts == [s["model"] for s in long]
    assert stats.preemptions > 0
    assert stats.kv_blocks_in_use == 0


@pytest.mark.anyio
async def test_closing_a_stream_frees_everything_and_disturbs_nobody(house: House):
    other = await house.start(picture("receipt_1.png"), "What is the total?")
    stream = await house.start(noise(1), "Describe", sampling=replace(GREEDY, max_tokens=2000, ignore_eos=True))
    await anext(stream)
    stream.close()
    with pytest.raises(StopAsyncIteration):
        await anext(stream)
    text, _ = whole([delta async for delta in other])
    assert text == "39.63"
    stats = await house.rest()
    assert stats.kv_blocks_in_use == 0
    assert stats.running == 0
    assert stats.problem is None


@pytest.mark.anyio
async def test_a_seeded_request_repeats_whatever_else_is_in_the_batch(house: House):
    sampling = Sampling(temperature=1.3, seed=11, max_tokens=30, ignore_eos=True)
    alone, _ = await house.ask("Tell me", sampling=sampling)
    crowd = [
        await house.start(noise(i), "Describe", sampling=replace(sampling, seed=i, max_tokens=40)) for i in range(4)
    ]
    among, _ = await house.ask("Tell me", sampling=sampling)
    for stream in crowd:
        stream.close()
    assert among == alone
    assert (await house.ask("Tell me", sampling=replace(sampling, seed=12)))[0] != alone


@pytest.mark.anyio
async def test_an_answer_ends_at_max_tokens_and_says_so(house: House):
    stream = await house.start(picture("receipt_1.png"), "What is the total?", sampling=replace(GREEDY, max_tokens=2))
    deltas = [delta async for delta in stream]
    assert deltas[-1].finish == "length"
    assert whole(deltas)[1].completion_tokens == 2


@pytest.mark.anyio
async def test_an_answer_ends_before_its_stop_string(house: House):
    text, _ = await house.ask(picture("receipt_1.png"), "What is the total?", sampling=replace(GREEDY, stop=(".6",)))
    assert text == "39"


@pytest.mark.anyio
async def test_log_probabilities_come_with_every_token_when_asked_for(house: House):
    stream = await house.start(picture("receipt_1.png"), "What is the total?", sampling=replace(GREEDY, top_logprobs=3))
    found = [entry for delta in [d async for d in stream] for entry in delta.logprobs]
    assert "".join(entry.token for entry in found) == "39.63"
    assert all(entry.logprob <= 0 and len(entry.top) == 3 and entry.top[0][2] == entry.logprob for entry in found)


@pytest.mark.anyio
async def test_a_json_schema_shapes_the_answer(house: House):
    schema = (
        '{"type":"object","properties":{"total":{"type":"number"}},"required":["total"],"additionalProperties":false}'
    )
    text, _ = await house.ask(
        picture("receipt_1.png"), "What is the total?", sampling=replace(GREEDY, grammar=Grammar(schema))
    )
    assert set(json.loads(text)) == {"total"}


@pytest.mark.anyio
async def test_a_prompt_beyond_the_context_is_refused_with_the_counts(house: House):
    with pytest.raises(PromptTooLong, match="the context holds 4096"):
        await house.ask("word " * 5000)


@pytest.mark.anyio
async def test_more_pictures_than_allowed_are_refused_before_any_is_decoded(house: House):
    with pytest.raises(InvalidRequest, match="65 images, the limit is 64"):
        await house.ask(*[b"not a picture"] * 65)


@pytest.mark.anyio
async def test_a_full_queue_refuses_with_the_limit(demo_model: Model, workers: Decoders):
    demo_model.language.allocate(200)
    house = House(demo_model, workers, max_running=1, max_waiting=1)
    endless = replace(GREEDY, max_tokens=3000, ignore_eos=True)
    streams = [await house.start(f"say {i}", sampling=endless) for i in range(2)]
    with pytest.raises(Overloaded, match="2 requests are running or waiting, the limit is 2"):
        await house.start("one more")
    for stream in streams:
        stream.close()
    await house.rest()


@pytest.mark.anyio
async def test_a_step_that_fails_ends_its_requests_and_the_engine_goes_on(
    house: House, monkeypatch: pytest.MonkeyPatch
):
    with monkeypatch.context() as broken:
        broken.setattr(house.model.vision, "encode", lambda *_: 1 / 0)
        with pytest.raises(InternalError):
            await house.ask(noise(5), "Describe")
    with monkeypatch.context() as broken:
        broken.setattr(house.model.language, "step", lambda *_: 1 / 0)
        with pytest.raises(InternalError):
            await house.ask("hello")
    with monkeypatch.context() as broken:
        broken.setattr(house.engine._scheduler, "next_step", lambda: 1 / 0)
        with pytest.raises(InternalError):
            await house.ask("hello")
    text, _ = await house.ask(picture("receipt_1.png"), "What is the total?")
    assert text == "39.63"


@pytest.mark.anyio
async def test_closing_the_engine_ends_running_answers_with_an_error(demo_model: Model, workers: Decoders):
    demo_model.language.allocate(200)
    house = House(demo_model, workers)
    stream = await house.start("hello", sampling=replace(GREEDY, max_tokens=3000, ignore_eos=True))
    await anext(stream)
    house.engine.close()
    with pytest.raises(ShuttingDown):
        while True:
            await anext(stream)
    with pytest.raises(ShuttingDown):
        await house.start("hello")


@pytest.mark.anyio
async def test_a_stream_can_be_read_without_an_event_loop(house: House):
    text, _ = whole(list(await house.start(picture("receipt_1.png"), "What is the total?")))
    assert text == "39.63"


@pytest.mark.anyio
async def test_closing_the_engine_forgets_no_request_that_arrived_while_a_step_ran(
    demo_model: Model, workers: Decoders, monkeypatch: pytest.MonkeyPatch
):
    demo_model.language.allocate(200)
    house = House(demo_model, workers)
    inside, go_on, step = threading.Event(), threading.Event(), house.model.language.step

    def slow(*arguments: object) -> object:
        inside.set()
        go_on.wait(10)
        return step(*arguments)

    monkeypatch.setattr(house.model.language, "step", slow)
    leaving = await house.start("hello")
    await asyncio.to_thread(inside.wait, 10)
    leaving.close()
    late = await house.start("hello again")
    closing = asyncio.create_task(asyncio.to_thread(house.engine.close))
    while not house.engine._stopping:
        await asyncio.sleep(0.01)
    go_on.set()
    await closing
    with pytest.raises(ShuttingDown):
        await anext(late)
    assert house.engine.open_requests == 0


@pytest.mark.anyio
async def test_an_answer_goes_on_between_the_pictures_of_another_request(house: House, monkeypatch: pytest.MonkeyPatch):
    reader = await house.start("hello", sampling=replace(GREEDY, max_tokens=400, ignore_eos=True))
    await anext(reader)
    steps, seen, encode = house.model.language.step, [], house.model.vision.encode
    monkeypatch.setattr(house.model.language, "step", lambda *a: (seen.append("step"), steps(*a))[1])
    monkeypatch.setattr(house.model.vision, "encode", lambda *a: (seen.append("encode"), encode(*a))[1])
    await house.ask(noise(21), noise(22), noise(23), "Describe", sampling=replace(GREEDY, max_tokens=1))
    reader.close()
    assert seen.count("encode") == 3
    assert "encode encode" not in " ".join(seen)


@pytest.mark.anyio
async def test_a_broken_arrival_does_not_stop_the_engine(house: House, monkeypatch: pytest.MonkeyPatch):
    with monkeypatch.context() as broken:
        broken.setattr(house.engine._scheduler, "add", lambda *_: 1 / 0)
        with pytest.raises(InternalError):
            await house.ask("hello")
    text, _ = await house.ask(picture("receipt_1.png"), "What is the total?")
    assert text == "39.63"


@pytest.mark.anyio
async def test_a_mistake_with_one_answer_ends_that_answer_only(house: House, monkeypatch: pytest.MonkeyPatch):
    healthy = await house.start(picture("receipt_1.png"), "What is the total?")
    ill = await house.start("hello", sampling=replace(GREEDY, seed=666))
    extend = house.engine._extend

    def fail_one(request: object, *step: object) -> None:
        if request.sampling.seed == 666:
            raise ValueError
        extend(request, *step)

    monkeypatch.setattr(house.engine, "_extend", fail_one)
    with pytest.raises(InternalError):
        async for _ in ill:
            pass
    assert whole([delta async for delta in healthy])[0] == "39.63"


@pytest.mark.anyio
async def test_pictures_that_no_cache_keeps_are_encoded_once_each_beside_a_reader(demo_model: Model, workers: Decoders):
    demo_model.language.allocate(200)
    house = House(demo_model, workers, vision_cache_bytes=0)
    reader = await house.start("hello", sampling=replace(GREEDY, max_tokens=400, ignore_eos=True))
    await anext(reader)
    _, usage = await asyncio.wait_for(
        house.ask(noise(31), noise(32), "Describe", sampling=replace(GREEDY, max_tokens=1)), 30
    )
    reader.close()
    assert usage.encoded_images == 2
    await house.rest()


@pytest.mark.anyio
async def test_an_answer_says_where_it_is(demo_model: Model, workers: Decoders, monkeypatch: pytest.MonkeyPatch):
    demo_model.language.allocate(200)
    house = House(demo_model, workers, max_running=1)
    first = await house.start("hello", sampling=replace(GREEDY, max_tokens=3000, ignore_eos=True))
    await anext(first)
    assert first.progress == Progress("answering")
    waiting = [await house.start(noise(41), "Describe", sampling=replace(GREEDY, max_tokens=1)) for _ in range(2)]
    assert [stream.progress for stream in waiting] == [Progress("queued", 0), Progress("queued", 1)]
    seen, encode, extend = [], house.model.vision.encode, house.engine._extend
    monkeypatch.setattr(house.model.vision, "encode", lambda *a: (seen.append(waiting[0].progress), encode(*a))[1])
    monkeypatch.setattr(house.engine, "_extend", lambda *a: (seen.append(waiting[0].progress), extend(*a))[1])
    first.close()
    prompt = whole([delta async for delta in waiting[0]])[1].prompt_tokens
    assert [p for p in seen if p.stage != "queued"][:2] == [
        Progress("looking", done=0, total=1),
        Progress("reading", done=prompt, total=prompt),
    ]
    assert waiting[0].progress == Progress("answering")
    waiting[1].close()
    await house.rest()


RECEIPT = (
    '{"type":"object","properties":{"store":{"type":"string"},"total":{"type":"number"},"date":{"type":"string"}},'
    '"required":["store","total","date"],"additionalProperties":false}'
)
QUESTIONS: tuple[tuple[str, str, Sampling], ...] = (
    ("receipt_1.png", "以JSON格式提取收据信息", GREEDY),
    ("receipt_1.png", "识别图片中的文字", GREEDY),
    ("receipt_1.png", "Extract as JSON.", replace(GREEDY, grammar=Grammar(RECEIPT))),
    ("scene_0.png", "描述这张图片", GREEDY),
    ("chart_1.png", "chart_parse", replace(GREEDY, top_logprobs=2)),
    ("receipt_1.png", "Read it.", Sampling(temperature=1.2, seed=5, max_tokens=60, ignore_eos=True)),
    ("scene_0.png", "Tell me", replace(GREEDY, repetition_penalty=1.3, frequency_penalty=0.2, max_tokens=60)),
    ("scene_0.png", "Say it again and again", replace(GREEDY, max_tokens=90, ignore_eos=True)),
)


async def answers(
    model: Model, workers: Decoders, *, together: bool, speculate: bool
) -> tuple[list[object], EngineStats]:
    """What the eight questions get: text, tokens, log-probabilities and length; and the books."""
    model.language.allocate(200)
    house = House(model, workers, speculate=speculate)
    found, waiting = [], []
    for image, question, sampling in QUESTIONS:
        waiting.append(await house.start(picture(image), question, sampling=sampling))
        if not together or len(waiting) == len(QUESTIONS):
            for stream in waiting:
                deltas = [delta async for delta in stream]
                tokens = tuple(token for delta in deltas for token in delta.tokens)
                chosen = [entry.token for delta in deltas for entry in delta.logprobs]
                text, usage = whole(deltas)
                assert usage.completion_tokens == len(tokens)
                found.append((text, tokens, chosen, deltas[-1].finish))
            waiting = []
    return found, await house.rest()


@pytest.mark.anyio
async def test_trying_guesses_changes_no_answer_alone_or_among_seven_others(demo_model: Model, workers: Decoders):
    plain, stats = await answers(demo_model, workers, together=False, speculate=False)
    assert (stats.drafted, stats.accepted) == (0, 0)
    for together in (False, True):
        found, stats = await answers(demo_model, workers, together=together, speculate=True)
        assert found == plain
        assert 0 < stats.accepted < stats.drafted
        assert (stats.problem, stats.kv_blocks_in_use) == (None, 0)


@pytest.mark.anyio
async def test_right_guesses_save_steps(demo_model: Model, workers: Decoders):
    demo_model.language.allocate(200)
    house = House(demo_model, workers)
    _, usage = await house.ask("Say it", sampling=replace(GREEDY, max_tokens=200, ignore_eos=True))
    stats = await house.rest()
    assert usage.completion_tokens == 200
    assert stats.steps == 200 - stats.accepted
    assert stats.accepted > 0


@pytest.mark.anyio
async def test_guesses_survive_running_out_of_blocks(demo_model: Model, workers: Decoders):
    sampling = replace(GREEDY, max_tokens=150, ignore_eos=True)
    demo_model.language.allocate(200)
    alone = House(demo_model, workers)
    texts = [(await alone.ask(f"Say {i}", sampling=sampling))[0] for i in range(3)]
    await alone.rest()
    demo_model.language.allocate(1 + 8)
    house = House(demo_model, workers)
    streams = [await house.start(f"Say {i}", sampling=sampling) for i in range(3)]
    assert [whole([delta async for delta in stream])[0] for stream in streams] == texts
    stats = await house.rest()
    assert stats.preemptions > 0
    assert stats.accepted > 0
    assert (stats.problem, stats.kv_blocks_in_use) == (None, 0)


@pytest.mark.anyio
async def test_a_second_turn_finds_only_blocks_of_what_was_really_answered(demo_model: Model, workers: Decoders):
    question, sampling = "Say it", replace(GREEDY, max_tokens=120, ignore_eos=True)
    found = []
    for speculate in (False, True):
        demo_model.language.allocate(200)
        house = House(demo_model, workers, speculate=speculate)
        first, _ = await house.ask(question, sampling=sampling)
        history = (Message("user", (Text(question),)), Message("assistant", (Text(first),)))
        found.append(await house.ask("And now?", history=history))
        await house.rest()
    (plain, before), (text, after) = found
    assert text == plain
    assert after.cached_tokens == before.cached_tokens


@pytest.mark.anyio
async def test_a_bulk_picture_is_given_up_when_somebody_interactive_comes_and_answered_later(
    demo_model: Model, workers: Decoders, monkeypatch: pytest.MonkeyPatch
):
    demo_model.language.allocate(200)
    house = House(demo_model, workers)
    looking, encode = threading.Event(), house.model.vision.encode

    def slow(pixels: object, cancelled: Callable[[], bool]) -> object:
        """Looks until somebody comes; the second time it is quick."""
        if looking.is_set():
            return encode(pixels, cancelled)
        looking.set()
        while not cancelled():
            pass
        raise Cancelled

    monkeypatch.setattr(house.model.vision, "encode", slow)
    page = await house.start(noise(51), "Describe", sampling=replace(GREEDY, max_tokens=3), lane="bulk")
    await asyncio.to_thread(looking.wait, 10)
    text, _ = await house.ask("hello", sampling=replace(GREEDY, max_tokens=3))
    assert text
    assert whole([delta async for delta in page])[1].encoded_images == 1
    await house.rest()


@pytest.mark.anyio
async def test_a_bulk_text_makes_way_in_the_middle_of_a_step_but_not_for_ever(
    demo_model: Model, workers: Decoders, monkeypatch: pytest.MonkeyPatch
):
    question, sampling = "Say it all. " * 30, replace(GREEDY, max_tokens=3)
    demo_model.language.allocate(200)
    house = House(demo_model, workers)
    alone, _ = await house.ask(question, sampling=sampling)
    await house.rest()
    demo_model.language.allocate(200)
    house = House(demo_model, workers)
    reading, hurry, given_up, step = threading.Event(), threading.Event(), 0, house.model.language.step

    def slow(slices: Sequence[Slice], cancelled: Callable[[], bool]) -> object:
        """With nobody there but the bulk request, a step of its prompt waits for somebody who comes and is let in."""
        nonlocal given_up
        if house.engine.open_requests == 1 and len(slices[0].token_ids) > 1:
            reading.set()
            while not hurry.is_set() and house.engine.open_requests == 1:
                time.sleep(0.001)
            if cancelled():
                given_up += 1
                raise Cancelled
        return step(slices, cancelled)

    monkeypatch.setattr(house.model.language, "step", slow)
    bulk = await house.start(question, sampling=sampling, lane="bulk")
    for number in range(MOST_GIVEN_UP + 1):
        await asyncio.to_thread(reading.wait, 10)
        reading.clear()
        await house.ask(f"{number}? " + "Take up all of a step. " * 10, sampling=replace(GREEDY, max_tokens=1))
    hurry.set()
    assert given_up == MOST_GIVEN_UP
    assert whole([delta async for delta in bulk])[0] == alone
    await house.rest()


@pytest.mark.anyio
async def test_an_interactive_request_is_answered_while_bulk_ones_fill_every_place(
    demo_model: Model, workers: Decoders
):
    demo_model.language.allocate(200)
    house = House(demo_model, workers, max_running=1)
    alone, _ = await house.ask("Say 1", sampling=replace(GREEDY, max_tokens=300, ignore_eos=True))
    page = await house.start("Say 1", sampling=replace(GREEDY, max_tokens=300, ignore_eos=True), lane="bulk")
    await anext(page)
    text, _ = await house.ask(picture("receipt_1.png"), "What is the total?")
    assert text == "39.63"
    assert house.engine.open_requests == 1
    rest = [delta async for delta in page]
    assert alone.endswith(whole(rest)[0])
    assert (await house.rest()).preemptions > 0


@pytest.mark.anyio
async def test_each_lane_has_a_waiting_limit_of_its_own(demo_model: Model, workers: Decoders):
    demo_model.language.allocate(200)
    house = House(demo_model, workers, max_running=1, max_waiting=1, max_waiting_bulk=0)
    endless = replace(GREEDY, max_tokens=3000, ignore_eos=True)
    streams = [await house.start("say", sampling=endless, lane="bulk")]
    with pytest.raises(Overloaded, match="1 bulk requests are running or waiting, the limit is 1"):
        await house.start("one more", lane="bulk")
    streams += [await house.start("say", sampling=endless) for _ in range(2)]
    with pytest.raises(Overloaded, match="2 requests are running"):
        await house.start("one more")
    for stream in streams:
        stream.close()
    await house.rest()


@pytest.mark.anyio
async def test_a_cancelled_answer_still_says_what_it_cost(house: House):
    stream = await house.start("Say it", sampling=replace(GREEDY, max_tokens=3000, ignore_eos=True))
    written = len((await anext(stream)).tokens)
    stream.close()
    usage = stream.usage()
    assert usage.completion_tokens >= written
    assert min(usage.queue_ms, usage.prefill_ms, usage.decode_ms) >= 0


@pytest.mark.anyio
async def test_a_mistake_in_a_guess_ends_that_answer_only(house: House, monkeypatch: pytest.MonkeyPatch):
    healthy = await house.start(picture("receipt_1.png"), "What is the total?")
    guess = Guesser.guess

    def fail_one(self: Guesser, room: int) -> object:
        return guess(self, room) if room < 500 else 1 / 0

    monkeypatch.setattr(Guesser, "guess", fail_one)
    ill = await house.start("hello", sampling=replace(GREEDY, max_tokens=600))
    with pytest.raises(InternalError):
        async for _ in ill:
            pass
    assert whole([delta async for delta in healthy])[0] == "39.63"


@pytest.mark.anyio
async def test_guesses_that_were_wrong_count_no_experts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    model = load(copy("moe", tmp_path / "moe"), EngineSettings(threads=1, kv_bytes=8 << 20))
    ids = np.tile(np.arange(40, 60, dtype=np.int32), 3)
    prompt = Prompt(ids, np.broadcast_to(np.arange(60, dtype=np.int32), (3, 60)), 60, (), 200)
    sampling = replace(GREEDY, max_tokens=12, ignore_eos=True)
    monkeypatch.setattr(Guesser, "guess", lambda *_: Guess((7, 8, 9), (2, 2, 2), (0.9, 0.8, 0.7)))
    found = []
    for speculate in (False, True):
        model.language.allocate(20)
        engine = Engine(model, EngineSettings(speculate=speculate))
        deltas = list(engine.submit(prompt, sampling))
        engine.close()
        found.append((whole(deltas)[0], whole(deltas)[1].experts))
    assert engine.stats.accepted < engine.stats.drafted
    assert found[0] == found[1]
    assert 2 <= found[0][1] < 8
