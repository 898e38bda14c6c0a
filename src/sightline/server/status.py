"""Puts together what /v1/status says of the house. Reads what others know; counts nothing itself."""

from __future__ import annotations

import resource
from pathlib import Path
from statistics import median
from typing import Literal

from sightline import __version__
from sightline.backends import Backend
from sightline.server import openai
from sightline.server.ledger import Entry, Ledger
from sightline.settings import Settings
from sightline.types import EngineStats
from sightline.wire_status import KvBlocks, Limits, OpenAnswer, Recent, ServedModel, Status, Totals

State = Literal["healthy", "loading", "draining", "unhealthy"]
STATES: dict[str, State] = {"ready": "healthy", "loading": "loading", "failed": "unhealthy"}


def state(backend: Backend, draining: bool) -> State:
    """What /health calls the state of the house."""
    return "draining" if draining else STATES[backend.state]


def status(
    backend: Backend, settings: Settings, ledger: Ledger, *, draining: bool, uptime_s: float, refused: int
) -> Status:
    """The body of GET /v1/status."""
    requests = tuple(_open_answer(entry) for entry in ledger.open)
    waiting = sum(request.progress.stage in ("decoding", "queued") for request in requests)
    stats = backend.stats
    return Status(
        object="status",
        state=state(backend, draining),
        progress=backend.progress if backend.state == "loading" else None,
        version=__version__,
        uptime_s=round(uptime_s, 1),
        models=(_model(backend, settings),),
        limits=_limits(settings),
        running=len(requests) - waiting,
        waiting=waiting,
        requests=requests,
        recent=_recent(ledger),
        totals=_totals(ledger, refused),
        kv=_kv(stats) if stats else None,
        vision_cache_bytes=stats.vision_cache_bytes if stats else None,
        memory_bytes=_memory_bytes(),
    )


def _model(backend: Backend, settings: Settings) -> ServedModel:
    return ServedModel(
        id=backend.model_id,
        demo=settings.model is None,
        precision=settings.precision,
        max_context=backend.max_context,
    )


def _limits(settings: Settings) -> Limits:
    return Limits(
        max_concurrency=settings.max_concurrency,
        max_queue=settings.max_queue,
        max_image_mb=settings.max_image_mb,
        max_image_side=settings.max_image_side,
        max_images=settings.max_images,
        max_body_mb=settings.max_body_mb,
    )


def _open_answer(entry: Entry) -> OpenAnswer:
    return OpenAnswer(
        id=entry.request_id,
        task=entry.task,
        age_s=round(entry.age_s, 2),
        prompt_tokens=entry.answer.prompt_tokens if entry.answer else None,
        completion_tokens=entry.written,
        progress=openai.progress(entry.progress),
    )


def _recent(ledger: Ledger) -> Recent:
    firsts = [pace.first_token_s for pace in ledger.recent]
    rates = [pace.tokens_per_s for pace in ledger.recent if pace.tokens_per_s is not None]
    return Recent(
        answers=len(firsts),
        first_token_s=round(median(firsts), 4) if firsts else None,
        tokens_per_s=round(median(rates), 2) if rates else None,
    )


def _totals(ledger: Ledger, refused: int) -> Totals:
    totals = ledger.totals
    return Totals(
        answers=totals.answers,
        refused=refused,
        prompt_tokens=totals.prompt_tokens,
        cached_tokens=totals.cached_tokens,
        image_tokens=totals.image_tokens,
        completion_tokens=totals.completion_tokens,
        pictures=totals.pictures,
        pictures_cached=totals.pictures_cached,
    )


def _kv(stats: EngineStats) -> KvBlocks:
    return KvBlocks(
        blocks=stats.kv_blocks,
        used=stats.kv_blocks_in_use,
        kept=stats.kv_blocks_kept,
        preemptions=stats.preemptions,
    )


def _memory_bytes() -> int | None:
    """Resident memory of this process, without its decoding workers; None where the kernel does not tell."""
    try:
        pages = int(Path("/proc/self/statm").read_text(encoding="ascii").split()[1])
    except OSError:
        return None
    return pages * resource.getpagesize()
