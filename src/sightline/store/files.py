"""Files of the data folder: a row says that one exists, its content lies beside the database under its id.

Content is written under a name of its own first, then renamed, then its row is committed; it is removed after its row.
So a crash leaves content without a row at most, and `sweep` removes that. Knows nothing of what is inside.
"""

from __future__ import annotations

import os
import re
import secrets
from collections.abc import Callable, Sequence
from pathlib import Path

import sqlalchemy as sa

from sightline.errors import Conflict, NotFound
from sightline.store.database import Database, storage_trouble
from sightline.store.folder import DataFolder, reason, unavailable
from sightline.store.records import ENDED, Order, StoredFile
from sightline.store.schema import batches, files

CONTENT_NAME = re.compile(r"file-[0-9a-f]{24}(\.part)?")
ROW = tuple(files.c[name] for name in StoredFile.__dataclass_fields__)
STILL_USED = sa.exists().where(batches.c.input_file_id == files.c.id, batches.c.status.not_in(ENDED))


class NewContent:
    """Content being written. `Files.add` makes a file of it; until then, and when nobody does, `discard` it."""

    def __init__(self, folder: Path):
        self.id = "file-" + secrets.token_hex(12)
        self.size = 0
        self._part = folder / f"{self.id}.part"
        self._path = folder / self.id
        with storage_trouble():
            self._file = self._part.open("xb")

    def write(self, data: bytes) -> None:
        with storage_trouble():
            self._file.write(data)
        self.size += len(data)

    def seal(self) -> None:
        """On the disk, under its own name."""
        with storage_trouble():
            self._file.flush()
            os.fsync(self._file.fileno())
            self._file.close()
            self._part.replace(self._path)

    def discard(self) -> None:
        """Harmless twice, and after a `seal`."""
        with storage_trouble():
            try:
                self._file.close()
            finally:
                self._part.unlink(missing_ok=True)
                self._path.unlink(missing_ok=True)


class Files:
    """The files of one data folder. Expired ones are gone for every caller, whenever their content is removed."""

    def __init__(self, database: Database, folder: DataFolder, clock: Callable[[], float]):
        self._database = database
        self._folder = folder.files
        self._clock = clock

    def begin(self) -> NewContent:
        return NewContent(self._folder)

    def add(self, content: NewContent, filename: str, purpose: str, keep_s: int) -> StoredFile:
        """Make a file of `content`, to be kept for `keep_s` seconds. Discards the content when that fails."""
        try:
            content.seal()
            with self._database.writing() as connection:
                return self.insert(connection, content, filename, purpose, keep_s)
        except BaseException:
            content.discard()
            raise

    def insert(
        self, connection: sa.Connection, content: NewContent, filename: str, purpose: str, keep_s: int
    ) -> StoredFile:
        """The row of sealed content, in the caller's transaction."""
        now = int(self._clock())
        file = StoredFile(content.id, purpose, filename, content.size, now, now + keep_s)
        connection.execute(files.insert().values({name: getattr(file, name) for name in StoredFile.__slots__}))
        return file

    def get(self, file_id: str) -> StoredFile:
        """Raises NotFound."""
        with self._database.reading() as connection:
            return self.known(connection, file_id)

    def known(self, connection: sa.Connection, file_id: str) -> StoredFile:
        """The file, in the caller's transaction. Raises NotFound."""
        found = connection.execute(sa.select(*ROW).where(files.c.id == file_id, self._alive())).one_or_none()
        if found is None:
            raise NotFound(f"there is no file {file_id[:64]!r}; it may have expired or been deleted")
        return StoredFile(*found)

    def page(
        self, *, after: str | None, limit: int, order: Order, purpose: str | None
    ) -> tuple[Sequence[StoredFile], bool]:
        """Up to `limit` files in their order of creation, and whether there are more. Raises NotFound for `after`."""
        query = sa.select(*ROW).where(self._alive()).limit(limit + 1)
        query = query.order_by(files.c.serial.desc() if order == "desc" else files.c.serial)
        if purpose is not None:
            query = query.where(files.c.purpose == purpose)
        with self._database.reading() as connection:
            if after is not None:
                self.known(connection, after)
                serial = sa.select(files.c.serial).where(files.c.id == after).scalar_subquery()
                query = query.where(files.c.serial < serial if order == "desc" else files.c.serial > serial)
            found = [StoredFile(*row) for row in connection.execute(query)]
        return found[:limit], len(found) > limit

    def content(self, file_id: str) -> Path:
        """Where the content lies. Raises NotFound, also when somebody removed it behind our back."""
        self.get(file_id)
        path = self._folder / file_id
        if not path.is_file():
            raise _removed(file_id)
        return path

    def piece(self, file_id: str, offset: int, size: int) -> bytes:
        """Part of the content, in bytes, whether the file has expired or not: a batch that began may end.

        Raises NotFound when somebody removed it behind our back.
        """
        try:
            with (self._folder / file_id).open("rb") as content:
                content.seek(offset)
                return content.read(size)
        except FileNotFoundError:
            raise _removed(file_id) from None
        except OSError as error:
            raise unavailable(reason(error)) from error

    def delete(self, file_id: str) -> None:
        """Raises NotFound, or Conflict while a batch reads the file."""
        with self._database.writing() as connection:
            self.known(connection, file_id)
            if connection.execute(files.delete().where(files.c.id == file_id, ~STILL_USED)).rowcount == 0:
                raise Conflict(
                    f"file {file_id!r} is the input of a batch that has not ended; cancel the batch first",
                    code="file_in_use",
                )
        with storage_trouble():
            (self._folder / file_id).unlink(missing_ok=True)

    def expire(self) -> None:
        """Remove the files whose time is over."""
        over = sa.select(files.c.id).where(~self._alive(), ~STILL_USED)
        with self._database.writing() as connection:
            gone = list(connection.execute(over).scalars())
            connection.execute(files.delete().where(files.c.id.in_(over)))
        with storage_trouble():
            for file_id in gone:
                (self._folder / file_id).unlink(missing_ok=True)

    def sweep(self) -> None:
        """Remove content that is nobody's. Only while nothing is being written."""
        with self._database.reading() as connection:
            known = set(connection.execute(sa.select(files.c.id)).scalars())
        with storage_trouble():
            for path in self._folder.iterdir():
                if CONTENT_NAME.fullmatch(path.name) and path.name not in known:
                    path.unlink(missing_ok=True)

    def _alive(self) -> sa.ColumnElement[bool]:
        return files.c.expires_at > int(self._clock())


def _removed(file_id: str) -> NotFound:
    return NotFound(f"the content of file {file_id!r} was removed from the server's disk; upload it again")
