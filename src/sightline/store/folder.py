"""The data folder: its layout, and that it belongs to one process at a time. Knows files and locks; no SQL."""

from __future__ import annotations

import errno
import fcntl
import os
import threading
from pathlib import Path
from typing import TextIO

from sightline.errors import DataFolderRefused, StorageUnavailable

OS_REASONS = {
    errno.ENOSPC: "the disk is full",
    errno.EDQUOT: "the disk quota is used up",
    errno.EROFS: "the disk is read-only",
    errno.EACCES: "the data folder may not be written",
    errno.EPERM: "the data folder may not be written",
}


class DataFolder:
    """`claim` it before use; it is ours until `release` or the end of the process, however that comes."""

    def __init__(self, path: Path):
        self.path = path
        self.database = path / "sightline.db"
        self.files = path / "files"
        self.backups = path / "backups"
        self._lock: TextIO | None = None
        self._mutex = threading.Lock()

    def claim(self) -> None:
        """Make it ours. Raises DataFolderRefused when another process has it, StorageUnavailable when nobody can."""
        with self._mutex:
            if self._lock:
                return
            try:
                self.path.mkdir(mode=0o700, parents=True, exist_ok=True)
                self.files.mkdir(mode=0o700, exist_ok=True)
                lock = (self.path / "lock").open("a+", encoding="utf-8")
            except OSError as error:
                raise unavailable(reason(error)) from error
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                lock.seek(0)
                holder = lock.read(20).strip()
                lock.close()
                raise DataFolderRefused(
                    f"data folder {self.path} is in use by another server (process {holder or 'unknown'}); "
                    "stop that one, or give this one a folder of its own with SIGHTLINE_DATA_DIR"
                ) from None
            except OSError as error:
                lock.close()
                raise unavailable(reason(error)) from error
            lock.truncate(0)
            lock.write(f"{os.getpid()}\n")
            lock.flush()
            self._lock = lock

    def release(self) -> None:
        with self._mutex:
            if self._lock:
                self._lock.close()
                self._lock = None


def reason(error: OSError) -> str:
    """Why a file could not be read or written, without its path."""
    return OS_REASONS.get(error.errno or 0, "the data folder cannot be read or written")


def unavailable(why: str) -> StorageUnavailable:
    return StorageUnavailable(f"files and batches are not available now: {why}; questions are answered as before")
