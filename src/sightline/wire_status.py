"""The JSON of /v1/status: what the house is busy with, in figures. Knows no HTTP and no content of any request."""

from __future__ import annotations

from typing import Literal

from sightline.types import Precision
from sightline.wire import Progress, Wire


class ServedModel(Wire):
    id: str
    demo: bool
    precision: Precision
    max_context: int | None


class Limits(Wire):
    """What a request may be, so that a client can say no before it sends."""

    max_concurrency: int
    max_queue: int
    max_image_mb: float
    max_image_side: int
    max_images: int
    max_body_mb: float


class OpenAnswer(Wire):
    """An answer that has not ended. `id` is the request's; its answers, `n` of them, share it."""

    id: str
    task: str
    age_s: float
    prompt_tokens: int | None
    completion_tokens: int
    progress: Progress


class Recent(Wire):
    """Medians of the last answers; null while there is none to measure."""

    answers: int
    first_token_s: float | None
    tokens_per_s: float | None


class Totals(Wire):
    """Since the start, of answers that ended with at least one token; `refused` counts requests."""

    answers: int
    refused: int
    prompt_tokens: int
    cached_tokens: int
    image_tokens: int
    completion_tokens: int
    pictures: int
    pictures_cached: int


class KvBlocks(Wire):
    blocks: int
    used: int
    kept: int
    preemptions: int


class Status(Wire):
    """GET /v1/status; docs/api.md says what the fields mean."""

    object: Literal["status"]
    state: Literal["healthy", "loading", "draining", "unhealthy"]
    progress: str | None
    version: str
    uptime_s: float
    models: tuple[ServedModel, ...]
    limits: Limits
    running: int
    waiting: int
    requests: tuple[OpenAnswer, ...]
    recent: Recent
    totals: Totals
    kv: KvBlocks | None
    vision_cache_bytes: int | None
    memory_bytes: int | None
