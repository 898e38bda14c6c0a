"""A lighter model answers what the first has no room for, and says so; nothing else of it is to be seen."""

import asyncio
import base64
import json
from pathlib import Path

import httpx2
import pytest

import sightline
from contract.serving import serving
from fake_backend import FakeBackend
from sightline.backends.lighter import WithLighter, opened
from sightline.errors import CheckpointError, Overloaded, PromptTooLong
from sightline.settings import Settings
from sightline.types import Conversation, Sampling

pytestmark = pytest.mark.anyio
NOTHING = Conversation(())
RECEIPT = Path(__file__).parents[1] / "golden" / "samples" / "receipt_1.png"
FULL = Overloaded("2 requests are running or waiting")


def pair(full=FULL):
    main, lighter = FakeBackend(), FakeBackend()
    main.full = full
    return WithLighter(main, lighter), main, lighter


async def test_what_the_first_has_room_for_it_answers():
    both, main, lighter = pair(full=None)
    place = both.reserve(lighter=True)
    await both.generate(NOTHING, Sampling(), request_id="a", place=place)
    assert (len(main.answers), len(lighter.answers)) == (1, 0)


async def test_what_it_has_no_room_for_goes_to_the_lighter_one_and_takes_its_place_there():
    both, main, lighter = pair()
    place = both.reserve("interactive", 2, lighter=True)
    await both.generate(NOTHING, Sampling(), request_id="a", place=place)
    assert (len(main.answers), len(lighter.answers)) == (0, 1)
    place.leave()
    assert [each.held for each in lighter.places] == [0]


@pytest.mark.parametrize("state", ["loading", "failed"])
async def test_one_that_is_not_ready_does_not_answer(state):
    both, _, lighter = pair()
    lighter.state = state
    with pytest.raises(Overloaded, match="2 requests"):
        both.reserve(lighter=True)


async def test_who_may_not_be_answered_by_it_is_refused():
    both, _, _ = pair()
    with pytest.raises(Overloaded, match="2 requests"):
        both.reserve("bulk")


async def test_when_both_are_full_the_first_ones_refusal_counts():
    both, _, lighter = pair()
    lighter.full = Overloaded("9 requests are running or waiting")
    with pytest.raises(Overloaded, match="2 requests"):
        both.reserve(lighter=True)


async def test_a_prompt_that_only_the_first_could_hold_is_told_of_its_full_queue():
    both, _, lighter = pair()
    lighter.max_context, lighter.refusal = 512, PromptTooLong("the prompt has 900 tokens, the context holds 512")
    with pytest.raises(Overloaded, match="2 requests"):
        await both.generate(NOTHING, Sampling(), request_id="a", place=both.reserve(lighter=True))


async def test_a_prompt_that_neither_could_hold_is_told_so():
    both, _, lighter = pair()
    lighter.refusal = PromptTooLong("the prompt has 9000 tokens, the context holds 4096")
    with pytest.raises(PromptTooLong):
        await both.generate(NOTHING, Sampling(), request_id="a", place=both.reserve(lighter=True))


@pytest.mark.parametrize(("context", "may_drop"), [(4096, True), (512, False)])
async def test_a_shorter_context_costs_a_conversation_no_turns(context, may_drop):
    both, _, lighter = pair()
    lighter.max_context = context
    await both.generate(NOTHING, Sampling(), request_id="a", place=both.reserve(lighter=True))
    assert lighter.answers[0].asked.may_drop_turns is may_drop


async def test_the_first_model_serves_when_the_lighter_one_cannot_be_loaded(capsys):
    both, main, lighter = pair(full=None)
    lighter.state, lighter.detail, lighter.failure = "failed", "x: no config.json", CheckpointError("x: no config.json")
    await both.start()
    await both.ready()
    await asyncio.sleep(0.01)
    await both.generate(NOTHING, Sampling(), request_id="a", place=both.reserve(lighter=True))
    assert len(main.answers) == 1
    assert "the lighter model cannot be loaded: x: no config.json; a full queue is refused" in capsys.readouterr().out


async def test_closing_closes_both():
    both, main, lighter = pair()
    await both.start()
    await both.close(3)
    assert (main.closings, lighter.closings) == ([3], [3])


async def test_a_lighter_model_that_cannot_be_found_is_an_error_at_start():
    with pytest.raises(CheckpointError, match="no-such-model"):
        opened(Settings(lighter_model="no-such-model"))


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    """A server that answers one question at a time and has no queue, with the same model by another name beside it."""
    demo = str(Path(sightline.__file__).parent / "demo_model")
    settings = {"SIGHTLINE_MAX_CONCURRENCY": "1", "SIGHTLINE_MAX_QUEUE": "0", "SIGHTLINE_KV_CACHE_MB": "64"}
    with serving(tmp_path_factory.mktemp("cache"), SIGHTLINE_LIGHTER_MODEL=demo, **settings) as server:
        server.logged("^lighter model demo_model is ready")
        yield server


@pytest.fixture
def busy(server):
    """It, while its model writes something long that no guess can shorten."""
    long = {"messages": [{"role": "user", "content": "hello"}], "ignore_eos": True, "max_tokens": 4000}
    long |= {"temperature": 2, "stream": True}
    with httpx2.stream("POST", f"{server.url}/v1/chat/completions", json=long, timeout=60) as reply:
        lines = reply.iter_lines()
        while '"content":"' not in next(lines).replace('"content":""', ""):
            pass
        yield server


def test_a_chat_says_that_a_lighter_model_answered(busy):
    body = {"messages": [{"role": "user", "content": "hello"}], "max_tokens": 4, "seed": 1}
    said = httpx2.post(f"{busy.url}/v1/chat/completions", json=body, timeout=60).json()
    assert said["model"] == "demo_model"
    assert (said["sightline"]["model"], said["sightline"]["degraded"]) == ("demo_model", True)


def test_a_stream_says_it_too(busy):
    body = {"messages": [{"role": "user", "content": "hello"}], "max_tokens": 4, "stream": True}
    text = httpx2.post(f"{busy.url}/v1/chat/completions", json=body, timeout=60).text
    chunks = [json.loads(line[6:]) for line in text.splitlines() if line.startswith("data: {")]
    assert {chunk["model"] for chunk in chunks} == {"demo_model"}
    assert chunks[-1]["sightline"]["degraded"] is True


def test_a_task_says_it_in_its_metadata(busy):
    picture = "data:image/png;base64," + base64.b64encode(RECEIPT.read_bytes()).decode()
    body = {"task": "vqa", "images": [picture], "text": "What is the total?"}
    said = httpx2.post(f"{busy.url}/infer", json=body, timeout=60).json()
    assert said["code"] == 0
    assert (said["result"]["metadata"]["model"], said["result"]["metadata"]["degraded"]) == ("demo_model", True)
    assert said["result"]["answer"] == "39.63"
