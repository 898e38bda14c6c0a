"""The durable queue: batches, and their lines leased one by one until each has its one result.

A lease has an owner's name, an end and a fence. A line may be leased again when its lease ended, as it does when its
process died; the fence then tells the late holder from the new one, and only the new one's result is taken. The result
is written in the transaction that closes the lease. Knows neither the wire nor who answers.
"""

from __future__ import annotations

import secrets
from collections.abc import Callable, Mapping, Sequence
from dataclasses import fields
from typing import Any

import sqlalchemy as sa

from sightline.errors import Conflict, NotFound
from sightline.store.database import Database
from sightline.store.files import Files, NewContent
from sightline.store.records import ENDED, Lease, LineResult, NewLine, Status, StoredBatch
from sightline.store.schema import batches, lines

ROW = tuple(batches.c[field.name] for field in fields(StoredBatch))
LEASED = (lines.c.number, lines.c.custom_id, lines.c.offset, lines.c.size, lines.c.attempts, lines.c.fence)
ROWS_AT_ONCE = 500
OUTPUT_PURPOSE = "batch_output"


class Batches:
    """The batches of one data folder."""

    def __init__(self, database: Database, files: Files, clock: Callable[[], float]):
        self._database = database
        self._files = files
        self._clock = clock

    # ---- batches, as their callers see them

    def create(
        self,
        *,
        endpoint: str,
        input_file_id: str,
        metadata: Mapping[str, str] | None,
        window_s: int,
        output_expires_s: int,
    ) -> StoredBatch:
        """A new batch over a file that is there; raises NotFound when it is not. It ends `window_s` from now."""
        batch_id, now = "batch_" + secrets.token_hex(12), int(self._clock())
        with self._database.writing() as connection:
            self._files.known(connection, input_file_id)
            connection.execute(
                batches.insert().values(
                    id=batch_id,
                    endpoint=endpoint,
                    input_file_id=input_file_id,
                    status="validating",
                    metadata=metadata and dict(metadata),
                    created_at=now,
                    expires_at=now + window_s,
                    output_expires_s=output_expires_s,
                )
            )
            return _known(connection, batch_id)

    def get(self, batch_id: str) -> StoredBatch:
        """Raises NotFound."""
        with self._database.reading() as connection:
            return _known(connection, batch_id)

    def page(self, *, after: str | None, limit: int) -> tuple[Sequence[StoredBatch], bool]:
        """Up to `limit` batches, the newest first, and whether there are more. Raises NotFound for `after`."""
        query = sa.select(*ROW).order_by(batches.c.serial.desc()).limit(limit + 1)
        with self._database.reading() as connection:
            if after is not None:
                _known(connection, after)
                serial = sa.select(batches.c.serial).where(batches.c.id == after).scalar_subquery()
                query = query.where(batches.c.serial < serial)
            found = [StoredBatch(*row) for row in connection.execute(query)]
        return found[:limit], len(found) > limit

    def cancel(self, batch_id: str) -> StoredBatch:
        """Cancelling from now on; asking twice is harmless. Raises NotFound, or Conflict when the batch has ended."""
        with self._database.writing() as connection:
            batch = _known(connection, batch_id)
            if batch.status in ENDED:
                raise Conflict(
                    f"batch {batch_id!r} is {batch.status}; only one that has not ended can be cancelled",
                    code="batch_not_cancellable",
                )
            if batch.status != "cancelling":
                self._move(connection, batch_id, "cancelling")
            return _known(connection, batch_id)

    # ---- batches, as the one who works on them sees them

    def unfinished(self) -> Sequence[StoredBatch]:
        """All that have not ended, the oldest first."""
        query = sa.select(*ROW).where(batches.c.status.not_in(ENDED)).order_by(batches.c.serial)
        with self._database.reading() as connection:
            return [StoredBatch(*row) for row in connection.execute(query)]

    def begin(self, batch_id: str, found: Sequence[NewLine]) -> None:
        """From validating to in progress, with its lines; those with a refusal are answered by it."""
        rows = [
            {
                "batch_id": batch_id,
                "number": line.number,
                "custom_id": line.custom_id,
                "offset": line.offset,
                "size": line.size,
                "result": line.refusal,
                "ok": None if line.refusal is None else False,
            }
            for line in found
        ]
        with self._database.writing() as connection:
            if _known(connection, batch_id).status != "validating":
                return  # cancelled meanwhile
            failed = sum(line.refusal is not None for line in found)
            self._move(connection, batch_id, "in_progress", total=len(rows), failed=failed)
            connection.execute(lines.insert(), rows)

    def fail(self, batch_id: str, errors: Sequence[Mapping[str, Any]]) -> None:
        """From validating to failed: the file as a whole cannot be used."""
        with self._database.writing() as connection:
            if _known(connection, batch_id).status == "validating":
                self._move(connection, batch_id, "failed", errors=[dict(error) for error in errors])

    def finish(self, batch_id: str, unanswered: Callable[[str | None], str]) -> StoredBatch:
        """Write the output and error files, in the order of the input, and end the batch.

        A line without a result goes to the error file as `unanswered(custom_id)` says, and the batch ends as
        cancelled or, when nobody cancelled it, as expired. A crash in the middle leaves all as it was before.
        """
        with self._database.writing() as connection:
            batch = _known(connection, batch_id)
            if batch.status == "in_progress":
                self._move(connection, batch_id, "finalizing")  # from here on no late result is taken
        left = self._count_unanswered(batch_id)
        end: Status = "cancelled" if batch.status == "cancelling" else "expired" if left else "completed"
        outputs = {True: self._files.begin(), False: self._files.begin()}
        try:
            self._write_results(batch_id, outputs, unanswered)
            for content in outputs.values():
                content.seal()
            with self._database.writing() as connection:
                ids = {}
                for ok, name in ((True, "output"), (False, "error")):
                    if outputs[ok].size:
                        filename = f"{batch_id}_{name}.jsonl"
                        self._files.insert(connection, outputs[ok], filename, OUTPUT_PURPOSE, batch.output_expires_s)
                        ids[f"{name}_file_id"] = outputs[ok].id
                self._move(connection, batch_id, end, failed=batches.c.failed + left, **ids)
                connection.execute(lines.delete().where(lines.c.batch_id == batch_id))
                ended = _known(connection, batch_id)
        except BaseException:
            for content in outputs.values():
                content.discard()
            raise
        for content in outputs.values():
            if not content.size:
                content.discard()
        return ended

    def _count_unanswered(self, batch_id: str) -> int:
        query = sa.select(sa.func.count()).where(lines.c.batch_id == batch_id, lines.c.result.is_(None))
        with self._database.reading() as connection:
            return int(connection.execute(query).scalar_one())

    def _write_results(
        self, batch_id: str, outputs: Mapping[bool, NewContent], unanswered: Callable[[str | None], str]
    ) -> None:
        query = sa.select(lines.c.custom_id, lines.c.result, lines.c.ok).where(lines.c.batch_id == batch_id)
        with self._database.reading() as connection:
            rows = connection.execution_options(yield_per=ROWS_AT_ONCE).execute(query.order_by(lines.c.number))
            for custom_id, result, ok in rows:
                row: str = unanswered(custom_id) if result is None else result
                outputs[bool(ok)].write(row.encode() + b"\n")

    def _move(self, connection: sa.Connection, batch_id: str, status: Status, **values: Any) -> None:
        moved = batches.update().where(batches.c.id == batch_id)
        connection.execute(moved.values({"status": status, f"{status}_at": int(self._clock())} | values))

    # ---- lines

    def lease(self, owner: str, lease_s: float) -> Lease | None:
        """The next line that nobody holds, of the oldest batch in progress; None when there is none."""
        now = self._clock()
        waiting = sa.and_(
            lines.c.batch_id == batches.c.id,
            lines.c.result.is_(None),
            sa.or_(lines.c.lease_until.is_(None), lines.c.lease_until < now),
        )
        oldest = (
            sa.select(batches.c.id, batches.c.endpoint, batches.c.input_file_id)
            .where(batches.c.status == "in_progress", batches.c.expires_at > now, sa.exists().where(waiting))
            .order_by(batches.c.serial)
            .limit(1)
        )
        with self._database.writing() as connection:
            batch = connection.execute(oldest).one_or_none()
            if batch is None:
                return None
            free = sa.or_(lines.c.lease_until.is_(None), lines.c.lease_until < now)
            line = connection.execute(
                sa.select(*LEASED)
                .where(lines.c.batch_id == batch.id, lines.c.result.is_(None), free)
                .order_by(lines.c.number)
                .limit(1)
                .with_for_update(skip_locked=True)
            ).one()
            lease = Lease(
                batch_id=batch.id,
                endpoint=batch.endpoint,
                input_file_id=batch.input_file_id,
                number=line.number,
                custom_id=line.custom_id,
                offset=line.offset,
                size=line.size,
                attempts=line.attempts,
                fence=line.fence + 1,
            )
            held = {"owner": owner, "lease_until": now + lease_s, "fence": lease.fence, "attempts": lease.attempts + 1}
            connection.execute(lines.update().where(*_line(lease)).values(held))
            return lease

    def extend(self, lease: Lease, lease_s: float) -> bool:
        """The holder's heartbeat. False when the lease is no longer its own: it should stop."""
        with self._database.writing() as connection:
            beat = lines.update().where(*_held(lease)).values(lease_until=self._clock() + lease_s)
            return connection.execute(beat).rowcount == 1

    def give_back(self, lease: Lease) -> None:
        """Unanswered, and through no fault of the line: the attempt does not count."""
        with self._database.writing() as connection:
            connection.execute(
                lines.update().where(*_held(lease)).values(owner=None, lease_until=None, attempts=lease.attempts)
            )

    def close(self, lease: Lease, result: LineResult) -> bool:
        """The line's one result. False, and nothing is written, when the lease is no longer the holder's own."""
        running = sa.exists().where(batches.c.id == lease.batch_id, batches.c.status == "in_progress")
        closed = {"result": result.row, "ok": result.ok, "owner": None, "lease_until": None}
        counted = batches.c.completed if result.ok else batches.c.failed
        with self._database.writing() as connection:
            if connection.execute(lines.update().where(*_held(lease), running).values(closed)).rowcount == 0:
                return False
            connection.execute(
                batches.update()
                .where(batches.c.id == lease.batch_id)
                .values(
                    {
                        counted: counted + 1,
                        batches.c.input_tokens: batches.c.input_tokens + result.input_tokens,
                        batches.c.cached_tokens: batches.c.cached_tokens + result.cached_tokens,
                        batches.c.output_tokens: batches.c.output_tokens + result.output_tokens,
                    }
                )
            )
            return True

    def release_all(self) -> None:
        """End all leases. Right only where no holder can be alive, as after the data folder was claimed."""
        with self._database.writing() as connection:
            connection.execute(
                lines.update().where(lines.c.result.is_(None), lines.c.owner.is_not(None)).values(lease_until=0.0)
            )


def _known(connection: sa.Connection, batch_id: str) -> StoredBatch:
    found = connection.execute(sa.select(*ROW).where(batches.c.id == batch_id)).one_or_none()
    if found is None:
        raise NotFound(f"there is no batch {batch_id[:64]!r}")
    return StoredBatch(*found)


def _line(lease: Lease) -> tuple[sa.ColumnElement[bool], ...]:
    return lines.c.batch_id == lease.batch_id, lines.c.number == lease.number


def _held(lease: Lease) -> tuple[sa.ColumnElement[bool], ...]:
    """The line, while the newest lease of it is this one."""
    return *_line(lease), lines.c.fence == lease.fence, lines.c.owner.is_not(None), lines.c.result.is_(None)
