"""The figures of /metrics, in Prometheus's words. Counts what it is told, reads the rest when asked; decides nothing.

docs/metrics.md lists every name. One registry per app, so that two apps in one process do not share their counts.
"""

from __future__ import annotations

from collections.abc import Iterator

from prometheus_client import CollectorRegistry, Counter, Histogram, ProcessCollector, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from sightline import __version__
from sightline.backends import Backend
from sightline.server.ledger import Ledger
from sightline.types import EngineStats

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"

# Seconds. A token takes 5 ms to 1 s on the machines we know, a first token and an answer up to minutes.
TOKEN_BUCKETS = (0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1, 2, 5)
ANSWER_BUCKETS = (0.05, 0.1, 0.2, 0.5, 1, 2, 5, 10, 20, 60, 120, 300)


class Metrics:
    """What happens, counted as it happens. A Watcher of the ledger."""

    def __init__(self) -> None:
        self.registry = registry = CollectorRegistry()
        ProcessCollector(registry=registry)
        self._requests = Counter(
            "sightline_requests", "Requests that ended", ("route", "status", "task"), registry=registry
        )
        self._rejected = Counter("sightline_rejected", "Requests refused or failed", ("reason",), registry=registry)
        self._request_s = Histogram(
            "sightline_request_seconds", "A request, whole", ("route",), buckets=ANSWER_BUCKETS, registry=registry
        )
        self._answers = Counter("sightline_answers", "Answers that ended", ("task", "finish"), registry=registry)
        self._answer_s = Histogram(
            "sightline_answer_seconds", "From question to end", ("task",), buckets=ANSWER_BUCKETS, registry=registry
        )
        self._first_token_s = Histogram(
            "sightline_first_token_seconds", "From question to first token", buckets=ANSWER_BUCKETS, registry=registry
        )
        self._next_token_s = Histogram(
            "sightline_inter_token_seconds", "From token to token", buckets=TOKEN_BUCKETS, registry=registry
        )
        self.refused = 0

    def watch(self, backend: Backend, ledger: Ledger) -> None:
        """Show what these two have in hand, too."""
        self.registry.register(_House(backend, ledger))

    def request_ended(self, route: str, status: int, task: str, seconds: float) -> None:
        self._requests.labels(route, str(status), task).inc()
        self._request_s.labels(route).observe(seconds)

    def rejected(self, reason: str) -> None:
        """A request got an error; `reason` is the error's code."""
        self.refused += 1
        self._rejected.labels(reason).inc()

    def first_token(self, seconds: float) -> None:
        self._first_token_s.observe(seconds)

    def next_token(self, seconds: float) -> None:
        self._next_token_s.observe(seconds)

    def answer_ended(self, task: str, finish: str, seconds: float) -> None:
        self._answers.labels(task, finish).inc()
        self._answer_s.labels(task).observe(seconds)

    def text(self) -> bytes:
        """Everything, in Prometheus's text format."""
        return generate_latest(self.registry)


class _House(Collector):
    """What the backend and the ledger have in hand at the moment of asking."""

    def __init__(self, backend: Backend, ledger: Ledger):
        self._backend = backend
        self._ledger = ledger

    def describe(self) -> list[Metric]:
        """Nothing in advance: the names here and in Metrics differ by inspection."""
        return []

    def collect(self) -> Iterator[Metric]:
        info = GaugeMetricFamily("sightline_info", "1, labelled with what is served", labels=("version", "model"))
        info.add_metric((__version__, self._backend.model_id), 1)
        yield info
        yield _gauge("sightline_ready", "1 when a question would be answered", self._backend.state == "ready")
        yield from self._answers()
        if stats := self._backend.stats:
            yield from _engine(stats)

    def _answers(self) -> Iterator[Metric]:
        stages = [entry.progress.stage for entry in self._ledger.open]
        waiting = sum(stage in ("decoding", "queued") for stage in stages)
        yield _gauge("sightline_waiting", "Answers not begun yet: decoding or queued", waiting)
        yield _gauge("sightline_running", "Answers being computed", len(stages) - waiting)
        totals = self._ledger.totals
        yield _counter("sightline_prompt_tokens", "Tokens of prompts", totals.prompt_tokens)
        yield _counter("sightline_cached_tokens", "Tokens of prompts found in the KV cache", totals.cached_tokens)
        yield _counter("sightline_image_tokens", "Tokens of prompts that are pictures", totals.image_tokens)
        yield _counter("sightline_completion_tokens", "Tokens of answers", totals.completion_tokens)
        yield _counter("sightline_pictures", "Pictures in answered questions", totals.pictures)
        yield _counter("sightline_pictures_cached", "Pictures that were not computed again", totals.pictures_cached)


def _engine(stats: EngineStats) -> Iterator[Metric]:
    yield _gauge("sightline_kv_blocks", "KV blocks there are, 32 tokens each", stats.kv_blocks)
    yield _gauge("sightline_kv_blocks_used", "KV blocks of answers being computed", stats.kv_blocks_in_use)
    yield _gauge("sightline_kv_blocks_kept", "KV blocks kept for later questions", stats.kv_blocks_kept)
    yield _gauge("sightline_vision_cache_bytes", "Features of pictures seen before", stats.vision_cache_bytes)
    yield _counter("sightline_preemptions", "Answers put back because KV blocks ran out", stats.preemptions)
    yield _counter("sightline_engine_steps", "Steps of the engine", stats.steps)
    yield _counter("sightline_drafted_tokens", "Tokens of answers guessed ahead", stats.drafted)
    yield _counter("sightline_accepted_tokens", "Tokens of answers guessed rightly", stats.accepted)
    yield _gauge("sightline_waiting_bulk", "Answers of bulk work in the engine's queue", stats.waiting_bulk)
    yield _counter("sightline_guessed_tokens", "Tokens guessed and tried", stats.drafted)
    yield _counter("sightline_guessed_tokens_right", "Guessed tokens that were right", stats.accepted)


def _gauge(name: str, text: str, value: float) -> Metric:
    return GaugeMetricFamily(name, text, value=value)


def _counter(name: str, text: str, value: float) -> Metric:
    return CounterMetricFamily(name, text, value=value)
