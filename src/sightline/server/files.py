"""The routes of OpenAI's files. What is uploaded goes to the data folder as it comes, and is read by batches only."""

from __future__ import annotations

import contextlib
from collections.abc import Sequence
from functools import partial
from pathlib import PurePosixPath, PureWindowsPath
from typing import Any

from fastapi import Request
from starlette.responses import FileResponse, Response

from sightline import strict_json, wire, wire_batch
from sightline.errors import InvalidRequest, MissingField, StorageUnavailable
from sightline.server import bodies
from sightline.server.form import Part, read_upload
from sightline.server.storage import Storage
from sightline.settings import MIB, Settings
from sightline.store.records import StoredFile

PURPOSES = ("batch", "batch_output")  # the first can be uploaded, the second is made here
FORM_BYTES = 1 << 16  # what a form adds to its file
MAX_PAGE = 10_000
MAX_NAME = 255


class FilesApi:
    """The endpoints, over one data folder."""

    def __init__(self, storage: Storage, settings: Settings):
        self._storage = storage
        self._limit = int(settings.max_file_mb * MIB)

    def routes(self) -> Sequence[tuple[str, str, Any]]:
        return (
            ("POST", "/v1/files", self.create),
            ("GET", "/v1/files", self.page),
            ("GET", "/v1/files/{file_id}", self.one),
            ("GET", "/v1/files/{file_id}/content", self.content),
            ("DELETE", "/v1/files/{file_id}", self.delete),
        )

    async def create(self, request: Request) -> Response:
        """POST /v1/files: a form with `file`, `purpose` and, if wanted, `expires_after`."""
        bodies.content_kind(request, bodies.FORM)
        chunks = bodies.chunks(request, self._limit + FORM_BYTES, "split the file", held=False)
        content = await self._storage.call(lambda store: store.files.begin())
        try:
            keep = partial(_in_storage, self._storage, content.write)
            parts = await read_upload(chunks, request.headers["content-type"], keep)
            filename, purpose, keep_s = _described(parts)
            if not content.size:
                raise InvalidRequest("file is empty; send a file in the form field 'file'", param="file")
            await self._storage.call(lambda store: store.files.expire())
            added = await self._storage.call(lambda store: store.files.add(content, filename, purpose, keep_s))
        except BaseException:
            with contextlib.suppress(StorageUnavailable):
                content.discard()
            raise
        return shown(_file(added))

    async def page(self, request: Request) -> Response:
        """GET /v1/files: newest first unless `order` says asc; `after`, `limit` and `purpose` narrow it."""
        asked = request.query_params
        order = asked.get("order", "desc")
        if order not in ("asc", "desc"):
            raise InvalidRequest(f"order is {strict_json.shown(order)}; send asc or desc", param="order")
        after, limit = page_asked(request, MAX_PAGE, MAX_PAGE)
        found, more = await self._storage.call(
            lambda store: store.files.page(
                after=after, limit=limit, order="asc" if order == "asc" else "desc", purpose=asked.get("purpose")
            )
        )
        data = tuple(map(_file, found))
        ends = (data[0].id, data[-1].id) if data else (None, None)
        return shown(wire_batch.FileList(data=data, first_id=ends[0], last_id=ends[1], has_more=more))

    async def one(self, file_id: str) -> Response:
        """GET /v1/files/{id}."""
        return shown(_file(await self._storage.call(lambda store: store.files.get(file_id))))

    async def content(self, file_id: str) -> Response:
        """GET /v1/files/{id}/content: never shown by a browser, whatever is in it."""
        file = await self._storage.call(lambda store: store.files.get(file_id))
        path = await self._storage.call(lambda store: store.files.content(file_id))
        headers = {"x-content-type-options": "nosniff"}
        return FileResponse(path, headers=headers, media_type="application/octet-stream", filename=file.filename)

    async def delete(self, file_id: str) -> Response:
        """DELETE /v1/files/{id}; 409 while a batch reads it."""
        await self._storage.call(lambda store: store.files.delete(file_id))
        return shown(wire_batch.FileDeleted(id=file_id))


async def _in_storage(storage: Storage, write: Any, data: bytes) -> None:
    await storage.call(lambda _: write(data))


def page_asked(request: Request, default: int, most: int) -> tuple[str | None, int]:
    """`after` and `limit` of a list. Raises InvalidRequest for a limit that is none."""
    limit = request.query_params.get("limit", str(default))
    if not limit.isdecimal() or not 1 <= int(limit[:9]) <= most:
        raise InvalidRequest(f"limit is {strict_json.shown(limit)}; send 1 to {most}", param="limit")
    return request.query_params.get("after"), int(limit)


def shown(body: wire.Wire) -> Response:
    """A body with all its fields, null included, as OpenAI sends files and batches."""
    return Response(body.model_dump_json(), media_type="application/json")


def _described(parts: Sequence[Part]) -> tuple[str, str, int]:
    """The name, the purpose and the seconds of life of what was uploaded."""
    sent = [part for part in parts if part.name == "file"]
    fields = {part.name: part.data.decode(errors="replace") for part in parts if part.name != "file"}
    if len(sent) != 1:
        raise InvalidRequest(f"the form has {len(sent)} files in the field 'file'; send one", param="file")
    purpose = fields.get("purpose")
    if not purpose:
        raise MissingField("'purpose' is missing; send the form field purpose=batch", param="purpose")
    if purpose != PURPOSES[0]:
        raise InvalidRequest(
            f"purpose is {strict_json.shown(purpose)}; only '{PURPOSES[0]}' is served here, others travel in requests",
            param="purpose",
        )
    # Browsers of old sent whole paths. The name is shown and never used as one.
    name = PureWindowsPath(PurePosixPath(sent[0].filename or "").name).name[:MAX_NAME]
    return name or "upload.jsonl", purpose, wire_batch.parse_keep(fields)


def _file(file: StoredFile) -> wire_batch.File:
    return wire_batch.File(
        id=file.id,
        bytes=file.bytes,
        created_at=file.created_at,
        expires_at=file.expires_at,
        filename=file.filename,
        purpose=file.purpose,
    )
