"""The routes of OpenAI's batches. They write into the queue and read from it; the work is done in `batch_work`."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from fastapi import Request
from starlette.responses import Response

from sightline import strict_json, wire_batch
from sightline.server import bodies
from sightline.server.batch_work import BatchWork
from sightline.server.files import page_asked, shown
from sightline.server.storage import Storage
from sightline.store.records import StoredBatch

MAX_BODY = 1 << 16  # of a new batch; its lines are in a file
PAGE, MAX_PAGE = 20, 100


class BatchesApi:
    """The endpoints, over one data folder and the one who works on it. `model` is what answers."""

    def __init__(self, storage: Storage, work: BatchWork, model: str):
        self._storage = storage
        self._work = work
        self._model = model

    def routes(self) -> Sequence[tuple[str, str, Any]]:
        return (
            ("POST", "/v1/batches", self.create),
            ("GET", "/v1/batches", self.page),
            ("GET", "/v1/batches/{batch_id}", self.one),
            ("POST", "/v1/batches/{batch_id}/cancel", self.cancel),
        )

    async def create(self, request: Request) -> Response:
        """POST /v1/batches: what this answers with will be finished, whatever becomes of the process."""
        bodies.content_kind(request, bodies.JSON)
        asked = wire_batch.parse_batch(strict_json.read_json(await bodies.whole(request, MAX_BODY)))
        expires = asked.output_expires_after
        batch = await self._storage.call(
            lambda store: store.batches.create(
                endpoint=asked.endpoint,
                input_file_id=asked.input_file_id,
                metadata=asked.metadata,
                window_s=wire_batch.WINDOW_S,
                output_expires_s=expires.seconds if expires else wire_batch.KEEP_S,
            )
        )
        self._work.wake()
        return self._shown(batch)

    async def page(self, request: Request) -> Response:
        """GET /v1/batches: newest first; `after` and `limit` narrow it."""
        after, limit = page_asked(request, PAGE, MAX_PAGE)
        found, more = await self._storage.call(lambda store: store.batches.page(after=after, limit=limit))
        data = tuple(map(self._batch, found))
        ends = (data[0].id, data[-1].id) if data else (None, None)
        return shown(wire_batch.BatchList(data=data, first_id=ends[0], last_id=ends[1], has_more=more))

    async def one(self, batch_id: str) -> Response:
        """GET /v1/batches/{id}."""
        return self._shown(await self._storage.call(lambda store: store.batches.get(batch_id)))

    async def cancel(self, batch_id: str) -> Response:
        """POST /v1/batches/{id}/cancel; 409 when it has ended."""
        batch = await self._storage.call(lambda store: store.batches.cancel(batch_id))
        self._work.wake()
        return self._shown(batch)

    def _shown(self, batch: StoredBatch) -> Response:
        return shown(self._batch(batch))

    def _batch(self, batch: StoredBatch) -> wire_batch.Batch:
        errors = tuple(map(wire_batch.LineError.model_validate, batch.errors or ()))
        same = {name: getattr(batch, name) for name in batch.__slots__ if name in wire_batch.Batch.model_fields}
        return wire_batch.Batch.model_validate(
            same
            | {
                "model": self._model,
                "errors": wire_batch.BatchErrors(data=errors) if errors else None,
                "request_counts": wire_batch.RequestCounts(
                    total=batch.total, completed=batch.completed, failed=batch.failed
                ),
                "usage": wire_batch.BatchUsage(
                    input_tokens=batch.input_tokens,
                    input_tokens_details=wire_batch.InputTokensDetails(cached_tokens=batch.cached_tokens),
                    output_tokens=batch.output_tokens,
                    output_tokens_details=wire_batch.OutputTokensDetails(reasoning_tokens=0),
                    total_tokens=batch.input_tokens + batch.output_tokens,
                ),
            }
        )
