"""Opening the data folder: one server each, older databases migrated or left alone, newer and broken ones refused."""

import os
import shutil
import sqlite3
import subprocess
import sys
from pathlib import Path

import pytest
import sqlalchemy as sa
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext

from sightline.errors import DataFolderRefused, StorageUnavailable
from sightline.store import schema
from sightline.store.database import MIGRATIONS, Database
from sightline.store.folder import DataFolder
from sightline.store.store import Store

STEP = '''"""A later step."""

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"


def upgrade() -> None:
    op.add_column("files", sa.Column("colour", sa.Text))
    {then}
'''


def tables(folder):
    with sqlite3.connect(folder.database) as connection:
        return dict(connection.execute("SELECT name, sql FROM sqlite_master WHERE type = 'table'"))


def later(tmp_path, then=""):
    """The migrations of a version to come."""
    steps = tmp_path / "migrations"
    shutil.copytree(MIGRATIONS, steps)
    (steps / "versions" / "r0002_colour.py").write_text(STEP.format(then=then))
    return steps


def test_the_migrations_make_the_tables_this_version_has(store, folder):
    engine = sa.create_engine(f"sqlite:///{folder.database}")
    with engine.connect() as connection:
        assert compare_metadata(MigrationContext.configure(connection), schema.metadata) == []
    engine.dispose()


def test_an_open_folder_is_in_wal_mode_and_private(store, folder):
    with sqlite3.connect(folder.database) as connection:
        assert connection.execute("PRAGMA journal_mode").fetchone() == ("wal",)
    assert folder.path.stat().st_mode & 0o077 == 0


@pytest.mark.row("Q24")
def test_an_older_database_is_copied_before_it_is_migrated(store, batch, folder, tmp_path):
    store.close()
    Database(folder, migrations=later(tmp_path), head="0002").close()
    assert "colour" in tables(folder)["files"]
    (copy,) = folder.backups.iterdir()
    with sqlite3.connect(copy) as connection:
        assert connection.execute("SELECT id FROM batches").fetchall() == [(batch.id,)]
        assert connection.execute("SELECT version_num FROM alembic_version").fetchall() == [("0001",)]


@pytest.mark.row("Q24")
def test_a_migration_that_breaks_off_leaves_the_database_as_it_was(store, batch, folder, clock, tmp_path):
    store.close()
    before = tables(folder)
    with pytest.raises(ZeroDivisionError):
        Database(folder, migrations=later(tmp_path, then="1 / 0"), head="0002")
    assert tables(folder) == before
    again = Store(folder, clock)
    assert again.batches.get(batch.id).total == 3
    again.close()


@pytest.mark.row("Q17", "Q24")
def test_a_newer_database_is_refused_and_untouched(store, folder, tmp_path, clock):
    store.close()
    Database(folder, migrations=later(tmp_path), head="0002").close()
    before = tables(folder)
    with pytest.raises(DataFolderRefused, match="written by a newer Sightline") as caught:
        Store(folder, clock)
    assert "SIGHTLINE_DATA_DIR" in caught.value.message
    assert tables(folder) == before


@pytest.mark.row("Q17")
def test_a_damaged_database_is_refused_and_untouched(folder, clock):
    folder.claim()
    folder.database.write_bytes(b"this is not a database, and nobody knows why" * 100)
    with pytest.raises(DataFolderRefused, match="is damaged"):
        Store(folder, clock)
    assert folder.database.read_bytes().startswith(b"this is not")


@pytest.mark.row("Q26")
def test_a_second_server_is_told_who_has_the_folder(folder):
    folder.claim()
    code = "import sys; from pathlib import Path; from sightline.store.folder import DataFolder as Folder;"
    command = [sys.executable, "-c", f"{code} Folder(Path(sys.argv[1])).claim()", folder.path]
    environment = os.environ | {"PYTHONPATH": str(Path(__file__).parents[2] / "src")}
    second = subprocess.run(command, env=environment, capture_output=True, text=True)
    assert second.returncode == 1
    assert f"in use by another server (process {os.getpid()})" in second.stderr
    folder.release()
    DataFolder(folder.path).claim()


@pytest.mark.row("Q16")
def test_a_database_held_by_another_program_is_storage_trouble_and_reading_goes_on(store, batch, folder, monkeypatch):
    other = sqlite3.connect(folder.database, isolation_level=None)
    other.execute("BEGIN IMMEDIATE")
    with store._database.reading() as connection:
        connection.exec_driver_sql("PRAGMA busy_timeout = 0")  # on the pooled connection: the test does not wait 5 s
    with pytest.raises(StorageUnavailable, match="another program holds the database"):
        store.batches.lease("me", 30)
    assert store.batches.get(batch.id).status == "in_progress"
    other.execute("ROLLBACK")
    assert store.batches.lease("me", 30).number == 1
    other.close()
