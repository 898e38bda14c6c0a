"""Every line of a batch has one result, whoever dies, freezes or comes late."""

import json

import pytest

from sightline.errors import Conflict, NotFound
from sightline.store.records import LineResult, NewLine
from sightline.store.store import Store

LEASE_S = 30.0


def answer(store, lease, row="{}", ok=True):
    return store.batches.close(lease, LineResult(row, ok))


def finish(store, batch):
    return store.batches.finish(batch.id, lambda custom_id: json.dumps({"custom_id": custom_id, "late": True}))


def rows(store, file_id):
    return store.files.content(file_id).read_text().splitlines()


def test_lines_are_leased_in_their_order_and_each_once(store, batch):
    leases = [store.batches.lease("me", LEASE_S) for _ in range(4)]
    assert [lease and lease.custom_id for lease in leases] == ["a", "b", "c", None]
    assert store.files.piece(leases[2].input_file_id, leases[2].offset, leases[2].size) == b"three"


def test_the_oldest_batch_comes_first(store, batch):
    second = store.batches.create(
        endpoint="/infer", input_file_id=batch.input_file_id, metadata=None, window_s=60, output_expires_s=60
    )
    store.batches.begin(second.id, [NewLine(1, "z", 0, 3)])
    assert [store.batches.lease("me", LEASE_S).custom_id for _ in range(4)] == ["a", "b", "c", "z"]


def test_a_result_closes_its_lease_once(store, batch):
    lease = store.batches.lease("me", LEASE_S)
    assert answer(store, lease)
    assert not answer(store, lease)
    counts = store.batches.get(batch.id)
    assert (counts.total, counts.completed, counts.failed) == (3, 1, 0)


@pytest.mark.row("Q10")
def test_a_frozen_holder_is_fenced_off_by_the_next_one(store, batch, clock):
    frozen = store.batches.lease("frozen", LEASE_S)
    clock.now += 60
    second = store.batches.lease("second", LEASE_S)
    assert (second.number, second.fence, second.attempts) == (frozen.number, frozen.fence + 1, 1)
    assert not answer(store, frozen, row="late")
    assert not store.batches.extend(frozen, LEASE_S)
    assert answer(store, second, row="second")
    assert store.batches.get(batch.id).completed == 1


def test_a_heartbeat_keeps_the_lease(store, batch, clock):
    lease = store.batches.lease("me", LEASE_S)
    for _ in range(5):
        clock.now += 20
        assert store.batches.extend(lease, LEASE_S)
    assert store.batches.lease("other", LEASE_S).number == 2
    assert answer(store, lease)


def test_a_lease_given_back_is_no_attempt(store, batch):
    lease = store.batches.lease("me", LEASE_S)
    store.batches.give_back(lease)
    assert not answer(store, lease)
    again = store.batches.lease("me", LEASE_S)
    assert (again.number, again.attempts) == (1, 0)


@pytest.mark.row("Q11")
def test_attempts_that_nobody_finished_are_counted(store, batch, folder, clock):
    assert store.batches.lease("first", LEASE_S).attempts == 0
    store.close()  # and no more is heard of it
    store = Store(folder, clock)
    assert store.batches.lease("second", LEASE_S).attempts == 1
    store.close()
    store = Store(folder, clock)
    assert store.batches.lease("third", LEASE_S).attempts == 2
    store.close()


def test_results_are_written_in_the_order_of_the_input(store, batch):
    first, second, third = (store.batches.lease("me", LEASE_S) for _ in range(3))
    answer(store, third, row="third")
    answer(store, first, row="first")
    answer(store, second, row="second", ok=False)
    assert store.batches.get(batch.id).all_answered
    ended = finish(store, batch)
    assert (ended.status, ended.completed, ended.failed) == ("completed", 2, 1)
    assert rows(store, ended.output_file_id) == ["first", "third"]
    assert rows(store, ended.error_file_id) == ["second"]


@pytest.mark.row("Q15")
def test_what_was_answered_before_a_cancel_is_kept(store, batch):
    answer(store, store.batches.lease("me", LEASE_S), row="first")
    running = store.batches.lease("me", LEASE_S)
    assert store.batches.cancel(batch.id).status == "cancelling"
    assert store.batches.cancel(batch.id).status == "cancelling"
    assert store.batches.lease("me", LEASE_S) is None
    assert not answer(store, running)
    ended = finish(store, batch)
    assert (ended.status, ended.completed, ended.failed) == ("cancelled", 1, 2)
    assert [json.loads(row)["custom_id"] for row in rows(store, ended.error_file_id)] == ["b", "c"]
    with pytest.raises(Conflict) as caught:
        store.batches.cancel(batch.id)
    assert caught.value.error_code == "batch_not_cancellable"


@pytest.mark.row("Q15")
def test_a_batch_whose_time_is_over_expires_with_what_it_has(store, batch, clock):
    answer(store, store.batches.lease("me", LEASE_S), row="first")
    clock.now += 86400
    assert store.batches.lease("me", LEASE_S) is None
    ended = finish(store, batch)
    assert (ended.status, ended.completed, ended.failed) == ("expired", 1, 2)
    assert ended.expired_at == int(clock.now)


@pytest.mark.row("Q09")
def test_a_crash_between_the_results_and_the_end_leaves_nothing_double(store, batch, folder, clock, monkeypatch):
    for _ in range(3):
        answer(store, store.batches.lease("me", LEASE_S))

    def crash(*_):
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(store.files, "insert", crash)
        patched.setattr("sightline.store.files.NewContent.discard", lambda _: None)  # a killed process tidies nothing
        with pytest.raises(KeyboardInterrupt):
            finish(store, batch)
    assert len(list(folder.files.iterdir())) == 3
    store.close()
    store = Store(folder, clock)
    assert [path.name for path in folder.files.iterdir()] == [batch.input_file_id]
    assert store.batches.get(batch.id).status == "finalizing"
    ended = finish(store, batch)
    assert (ended.status, rows(store, ended.output_file_id)) == ("completed", ["{}"] * 3)
    store.close()


def test_the_input_of_a_running_batch_cannot_be_deleted(store, batch):
    with pytest.raises(Conflict) as caught:
        store.files.delete(batch.input_file_id)
    assert caught.value.error_code == "file_in_use"
    store.batches.cancel(batch.id)
    finish(store, batch)
    store.files.delete(batch.input_file_id)
    with pytest.raises(NotFound):
        store.files.get(batch.input_file_id)


def test_batches_are_listed_newest_first_page_by_page(store, batch):
    made = [
        store.batches.create(
            endpoint="/infer", input_file_id=batch.input_file_id, metadata={"n": "1"}, window_s=60, output_expires_s=60
        ).id
        for _ in range(3)
    ]
    first, more = store.batches.page(after=None, limit=2)
    assert ([each.id for each in first], more) == ([made[2], made[1]], True)
    rest, more = store.batches.page(after=made[1], limit=2)
    assert ([each.id for each in rest], more) == ([made[0], batch.id], False)
    assert first[0].metadata == {"n": "1"}
    with pytest.raises(NotFound):
        store.batches.page(after="batch_unknown", limit=2)
