"""Files: what is there is whole, what expired is gone, and nothing is left behind."""

import errno

import pytest

from sightline.errors import NotFound, StorageUnavailable
from sightline.store.store import Store


def added(store, data=b"{}\n", name="a.jsonl", keep_s=3600, purpose="batch"):
    content = store.files.begin()
    content.write(data)
    return store.files.add(content, name, purpose, keep_s)


def test_a_file_is_what_was_written(store):
    file = added(store, b"hello")
    assert store.files.content(file.id).read_bytes() == b"hello"
    assert (store.files.get(file.id), file.bytes, file.filename) == (file, 5, "a.jsonl")


def test_files_are_listed_both_ways_by_page_and_purpose(store):
    ids = [added(store).id for _ in range(3)]
    added(store, purpose="batch_output")
    up, more = store.files.page(after=None, limit=2, order="asc", purpose="batch")
    assert ([file.id for file in up], more) == (ids[:2], True)
    rest, more = store.files.page(after=ids[1], limit=2, order="asc", purpose="batch")
    assert ([file.id for file in rest], more) == (ids[2:], False)
    down, more = store.files.page(after=ids[1], limit=10, order="desc", purpose=None)
    assert ([file.id for file in down], more) == ([ids[0]], False)


def test_an_expired_file_is_gone_and_then_its_content(store, folder, clock):
    file = added(store, keep_s=100)
    clock.now += 100
    with pytest.raises(NotFound):
        store.files.get(file.id)
    assert list(folder.files.iterdir())
    store.files.expire()
    assert not list(folder.files.iterdir())


def test_a_deleted_file_leaves_nothing(store, folder):
    store.files.delete(added(store).id)
    assert not list(folder.files.iterdir())


def test_content_somebody_removed_is_said_to_be_missing(store, folder):
    file = added(store)
    (folder.files / file.id).unlink()
    with pytest.raises(NotFound, match="upload it again"):
        store.files.content(file.id)


def test_the_next_start_removes_what_a_crash_left_and_nothing_else(store, folder, clock):
    kept = added(store)
    half = store.files.begin()
    half.write(b"half")
    sealed = store.files.begin()
    sealed.seal()  # renamed, and then the process died
    (folder.files / "notes.txt").write_text("somebody's own")
    store.close()
    store = Store(folder, clock)
    assert {path.name for path in folder.files.iterdir()} == {kept.id, "notes.txt"}
    store.close()


@pytest.mark.row("F07", "Q28")
def test_a_full_disk_refuses_the_file_and_leaves_nothing(store, folder, monkeypatch):
    def full(_):
        raise OSError(errno.ENOSPC, "No space left on device", "/secret")

    content = store.files.begin()
    content.write(b"hello")
    with monkeypatch.context() as patched:
        patched.setattr("os.fsync", full)
        with pytest.raises(StorageUnavailable) as caught:
            store.files.add(content, "a.jsonl", "batch", 60)
    assert "the disk is full" in caught.value.message
    assert "secret" not in caught.value.message
    assert not list(folder.files.iterdir())
    assert added(store).bytes == 3  # and when there is room again, all is well
