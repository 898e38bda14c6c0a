"""Sequences in, deltas out: owns the one thread that computes. Knows no HTTP, no JSON and no files."""

from __future__ import annotations

import contextlib
import logging
import queue
import threading
import time
from dataclasses import dataclass, field, replace

import numpy as np
from numpy.typing import NDArray

from sightline.engine.cache import BlockCache, ByteLRU
from sightline.engine.prompt import Prompt, Visual
from sightline.engine.sampler import Choice, Sampler
from sightline.engine.scheduler import Scheduler, Work
from sightline.engine.sequence import Sequence
from sightline.engine.stream import Stream
from sightline.engine.text import TextStream
from sightline.errors import InternalError, Overloaded, ShuttingDown, SightlineError
from sightline.model.kernels import Cancelled
from sightline.model.language import Slice, VisualRows
from sightline.model.load import Model
from sightline.model.vision import Features
from sightline.settings import EngineSettings
from sightline.types import Delta, FinishReason, Sampling, TokenLogprob, Usage

log = logging.getLogger(__name__)

# Tokens computed in one step. Alone, large steps use the matrix units best; while somebody's answer is being
# written a step is kept short, because it is the pause between two of their words.
ALONE_TOKENS = 1024
MIXED_TOKENS = 256

_OUR_FAULT = "the model failed while answering; ask again"

_now = time.perf_counter


@dataclass(frozen=True, slots=True)
class EngineStats:
    """A snapshot for metrics and tests; `problem` is what the idle self-check found, None when all is accounted for."""

    running: int = 0
    waiting: int = 0
    steps: int = 0
    preemptions: int = 0
    kv_blocks: int = 0
    kv_blocks_in_use: int = 0
    kv_blocks_kept: int = 0
    vision_cache_bytes: int = 0
    problem: str | None = None


@dataclass(slots=True, eq=False)
class _Request:
    """A sequence and what its answer needs besides tokens."""

    sequence: Sequence
    sampling: Sampling
    stream: Stream
    sampler: Sampler
    text: TextStream
    submitted: float
    admitted: float = 0.0
    first_token: float = 0.0
    vision_s: float = 0.0
    encoded: int = 0
    features: dict[bytes, Features] = field(default_factory=dict)  # of pictures whose tokens are being computed
    experts: NDArray[np.bool_] | None = None  # [MoE layers, experts] used while answering


class _NotYet(Exception):
    """A picture that has to wait for the next step."""


class Engine:
    """Runs one model for everybody. `submit` may be called from any thread."""

    def __init__(self, model: Model, settings: EngineSettings):
        self.model = model
        self._settings = settings
        self._features: ByteLRU[Features] = ByteLRU(settings.vision_cache_bytes)
        self._scheduler = self._new_scheduler()
        self._requests: dict[Sequence, _Request] = {}
        self._inbox: queue.SimpleQueue[_Request | None] = queue.SimpleQueue()  # None: look around, something changed
        self._open = 0  # requests submitted and not ended
        self._lock = threading.Lock()
        self._stopping = False
        self._steps = 0
        self._somebody_reads = False  # in this step, somebody's next word is computed
        self._may_encode = True  # in this step, no picture was encoded yet
        self.stats = EngineStats(kv_blocks=model.language.blocks - 1)
        self._thread = threading.Thread(target=self._loop, name="engine", daemon=True)
        self._thread.start()

    @property
    def open_requests(self) -> int:
        """Answers that were asked for and have not ended."""
        return self._open

    @property
    def max_context(self) -> int:
        """Tokens one conversation and its answer may have: what the model knows, and what the KV pools hold."""
        capacity = (self.model.language.blocks - 1) * self.model.language.block
        most = min(self.model.config.text.max_positions, capacity)
        return min(most, self._settings.max_context or most)

    def submit(self, prompt: Prompt, sampling: Sampling) -> Stream:
        """Queue a prompt and return its deltas. Closing the stream cancels the work and frees its blocks.

        Raises Overloaded when too many wait already, ShuttingDown after `close`, InvalidRequest for a sampling that
        this model's tokens do not allow.
        """
        tokenizer, eos = self.model.tokenizer, self.model.config.generation.eos
        request = _Request(
            sequence=Sequence(prompt),
            sampling=sampling,
            stream=Stream(on_close=lambda: self._inbox.put(None)),
            sampler=Sampler(sampling, prompt.token_ids, tokenizer.size, eos),
            text=TextStream(tokenizer.token_bytes, sampling.stop),
            submitted=_now(),
        )
        with self._lock:
            if self._stopping:
                raise ShuttingDown("the server is shutting down; send the request to another one or try again later")
            self.check_room()
            self._open += 1
            self._inbox.put(request)  # within the lock: `close` must not slip in between
        return request.stream

    def check_room(self, coming: int = 0) -> None:
        """Raise Overloaded when the queue is full, counting `coming` requests that are still being prepared."""
        most, now = self._settings.max_running + self._settings.max_waiting, self._open + coming
        if now >= most:
            raise Overloaded(f"{now} requests are running or waiting, the limit is {most}; try again shortly")

    def close(self) -> None:
        """Stop computing; unfinished answers end with ShuttingDown."""
        with self._lock:
            self._stopping = True
        self._inbox.put(None)
        self._thread.join()

    # ---------------------------------------------------------------------------------------------- engine thread

    def _loop(self) -> None:
        while not self._stopping:
            try:
                self._receive()
                for request in [r for r in self._requests.values() if r.stream.closed]:
                    self._end(request)
                work = self._scheduler.next_step()
                if work:
                    self._attempt(work)
            except Exception:
                log.exception("the engine's books are wrong; %d requests end, it starts over", len(self._requests))
                self._start_over()
        with contextlib.suppress(queue.Empty):
            while True:
                if late := self._inbox.get_nowait():
                    self._accept(late)
        for request in list(self._requests.values()):
            self._fail(request, ShuttingDown("the server stopped before the answer was complete; ask again"))
        self._check_books()

    def _new_scheduler(self) -> Scheduler:
        language, running = self.model.language, self._settings.max_running
        mixed = max(MIXED_TOKENS, running + 2 * language.block)
        return Scheduler(BlockCache(language.blocks), running, ALONE_TOKENS, mixed)

    def _start_over(self) -> None:
        """After a mistake of ours in the books: end every request and forget every block."""
        self._scheduler = self._new_scheduler()
        for request in self._requests.values():
            request.stream.put(InternalError(_OUR_FAULT))
        with self._lock:
            self._open -= len(self._requests)
        self._requests.clear()

    def _receive(self) -> None:
        """Take in what arrived; with nothing to do, check the books and wait."""
        while True:
            if not self._requests and self._inbox.empty():
                self._check_books()
            try:
                arrived = self._inbox.get(block=not self._requests)
            except queue.Empty:
                return
            if arrived:
                self._accept(arrived)
            elif self._stopping:
                return

    def _accept(self, request: _Request) -> None:
        self._requests[request.sequence] = request
        self._scheduler.add(request.sequence)

    def _attempt(self, work: list[Work]) -> None:
        """Run one step. This is the loop's last net: what goes wrong ends the requests of the step, not the engine."""
        requests = [self._requests[item.sequence] for item in work]
        try:
            self._step(work)
        except Cancelled:
            pass  # everybody in it left; they are dropped before the next step
        except Exception:
            log.exception("a step failed; its %d requests end with an error", len(requests))
            for request in requests:
                self._fail(request, InternalError(_OUR_FAULT))
        self._count()

    def _step(self, work: list[Work]) -> None:
        self._may_encode = True
        self._somebody_reads = any(item.sequence.tokens for item in work)
        parts = [part for item in work if (part := self._part(item))]
        if not parts:
            return
        result = self.model.language.step(
            [piece for _, _, piece in parts],
            lambda: self._stopping or all(request.stream.closed for _, request, _ in parts),
        )
        self._steps += 1
        self._scheduler.advance([item for item, _, _ in parts])
        row, end = 0, 0
        for item, request, piece in parts:
            end += item.count
            if request.features:
                self._drop_read_pictures(request)
            if piece.logits:
                if result.experts is not None:
                    self._note_experts(request, result.experts[:, end - 1])
                self._extend_or_fail(request, result.logits[row])
                row += 1

    @staticmethod
    def _drop_read_pictures(request: _Request) -> None:
        """Let go of features whose tokens are computed; not earlier, or a step put off would encode them again."""
        ahead = {v.digest for v in request.sequence.prompt.visuals_from(request.sequence.computed)}
        request.features = {digest: f for digest, f in request.features.items() if digest in ahead}

    def _part(self, item: Work) -> tuple[Work, _Request, Slice] | None:
        """The arrays of one sequence's share; None when it must wait, or its picture failed, which ends it alone."""
        request = self._requests[item.sequence]
        request.admitted = request.admitted or _now()
        try:
            return item, request, self._slice(item, request)
        except (Cancelled, _NotYet):
            return None
        except Exception:
            log.exception("a picture could not be encoded; its request ends with an error")
            self._fail(request, InternalError(_OUR_FAULT))
            return None

    def _slice(self, item: Work, request: _Request) -> Slice:
        sequence = item.sequence
        start, end = sequence.computed, sequence.computed + item.count
        visual = []
        for place in sequence.prompt.visuals:
            first, last = max(start, place.start), min(end, place.end)
            if first < last:
                features = self._encode(place, request)
                part = slice(first - place.start, last - place.start)
                visual.append(VisualRows(first - start, features.main[part], features.deep[:, part]))
        logits = [item.count - 1] if item.is_last else []
        return Slice(
            sequence.ids(start, end),
            sequence.positions(start, end),
            start,
            sequence.blocks,
            visual=visual,
            logits=logits,
        )

    def _encode(self, place: Visual, request: _Request) -> Features:
        """The picture's features: those in use by this request, those in the cache, or computed now.

        While somebody reads an answer, one picture a step: it is the longest pause there is between two words.
        """
        features = request.features.get(place.digest) or self._features.get(place.digest)
        if features is None:
            if self._somebody_reads and not self._may_encode:
                raise _NotYet
            self._may_encode = False
            began = _now()
            features = self.model.vision.encode(place.picture.pixels, lambda: self._stopping or request.stream.closed)
            request.vision_s += _now() - began
            request.encoded += 1
            self._features.put(place.digest, features)
        request.features[place.digest] = features
        return features

    def _extend_or_fail(self, request: _Request, logits: NDArray[np.float32]) -> None:
        try:
            self._extend(request, logits)
        except SightlineError as error:
            self._fail(request, error)
        except Exception:
            log.exception("an answer could not go on; its request ends with an error")
            self._fail(request, InternalError(_OUR_FAULT))

    def _extend(self, request: _Request, logits: NDArray[np.float32]) -> None:
        """Choose the next token and send what it adds."""
        constraint = request.sequence.prompt.constraint
        choice = request.sampler.choose(logits, constraint.mask() if constraint else None)
        if constraint:
            constraint.accept(choice.token)
        request.first_token = request.first_token or _now()
        request.sequence.tokens.append(choice.token)
        ends = self._ends_answer(request, choice.token)
        text = "" if ends else request.text.push(choice.token)
        finish = self._finish(request, ends)
        if finish:
            text += request.text.flush()
            finish = "stop" if request.text.stopped else finish
        logprobs = () if ends or choice.logprob is None else (self._logprob(choice),)
        delta = Delta(text, (choice.token,), logprobs)
        if finish:
            delta = replace(delta, finish=finish, usage=self._usage(request))
            self._end(request)
        request.stream.put(delta)

    def _ends_answer(self, request: _Request, token: int) -> bool:
        """Whether `token` is an end of answer; with a grammar it counts even under `ignore_eos`."""
        heeded = not request.sampling.ignore_eos or request.sequence.prompt.constraint is not None
        return heeded and token in self.model.config.generation.eos

    def _finish(self, request: _Request, ends: bool) -> FinishReason | None:
        prompt = request.sequence.prompt
        if ends or request.text.stopped or (prompt.constraint and prompt.constraint.finished):
            return "stop"
        full = len(request.sequence.tokens) >= min(request.sampling.max_tokens, prompt.max_new)
        return "length" if full else None

    def _logprob(self, choice: Choice) -> TokenLogprob:
        def named(token: int) -> tuple[str, bytes]:
            raw = self.model.tokenizer.token_bytes(token)
            return raw.decode("utf-8", "replace"), raw

        assert choice.logprob is not None
        top = tuple((*named(token), logprob) for token, logprob in choice.top)
        return TokenLogprob(*named(choice.token), choice.logprob, top)

    def _note_experts(self, request: _Request, chosen: NDArray[np.int32]) -> None:
        if request.experts is None:
            request.experts = np.zeros((len(chosen), self.model.config.text.experts), np.bool_)
        np.put_along_axis(request.experts, chosen, True, axis=1)

    def _usage(self, request: _Request) -> Usage:
        sequence, now = request.sequence, _now()
        prefill_s = request.first_token - request.admitted - request.vision_s
        experts = 0.0 if request.experts is None else float(request.experts.sum(1).mean())
        return Usage(
            prompt_tokens=len(sequence.prompt.token_ids),
            image_tokens=sequence.prompt.image_tokens,
            cached_tokens=sequence.cached,
            completion_tokens=len(sequence.tokens),
            queue_ms=(request.admitted - request.submitted) * 1e3,
            vision_ms=request.vision_s * 1e3,
            prefill_ms=prefill_s * 1e3,
            decode_ms=(now - request.first_token) * 1e3,
            encoded_images=request.encoded,
            experts=experts,
        )

    def _fail(self, request: _Request, error: SightlineError) -> None:
        if request.sequence in self._requests:
            self._end(request)
            request.stream.put(error)

    def _end(self, request: _Request) -> None:
        """Give back everything a request holds."""
        del self._requests[request.sequence]
        self._scheduler.remove(request.sequence)
        with self._lock:
            self._open -= 1

    def _check_books(self) -> None:
        """With nothing running: no block in use, every byte counted."""
        problem = None
        try:
            accounts = self._scheduler.cache.accounts()
            assert accounts.in_use == 0, f"{accounts.in_use} blocks in use by nobody"
            self._features.check()
        except AssertionError as error:
            problem = str(error)
            log.error("idle self-check failed: %s", problem)
        self._count(problem)

    def _count(self, problem: str | None = None) -> None:
        total, available = self.model.language.blocks - 1, self._scheduler.cache.available
        self.stats = EngineStats(
            running=len(self._scheduler.running),
            waiting=len(self._scheduler.waiting),
            steps=self._steps,
            preemptions=self._scheduler.preemptions,
            kv_blocks=total,
            kv_blocks_in_use=total - available,
            kv_blocks_kept=self._scheduler.cache.kept,
            vision_cache_bytes=self._features.nbytes,
            problem=problem or self.stats.problem,
        )
