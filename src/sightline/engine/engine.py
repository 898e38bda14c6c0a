"""Sequences in, deltas out: owns the one thread that computes. Knows no HTTP, no JSON and no files."""

from __future__ import annotations

import contextlib
import logging
import queue
import threading
import time
from dataclasses import dataclass, field
from functools import partial
from itertools import chain

import numpy as np
from numpy.typing import NDArray

from sightline.engine.cache import BlockCache, ByteLRU
from sightline.engine.guess import Guesser, StepTimes, drafts
from sightline.engine.prompt import Prompt, Visual
from sightline.engine.sampler import Choice, Sampler
from sightline.engine.scheduler import LEAST_CHUNK, Drafts, Scheduler, Work
from sightline.engine.sequence import Sequence
from sightline.engine.stream import Stream
from sightline.engine.text import TextStream
from sightline.errors import InternalError, Overloaded, ShuttingDown, SightlineError
from sightline.model.kernels import Cancelled
from sightline.model.language import Slice, StepResult, VisualRows
from sightline.model.load import Model
from sightline.model.vision import Features
from sightline.settings import EngineSettings
from sightline.types import Delta, EngineStats, FinishReason, Lane, Progress, Sampling, TokenLogprob, Usage

log = logging.getLogger(__name__)

# Tokens computed in one step. Alone, large steps use the matrix units best; while somebody's answer is being
# written a step is kept short, because it is the pause between two of their words.
ALONE_TOKENS = 1024
MIXED_TOKENS = 256

# What a bulk step should take at most: whoever arrives waits for it. Bulk chunks grow and shrink towards that.
BULK_STEP_S = 0.25

# With nothing to do for so long, the engine gives back what computing took: 0.3 GB after a picture of 1024x768 and a
# prompt of 1024 tokens, 0.9 GB after one of 1920x1920 (2B). Taking it anew makes the next first token 3 % later.
REST_AFTER_S = 30.0

# A bulk picture, or a step that only reads for the bulk lane, is given up when somebody interactive arrives, but not
# for ever: a picture so often, steps so often until the lane gets on.
MOST_GIVEN_UP = 3

_OUR_FAULT = "the model failed while answering; ask again"

_now = time.perf_counter

Floats = NDArray[np.float32]
Tokens = tuple[int, ...]
Experts = NDArray[np.int32]  # [MoE layers, tokens, chosen]


@dataclass(slots=True, eq=False)
class _Request:
    """A sequence and what its answer needs besides tokens."""

    sequence: Sequence
    sampling: Sampling
    stream: Stream
    sampler: Sampler
    text: TextStream
    guesser: Guesser
    submitted: float
    admitted: float = 0.0
    first_token: float = 0.0
    vision_s: float = 0.0
    encoded: int = 0
    encoded_patches: int = 0
    features: dict[bytes, Features] = field(default_factory=dict)  # of pictures whose tokens are being computed
    given_up: int = 0  # pictures whose encoding made way for somebody
    experts: NDArray[np.bool_] | None = None  # [MoE layers, experts] used while answering


_Part = tuple[Work, _Request, Slice]  # one sequence's share of a step, and its arrays


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
        self._open: dict[Lane, int] = {"interactive": 0, "bulk": 0}  # requests submitted and not ended
        self._lock = threading.Lock()
        self._stopping = False
        self._steps = self._drafted = self._accepted = 0
        self._times = StepTimes()
        self._somebody_reads = False  # in this step, somebody's next word is computed
        self._may_encode = True  # in this step, no picture was encoded yet
        self._rested = True  # nothing was computed since the model's last rest
        self._steps_given_up = 0  # since the bulk lane last read something
        self.stats = EngineStats(kv_blocks=model.language.blocks - 1)
        self._thread = threading.Thread(target=self._loop, name="engine", daemon=True)
        self._thread.start()

    @property
    def open_requests(self) -> int:
        """Answers that were asked for and have not ended."""
        return sum(self._open.values())

    @property
    def max_context(self) -> int:
        """Tokens one conversation and its answer may have: what the model knows, and what the KV pools hold."""
        capacity = (self.model.language.blocks - 1) * self.model.language.block
        most = min(self.model.config.text.max_positions, capacity)
        return min(most, self._settings.max_context or most)

    def submit(self, prompt: Prompt, sampling: Sampling, lane: Lane = "interactive") -> Stream:
        """Queue a prompt and return its deltas. Closing the stream cancels the work and frees its blocks.

        The "bulk" lane gets what the interactive one leaves.

        Raises Overloaded when too many wait already, ShuttingDown after `close`, InvalidRequest for a sampling that
        this model's tokens do not allow.
        """
        tokenizer, eos = self.model.tokenizer, self.model.config.generation.eos
        request = _Request(
            sequence=Sequence(prompt, lane),
            sampling=sampling,
            stream=Stream(on_close=lambda: self._inbox.put(None)),
            sampler=Sampler(sampling, prompt.token_ids, tokenizer.size, eos),
            text=TextStream(tokenizer.token_bytes, sampling.stop),
            guesser=Guesser(prompt.token_ids, prompt.constraint),
            submitted=_now(),
        )
        request.stream.usage = partial(self._usage, request)
        with self._lock:
            if self._stopping:
                raise ShuttingDown("the server is shutting down; send the request to another one or try again later")
            self.check_room(lane)
            ahead = self._open["interactive"] if lane == "interactive" else self.open_requests
            request.stream.progress = Progress("queued", max(0, ahead - self._settings.max_running))
            self._open[lane] += 1
            self._inbox.put(request)  # within the lock: `close` must not slip in between
        return request.stream

    def check_room(self, lane: Lane, coming: int = 0) -> None:
        """Raise Overloaded when the lane's queue is full, counting `coming` requests that are still being prepared."""
        waiting = self._settings.max_waiting if lane == "interactive" else self._settings.max_waiting_bulk
        most, now = self._settings.max_running + waiting, self._open[lane] + coming
        if now >= most:
            kind = "requests" if lane == "interactive" else "bulk requests"
            raise Overloaded(f"{now} {kind} are running or waiting, the limit is {most}; try again shortly")

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
                work = self._scheduler.next_step(self._drafts())
                self._note_places()
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
        return Scheduler(BlockCache(language.blocks), running, ALONE_TOKENS, mixed, language.copy_block)

    def _start_over(self) -> None:
        """After a mistake of ours in the books: end every request and forget every block."""
        self._scheduler = self._new_scheduler()
        for request in self._requests.values():
            request.stream.put(InternalError(_OUR_FAULT))
        with self._lock:
            for request in self._requests.values():
                self._open[request.sequence.lane] -= 1
        self._requests.clear()

    def _receive(self) -> None:
        """Take in what arrived; with nothing to do, check the books, wait, and after a while let the model rest."""
        while True:
            if not self._requests and self._inbox.empty():
                self._check_books()
            try:
                arrived = self._inbox.get(not self._requests, None if self._rested else REST_AFTER_S)
            except queue.Empty:
                if self._requests:
                    return
                self.model.rest()
                self._rested = True
                continue
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
            pass  # whoever left is dropped before the next step, and who made way is read again
        except Exception:
            log.exception("a step failed; its %d requests end with an error", len(requests))
            for request in requests:
                self._fail(request, InternalError(_OUR_FAULT))
        self._count()

    def _step(self, work: list[Work]) -> None:
        self._may_encode, self._rested = True, False
        self._somebody_reads = any(item.sequence.tokens and not item.sequence.bulk for item in work)
        parts = [part for item in work if (part := self._part(item))]
        if not parts:
            return
        began = _now()
        result = self._compute(parts)
        self._steps += 1
        self._note_time([item for item, _, _ in parts], _now() - began)
        for item, _, _ in parts:
            self._scheduler.advance(item.sequence, item.count)
        row = token = 0
        for item, request, piece in parts:
            self._note_reading(request)
            if request.features:
                self._drop_read_pictures(request)
            wanted = len(piece.logits)
            if wanted:
                last = token + item.count - 1
                experts = None if result.experts is None else result.experts[:, last : last + wanted]
                self._extend_or_fail(request, item.draft, result.logits[row : row + wanted], experts)
            row, token = row + wanted, token + item.rows

    def _compute(self, parts: list[_Part]) -> StepResult:
        """Run the language model. Raises Cancelled when nobody in the step wants it any more, or when it only reads for
        the bulk lane and somebody interactive comes."""
        reads = [item.sequence.bulk and not item.sequence.tokens for item, _, _ in parts]
        may_give_up = all(reads) and self._steps_given_up < MOST_GIVEN_UP
        before = self._open["interactive"]

        def unwanted() -> bool:
            left = self._stopping or all(request.stream.closed for _, request, _ in parts)
            return left or (may_give_up and self._open["interactive"] > before)

        try:
            result = self.model.language.step([piece for _, _, piece in parts], unwanted)
        except Cancelled:
            self._steps_given_up += all(reads)
            raise
        if any(reads):
            self._steps_given_up = 0
        return result

    def _drafts(self) -> Drafts:
        """What to try of what the answers being written could go on with."""
        if not self._settings.speculate:
            return {}
        guesses = {}
        for sequence in [s for s in self._scheduler.running if s.tokens and s.remaining == 1]:
            request = self._requests[sequence]
            try:
                guesses[sequence] = request.guesser.guess(_most_tokens(request) - len(sequence.tokens) - 1)
            except Exception:
                log.exception("an answer could not be guessed at; its request ends with an error")
                self._fail(request, InternalError(_OUR_FAULT))
        return drafts(guesses, self._times)

    def _note_time(self, work: list[Work], seconds: float) -> None:
        """Learn from a step that only wrote, or that only read for the bulk lane."""
        if all(item.sequence.tokens and item.count == 1 for item in work):
            self._times.note(sum(item.rows for item in work), seconds)
        elif all(item.sequence.bulk for item in work):
            chunk = self._scheduler.bulk_tokens
            if seconds > BULK_STEP_S:
                self._scheduler.bulk_tokens = max(LEAST_CHUNK, chunk // 2)
            elif seconds < BULK_STEP_S / 2 and sum(item.rows for item in work) >= chunk:
                self._scheduler.bulk_tokens = min(ALONE_TOKENS, chunk * 2)

    @staticmethod
    def _drop_read_pictures(request: _Request) -> None:
        """Let go of features whose tokens are computed; not earlier, or a step put off would encode them again."""
        ahead = {v.digest for v in request.sequence.prompt.visuals_from(request.sequence.computed)}
        request.features = {digest: f for digest, f in request.features.items() if digest in ahead}

    def _part(self, item: Work) -> _Part | None:
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
        ids = sequence.ids(start, end)
        visual = []
        for place in sequence.prompt.visuals_from(start):
            first, last = max(start, place.start), min(end, place.end)
            if first < last:
                features = self._encode(place, request)
                part = slice(first - place.start, last - place.start)
                visual.append(VisualRows(first - start, features.main[part], features.deep[:, part]))
        return Slice(
            np.concatenate([ids, np.array(item.draft, np.int32)]) if item.draft else ids,
            sequence.positions(start, end + len(item.draft)),
            start,
            sequence.blocks,
            visual=visual,
            logits=range(item.count - 1, item.rows) if item.is_last else (),
        )

    def _encode(self, place: Visual, request: _Request) -> Features:
        """The picture's features: those in use by this request, those in the cache, or computed now.

        While somebody reads an answer, one picture a step: it is the longest pause there is between two words. Those
        of bulk requests wait until nobody interactive is there, and are given up when somebody comes.
        """
        features = request.features.get(place.digest) or self._features.get(place.digest)
        if features is None:
            bulk = request.sequence.bulk
            if self._open["interactive"] if bulk else self._somebody_reads and not self._may_encode:
                raise _NotYet
            self._may_encode = False
            self._note_looking(request, place)
            began = _now()
            features = self._look(place, request)
            request.vision_s += _now() - began
            if place.picture.info:
                request.encoded += 1
            else:
                request.encoded_patches += 1
            self._features.put(place.digest, features, only_into_room=bulk)
        request.features[place.digest] = features
        return features

    def _look(self, place: Visual, request: _Request) -> Features:
        """Run the vision tower. Raises Cancelled when nobody wants the picture any more or somebody goes first."""
        may_give_up = request.sequence.bulk and request.given_up < MOST_GIVEN_UP

        def unwanted() -> bool:
            return self._stopping or request.stream.closed or (may_give_up and self._open["interactive"] > 0)

        try:
            return self.model.vision.encode(place.picture.pixels, unwanted)
        except Cancelled:
            request.given_up += 1
            raise

    def _note_places(self) -> None:
        for place, sequence in enumerate(chain(self._scheduler.waiting, self._scheduler.waiting_bulk)):
            stream = self._requests[sequence].stream
            if stream.progress.stage == "queued" and stream.progress.place != place:
                stream.progress = Progress("queued", place)

    @staticmethod
    def _note_looking(request: _Request, picture: Visual) -> None:
        if not request.sequence.tokens:
            visuals = request.sequence.prompt.visuals
            request.stream.progress = Progress("looking", done=visuals.index(picture), total=len(visuals))

    @staticmethod
    def _note_reading(request: _Request) -> None:
        if not request.sequence.tokens:
            prompt = len(request.sequence.prompt.token_ids)
            request.stream.progress = Progress("reading", done=request.sequence.computed, total=prompt)

    def _extend_or_fail(self, request: _Request, draft: Tokens, logits: Floats, experts: Experts | None) -> None:
        try:
            self._extend(request, draft, logits, experts)
        except SightlineError as error:
            self._fail(request, error)
        except Exception:
            log.exception("an answer could not go on; its request ends with an error")
            self._fail(request, InternalError(_OUR_FAULT))

    def _extend(self, request: _Request, draft: Tokens, logits: Floats, experts: Experts | None) -> None:
        """Choose the next token, and as long as the draft has guessed right the one after it; send what they add.

        `logits` [1 + drafted, vocab] are those behind the last known token and behind each guess. A row counts only
        when every guess before it was chosen, so the answer is the one that steps of one token would give.
        """
        if not request.first_token:
            request.first_token, request.stream.progress = _now(), Progress("answering")
        text, logprobs, chosen = "", [], []
        finish: FinishReason | None = None
        for row, guessed in enumerate((*draft, None)):
            choice = self._choose(request, logits[row])
            chosen.append(choice.token)
            if experts is not None:
                self._note_experts(request, experts[:, row])
            ends = self._ends_answer(request, choice.token)
            text += "" if ends else request.text.push(choice.token)
            if not ends and choice.logprob is not None:
                logprobs.append(self._logprob(choice))
            finish = self._finish(request, ends)
            if finish or choice.token != guessed:
                break
            self._scheduler.advance(request.sequence, 1)
            self._accepted += 1
        self._drafted += len(draft)
        request.guesser.learn(chosen)
        if finish:
            text += request.text.flush()
            finish = "stop" if request.text.stopped else finish
        delta = Delta(text, tuple(chosen), tuple(logprobs), finish, self._usage(request) if finish else None)
        if finish:
            self._end(request)
        request.stream.put(delta)

    @staticmethod
    def _choose(request: _Request, logits: Floats) -> Choice:
        """The next token, taken into the sequence."""
        constraint = request.sequence.prompt.constraint
        choice = request.sampler.choose(logits, constraint.mask() if constraint else None)
        if constraint:
            constraint.accept(choice.token)
        request.sequence.tokens.append(choice.token)
        return choice

    def _ends_answer(self, request: _Request, token: int) -> bool:
        """Whether `token` is an end of answer; with a grammar it counts even under `ignore_eos`."""
        heeded = not request.sampling.ignore_eos or request.sequence.prompt.constraint is not None
        return heeded and token in self.model.config.generation.eos

    def _finish(self, request: _Request, ends: bool) -> FinishReason | None:
        prompt = request.sequence.prompt
        if ends or request.text.stopped or (prompt.constraint and prompt.constraint.finished):
            return "stop"
        return "length" if len(request.sequence.tokens) >= _most_tokens(request) else None

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

    @staticmethod
    def _usage(request: _Request) -> Usage:
        """What an answer has cost until now. Any thread may ask; beside a running step the parts may not agree."""
        sequence, now = request.sequence, _now()
        admitted, first_token = request.admitted or now, request.first_token or now
        experts = 0.0 if request.experts is None else float(request.experts.sum(1).mean())
        return Usage(
            prompt_tokens=len(sequence.prompt.token_ids),
            image_tokens=sequence.prompt.image_tokens,
            cached_tokens=sequence.cached,
            completion_tokens=len(sequence.tokens),
            queue_ms=(admitted - request.submitted) * 1e3,
            vision_ms=request.vision_s * 1e3,
            prefill_ms=max(0.0, first_token - admitted - request.vision_s) * 1e3,
            decode_ms=(now - first_token) * 1e3,
            encoded_images=request.encoded,
            encoded_patches=request.encoded_patches,
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
            self._open[request.sequence.lane] -= 1

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
            waiting_bulk=len(self._scheduler.waiting_bulk),
            steps=self._steps,
            preemptions=self._scheduler.preemptions,
            drafted=self._drafted,
            accepted=self._accepted,
            kv_blocks=total,
            kv_blocks_in_use=total - available,
            kv_blocks_kept=self._scheduler.cache.kept,
            vision_cache_bytes=self._features.nbytes,
            problem=problem or self.stats.problem,
        )


def _most_tokens(request: _Request) -> int:
    """How long the answer may get."""
    return min(request.sampling.max_tokens, request.sequence.prompt.max_new)
