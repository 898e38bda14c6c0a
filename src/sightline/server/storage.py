"""The store as an event loop may use it: in threads of its own, opened when it is first needed. Knows no table."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

import structlog

from sightline.errors import DataFolderRefused, StorageUnavailable
from sightline.store.folder import DataFolder, unavailable

if TYPE_CHECKING:
    from sightline.store.store import Store

THREADS = 4  # a database somebody holds keeps a call for seconds: not in the threads that prepare questions

T = TypeVar("T")
log = structlog.get_logger()


class Storage:
    """One data folder. Nothing of it is touched, and no database library loaded, before `prepare` or a `call`."""

    def __init__(self, path: Path, clock: Callable[[], float] = time.time):
        self.clock = clock
        self._folder = DataFolder(path)
        self._threads = ThreadPoolExecutor(THREADS, thread_name_prefix="store")
        self._opening = threading.Lock()
        self._store: Store | None = None

    @property
    def begun(self) -> bool:
        """Whether there is a database, so that there may be work in it."""
        try:
            return self._folder.database.exists()
        except OSError:  # a folder that may not be looked into
            return False

    async def prepare(self) -> None:
        """At the start of a server: open what is there already, for there may be batches to go on with.

        Raises DataFolderRefused. A folder that nobody can write now is no reason not to start: it is logged. Without a
        database the folder is left to whoever needs it first.
        """
        try:
            if self.begun:
                await asyncio.get_running_loop().run_in_executor(self._threads, self._opened)
        except StorageUnavailable as error:
            log.warning(error.message)

    async def call(self, work: Callable[[Store], T]) -> T:
        """The result of `work` on the opened store. Raises StorageUnavailable, or what `work` raises."""
        try:
            return await asyncio.get_running_loop().run_in_executor(self._threads, lambda: work(self._opened()))
        except DataFolderRefused as error:  # not at the start, when nobody could read or write the folder
            log.error(error.message)
            raise unavailable("the data folder is not for this server") from None

    def _opened(self) -> Store:
        from sightline.store.store import Store  # 0.4 s, which a server without files and batches need not spend

        with self._opening:
            if self._store is None:
                self._store = Store(self._folder, self.clock)
            return self._store

    async def close(self) -> None:
        """Close the database and give the folder back. Nothing may be called any more."""
        if self._store:
            await asyncio.get_running_loop().run_in_executor(self._threads, self._store.close)
        self._threads.shutdown(wait=False)
        self._folder.release()
