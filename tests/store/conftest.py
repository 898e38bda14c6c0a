"""A store in a folder of the test's own, under a clock that the test moves."""

import pytest

from sightline.store.folder import DataFolder
from sightline.store.records import NewLine
from sightline.store.store import Store


class Clock:
    """Seconds since 1970, as the test says."""

    def __init__(self):
        self.now = 1_700_000_000.0

    def __call__(self):
        return self.now


@pytest.fixture
def clock():
    return Clock()


@pytest.fixture
def folder(tmp_path):
    folder = DataFolder(tmp_path / "data")
    yield folder
    folder.release()


@pytest.fixture
def store(folder, clock):
    store = Store(folder, clock)
    yield store
    store.close()


@pytest.fixture
def batch(store):
    """A batch of three lines, in progress."""
    content = store.files.begin()
    content.write(b"one\ntwo\nthree\n")
    file = store.files.add(content, "lines.jsonl", "batch", 3600)
    return begin(store, file)


def begin(store, file):
    made = store.batches.create(
        endpoint="/infer", input_file_id=file.id, metadata=None, window_s=86400, output_expires_s=3600
    )
    found = [NewLine(1, "a", 0, 3), NewLine(2, "b", 4, 3), NewLine(3, "c", 8, 5)]
    store.batches.begin(made.id, found)
    return store.batches.get(made.id)
