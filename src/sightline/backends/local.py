"""The engine in this process behind the common protocol: loads a checkpoint in the background, then answers with it."""

from __future__ import annotations

import asyncio
import logging
import re
import threading
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from importlib.resources import files
from pathlib import Path
from typing import TypeVar

from sightline.backends import Place, State
from sightline.engine.engine import Engine
from sightline.engine.prepare import Preparer
from sightline.engine.prompt import Prompt
from sightline.engine.rates import Rates
from sightline.engine.stream import Stream
from sightline.errors import CheckpointError, InternalError, ModelLoading, Overloaded, ShuttingDown, SightlineError
from sightline.media.decoders import Decoders
from sightline.model.config import GenerationConfig, ModelConfig
from sightline.model.download import resolve
from sightline.model.load import Model, load
from sightline.model.machine import memory_need
from sightline.settings import Settings
from sightline.types import (
    Conversation,
    Delta,
    Document,
    EngineStats,
    Estimate,
    Lane,
    Page,
    PictureInfo,
    Progress,
    Sampling,
    Usage,
    VideoInfo,
)

log = logging.getLogger(__name__)

DEMO_ID = "sightline-demo"
_TEMPERATURE = 0.7
_DRAIN_POLL_S = 0.05

T = TypeVar("T")


class LocalAnswer:
    """One answer of the local engine."""

    def __init__(self, backend: LocalBackend, prompt: Prompt, stream: Stream, rates: Rates, *, learns: bool):
        """`rates` learns from the answer if `learns`: the times of one that gives way to others say little."""
        self.model, self.degraded = backend.model_id, backend.stands_in
        self._prompt = prompt
        self._stream = stream
        self._rates = rates
        self._queue_s = backend.queue_s
        self._learns = learns

    @property
    def pictures(self) -> tuple[PictureInfo, ...]:
        return self._prompt.pictures

    @property
    def videos(self) -> tuple[VideoInfo, ...]:
        return self._prompt.videos

    @property
    def dropped_turns(self) -> int:
        return self._prompt.dropped_turns

    @property
    def prompt_tokens(self) -> int:
        return len(self._prompt.token_ids)

    @property
    def progress(self) -> Progress:
        seen = self._stream.progress
        return replace(seen, wait_s=self._wait_s(seen))

    @property
    def usage(self) -> Usage:
        return self._stream.usage()

    def _wait_s(self, seen: Progress) -> float | None:
        """Expected seconds until the first token; a cache may make it less."""
        if seen.stage == "answering":
            return 0.0
        if seen.stage == "reading":
            return self._rates.first_token_s(seen.total - seen.done, 0)
        unseen = self._prompt.image_tokens
        if seen.stage == "looking":
            return self._rates.first_token_s(self.prompt_tokens, unseen * (seen.total - seen.done) // seen.total)
        queue_s, work_s = self._queue_s(seen.place), self._rates.first_token_s(self.prompt_tokens, unseen)
        return None if queue_s is None or work_s is None else queue_s + work_s

    def __aiter__(self) -> LocalAnswer:
        return self

    async def __anext__(self) -> Delta:
        delta = await self._stream.__anext__()
        if delta.usage and self._learns:
            self._rates.note(delta.usage, len(self._prompt.visuals))
        return delta

    async def aclose(self) -> None:
        self._stream.close()


class _Held:
    """Room in a lane, counted among the questions that are being prepared."""

    def __init__(self, preparing: Counter[Lane], lane: Lane, answers: int):
        self._preparing = preparing
        self._lane = lane
        self._left = answers
        preparing[lane] += answers

    def leave(self, answers: int | None = None) -> None:
        leaving = self._left if answers is None else min(answers, self._left)
        self._left -= leaving
        self._preparing[self._lane] -= leaving


class LocalBackend:
    """Serves one checkpoint: `settings.model` (a folder or an id pulled before), else the embedded demo model.

    One that `stands_in` answers for a heavier model that has no room; see `lighter`.
    """

    def __init__(self, settings: Settings, *, stands_in: bool = False):
        self._settings = settings
        self.stands_in = stands_in
        self._folder = checkpoint_folder(settings)
        self.model_id, self.aliases = _names(settings, self._folder)
        self.created = int((self._folder / "config.json").stat().st_mtime)
        self.defaults = sampling_defaults(ModelConfig.load(self._folder).generation)
        self.takes_instructions = settings.model is not None  # the demo model knows bare questions, see docs/api.md
        self.state: State = "loading"
        self.detail = ""
        self.progress = "starting"
        self._failure: SightlineError | None = None
        self._loading: asyncio.Task[None] | None = None
        self._workers: Decoders | None = None
        self._engine: Engine | None = None
        self._preparer: Preparer | None = None
        self._rates = Rates()
        self._preparing: Counter[Lane] = Counter()  # answers between `reserve` and the engine's queue
        self._closing = False

    @property
    def max_context(self) -> int | None:
        return self._engine.max_context if self._engine else None

    @property
    def stats(self) -> EngineStats | None:
        return self._engine.stats if self._engine else None

    async def start(self) -> None:
        self._workers = Decoders(self._settings.media)
        self._loading = asyncio.create_task(self._load())

    async def ready(self) -> None:
        if self._loading is None:
            await self.start()
        assert self._loading is not None
        await asyncio.shield(self._loading)
        if self._failure:
            raise self._failure

    def reserve(self, lane: Lane = "interactive", answers: int = 1, *, lighter: bool = False) -> Place:
        engine, _ = self._loaded()
        try:
            engine.check_room(lane, self._preparing[lane] + answers - 1)
        except Overloaded as error:
            error.retry_after_s = self._rates.retry_s(self._settings.engine.max_running)
            raise
        return _Held(self._preparing, lane, answers)

    async def generate(
        self,
        conversation: Conversation,
        sampling: Sampling,
        *,
        request_id: str,
        tenant: str = "",
        lane: Lane = "interactive",
        place: Place | None = None,
    ) -> LocalAnswer:
        place = place or self.reserve(lane)
        try:
            engine, preparer = self._loaded()
            prompt = await preparer.prepare(conversation, sampling, tenant)
            log.debug("%s: %d prompt tokens", request_id, len(prompt.token_ids))
            stream = engine.submit(prompt, sampling, lane)
            return LocalAnswer(self, prompt, stream, self._rates, learns=lane == "interactive")
        finally:
            place.leave(1)

    async def pages(self, document: Document) -> tuple[Page, ...]:
        _, preparer = self._loaded()
        return await preparer.pages(document, self._settings.media.max_document_pages)

    async def estimate(self, conversation: Conversation, sampling: Sampling) -> Estimate:
        engine, preparer = self._loaded()
        prompt = await preparer.prepare(conversation, sampling)
        tokens, config = len(prompt.token_ids), engine.model.config
        patches = prompt.largest_visual * config.vision.merge**2
        context = tokens + min(sampling.max_tokens, prompt.max_new)
        return Estimate(
            prompt_tokens=tokens,
            pictures=prompt.pictures,
            videos=prompt.videos,
            dropped_turns=prompt.dropped_turns,
            room=prompt.max_new,
            first_token_s=self._rates.first_token_s(tokens, prompt.image_tokens),
            unmeasured=self._rates.unmeasured(prompt.image_tokens),
            peak_bytes=memory_need(
                config,
                self._settings.precision,
                context,
                patches,
                bf16=engine.model.kernels.stored_vision,
                own=engine.model.kernels.own is not None,
            ).total,
        )

    def queue_s(self, place: int) -> float | None:
        """How long a request with so many others ahead of it waits for its turn."""
        running = self.stats.running if self.stats else 0
        return self._rates.queue_s(place, running, self._settings.engine.max_running)

    def _loaded(self) -> tuple[Engine, Preparer]:
        if self._closing:
            raise ShuttingDown("the server is shutting down; try again later")
        if self._engine is None or self._preparer is None:
            if self.state == "failed":
                raise InternalError("the model could not be loaded; see the server's log", code="model_failed")
            raise ModelLoading(f"the model is still loading ({self.progress}); try again shortly")
        return self._engine, self._preparer

    async def close(self, drain_s: float = 0.0) -> None:
        self._closing = True
        if self._loading and self._engine is None:
            self._loading.cancel()  # its thread ends when it next tells its progress, or with the process
        until = time.monotonic() + drain_s
        while self._engine and (self._preparing.total() or self._engine.open_requests) and time.monotonic() < until:
            await asyncio.sleep(_DRAIN_POLL_S)
        if self._engine:
            await asyncio.to_thread(self._engine.close)
        if self._workers:
            await asyncio.to_thread(self._workers.close)

    async def _load(self) -> None:
        began = time.perf_counter()
        engine_settings = self._settings.engine
        try:
            model = await _in_daemon_thread(lambda: load(self._folder, engine_settings, self._tell))
            self._engine = self._open(model)
        except SightlineError as error:
            self._fail(error)
        except Exception as error:
            log.exception("loading %s failed", self._folder)
            self._fail(CheckpointError(f"{self._folder}: could not be loaded ({type(error).__name__}); see the log"))
        else:
            self.state = "ready"
            for slow in model.slow_paths:
                log.warning("slow path: %s", slow)
            log.info("%s ready after %.1f s: %s", self.model_id, time.perf_counter() - began, model.kernels)

    def _open(self, model: Model) -> Engine:
        assert self._workers is not None
        engine = Engine(model, self._settings.engine)
        self._preparer = Preparer(model, self._workers, self._settings.media, engine.max_context)
        return engine

    def _fail(self, error: SightlineError) -> None:
        self._failure, self.detail, self.state = error, error.message, "failed"

    def _tell(self, what: str, share: float) -> None:
        if self._closing:
            raise ShuttingDown("the server stopped while the model was loading")
        self.progress = f"{what}, {share:.0%}"


def checkpoint_folder(settings: Settings) -> Path:
    """The folder of `settings.model`. Raises CheckpointError when it names neither a folder nor a pulled model."""
    if not settings.model:
        return Path(str(files("sightline") / "demo_model"))
    found = resolve(settings.model, settings.cache_dir / "models")
    if found is None:
        looks_like_id = re.fullmatch(r"[\w.-]+/[\w.-]+", settings.model) is not None
        way_out = f"; fetch it with: sightline models pull {settings.model}" if looks_like_id else ""
        raise CheckpointError(
            f"{settings.model}: no such checkpoint folder and no model pulled under this name{way_out}"
        )
    return found


def sampling_defaults(generation: GenerationConfig) -> Sampling:
    """What a request gets that asks for nothing: the model's own advice, temperature 0.7 where it is silent."""
    if generation.greedy:
        return Sampling(temperature=0.0)
    return Sampling(
        temperature=_TEMPERATURE if generation.temperature is None else generation.temperature,
        top_p=1.0 if generation.top_p is None else generation.top_p,
        top_k=generation.top_k or 0,
        min_p=generation.min_p or 0.0,
        repetition_penalty=generation.repetition_penalty or 1.0,
    )


def _names(settings: Settings, folder: Path) -> tuple[str, tuple[str, ...]]:
    """The served id, lower case, and other names for it: `Qwen/Qwen3-VL-2B-Instruct` is `qwen3-vl-2b-instruct`."""
    if not settings.model:
        return DEMO_ID, ()
    name = settings.model.rstrip("/").rsplit("/", 1)[-1] if settings.model.count("/") else folder.name
    return name.lower(), (settings.model,)


async def _in_daemon_thread(work: Callable[[], T]) -> T:
    """`asyncio.to_thread`, but a process that wants to end does not wait for `work`: loading can take minutes."""
    loop = asyncio.get_running_loop()
    future: asyncio.Future[T] = loop.create_future()

    def settle(value: T | None, error: BaseException | None) -> None:
        if not future.done():
            future.set_exception(error) if error else future.set_result(value)  # type: ignore[arg-type]

    def run() -> None:
        value, error = None, None
        try:
            value = work()
        except BaseException as raised:
            error = raised
        if not loop.is_closed():
            loop.call_soon_threadsafe(settle, value, error)

    threading.Thread(target=run, name="load", daemon=True).start()
    return await future
