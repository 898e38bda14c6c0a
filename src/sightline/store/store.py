"""The opened data folder in one piece. Loads SQLAlchemy; who does not need it yet keeps this file unimported."""

from __future__ import annotations

import time
from collections.abc import Callable

from sightline.store.batches import Batches
from sightline.store.database import Database
from sightline.store.files import Files
from sightline.store.folder import DataFolder


class Store:
    """Its files and its batches, until `close`. Synchronous; every method may be called from any thread."""

    def __init__(self, folder: DataFolder, clock: Callable[[], float] = time.time):
        """Claim the folder, open and migrate its database, clear what a crash left.

        Raises DataFolderRefused or StorageUnavailable. `clock` in seconds since 1970.
        """
        folder.claim()
        self._database = Database(folder)
        self.files = Files(self._database, folder, clock)
        self.batches = Batches(self._database, self.files, clock)
        self.files.expire()
        self.files.sweep()
        self.batches.release_all()

    def close(self) -> None:
        self._database.close()
