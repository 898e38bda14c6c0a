"""Opens the database of the data folder, brings it to this version's tables, and hands out transactions on it.

Knows SQLite's ways (WAL, one writer at a time, copies before a migration); no table by name.
"""

from __future__ import annotations

import contextlib
import logging
import sqlite3
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import sqlalchemy as sa
from sqlalchemy import event
from sqlalchemy.exc import DBAPIError, IntegrityError, InterfaceError, ProgrammingError

from sightline.errors import DataFolderRefused
from sightline.store.folder import DataFolder, reason, unavailable
from sightline.store.schema import REVISION

MIGRATIONS = Path(__file__).parent / "migrations"
BUSY_S = 5.0  # how long a transaction waits for another writer, such as somebody's sqlite3 shell
SQLITE_REASONS = {
    "SQLITE_FULL": "the disk is full",
    "SQLITE_BUSY": "another program holds the database",
    "SQLITE_LOCKED": "another program holds the database",
    "SQLITE_READONLY": "the database may not be written",
    "SQLITE_CORRUPT": "the database is damaged",
    "SQLITE_NOTADB": "the database is damaged",
}

log = logging.getLogger(__name__)


class Database:
    """The opened database. Every method may be called from any thread; a transaction stays in one."""

    def __init__(self, folder: DataFolder, *, migrations: Path = MIGRATIONS, head: str = REVISION):
        """Open it, and migrate it when it is older. Raises DataFolderRefused or StorageUnavailable."""
        self._engine = sa.create_engine(f"sqlite:///{folder.database}", connect_args={"timeout": BUSY_S})
        event.listen(self._engine, "connect", _configure)
        event.listen(self._engine, "begin", _begin)
        self._writer = self._engine.execution_options(writes=True)
        try:
            with storage_trouble():
                self._migrate(folder, migrations, head)
        except BaseException:
            self.close()
            raise

    def reading(self) -> contextlib.AbstractContextManager[sa.Connection]:
        """A transaction that only reads; it waits for nobody."""
        return self._transaction(self._engine)

    def writing(self) -> contextlib.AbstractContextManager[sa.Connection]:
        """A transaction that writes, committed when the block ends without an error."""
        return self._transaction(self._writer)

    @contextlib.contextmanager
    def _transaction(self, engine: sa.Engine) -> Iterator[sa.Connection]:
        with storage_trouble(), engine.begin() as connection:
            yield connection

    def close(self) -> None:
        self._engine.dispose()

    def _migrate(self, folder: DataFolder, migrations: Path, head: str) -> None:
        try:
            found = self._revision()
        except (DBAPIError, sqlite3.Error) as error:
            if _sqlite_code(error) in ("SQLITE_NOTADB", "SQLITE_CORRUPT"):
                raise DataFolderRefused(
                    f"{folder.database} is damaged; move it away, or put a copy from {folder.backups} in its place"
                ) from None
            raise
        if found == head:
            return
        # Heavy, and needed for a new or an older database only.
        from alembic import command
        from alembic.config import Config
        from alembic.script import ScriptDirectory

        config = Config()
        config.set_main_option("script_location", str(migrations))
        known = {step.revision for step in ScriptDirectory.from_config(config).walk_revisions()}
        if found is not None and found not in known:
            raise DataFolderRefused(
                f"{folder.database} was written by a newer Sightline (tables {found}, this one knows {head}); "
                "update this one, or give it a folder of its own with SIGHTLINE_DATA_DIR"
            )
        if found is not None:
            log.warning("migrating the database from %s to %s; a copy is %s", found, head, _copy(folder, found))
        with self._writer.begin() as connection:
            config.attributes["connection"] = connection
            command.upgrade(config, head)

    def _revision(self) -> str | None:
        """The step the database is at; None when it is new."""
        with self._engine.begin() as connection:
            if not sa.inspect(connection).has_table("alembic_version"):
                return None
            revision: str | None = connection.execute(sa.text("SELECT version_num FROM alembic_version")).scalar()
            return revision


def _copy(folder: DataFolder, revision: str) -> Path:
    """A whole copy of the database, what its WAL still holds included."""
    folder.backups.mkdir(mode=0o700, exist_ok=True)
    path = folder.backups / f"sightline-{revision}-{time.strftime('%Y%m%d-%H%M%S')}.db"
    with contextlib.closing(sqlite3.connect(folder.database)) as old, contextlib.closing(sqlite3.connect(path)) as new:
        old.backup(new)
    return path


def _configure(connection: Any, _: object) -> None:
    connection.isolation_level = None  # we begin transactions ourselves: the driver leaves DDL outside of them
    for pragma in ("journal_mode = WAL", "synchronous = FULL", "foreign_keys = ON"):
        connection.execute(f"PRAGMA {pragma}")


def _begin(connection: sa.Connection) -> None:
    # A writer says so at once: a reader that turns into one fails without waiting when another writer was between.
    writes = connection.get_execution_options().get("writes", False)
    connection.exec_driver_sql("BEGIN IMMEDIATE" if writes else "BEGIN")


@contextlib.contextmanager
def storage_trouble() -> Iterator[None]:
    """Turns what the disk or the database refuses into StorageUnavailable. Our own mistakes pass."""
    try:
        yield
    except (IntegrityError, InterfaceError, ProgrammingError):
        raise
    except (DBAPIError, sqlite3.Error) as error:
        log.warning("the database refused: %s", _original(error))
        why = SQLITE_REASONS.get(_sqlite_code(error), "the database cannot be read or written")
        raise unavailable(why) from error
    except OSError as error:
        log.warning("the data folder refused: %s", error)
        raise unavailable(reason(error)) from error


def _original(error: BaseException) -> BaseException | None:
    """The driver's own error: SQLAlchemy wraps it, but not while it connects."""
    return error.orig if isinstance(error, DBAPIError) else error


def _sqlite_code(error: BaseException) -> str:
    """SQLITE_BUSY of SQLITE_BUSY_SNAPSHOT, and so on."""
    name = str(getattr(_original(error), "sqlite_errorname", ""))
    return "_".join(name.split("_")[:2])
