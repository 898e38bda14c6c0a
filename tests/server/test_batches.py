"""Batches over HTTP: every line is answered once as its route would, and every bad line is named."""

import asyncio
import errno
import json
import sqlite3

import pytest

from asgi import get, post
from fake_backend import FakeBackend, says
from server.stored import CHAT, begun, ended, jsonl, line, rows, running, until, upload
from sightline.errors import OutOfMemory, Overloaded
from sightline.server import batch_lines, batch_work

pytestmark = pytest.mark.anyio
PICTURE = "data:image/png;base64,aGVsbG8="


async def test_every_line_is_answered_as_its_route_would(tmp_path):
    async with running(tmp_path) as app:
        batch = await ended(app, line("a"), line("b"), line("c"), metadata={"night": "1"})
        assert (batch["status"], batch["metadata"], batch["errors"]) == ("completed", {"night": "1"}, None)
        assert batch["request_counts"] == {"total": 3, "completed": 3, "failed": 0}
        assert batch["usage"]["total_tokens"] == 3 * 12
        assert batch["error_file_id"] is None
        results = await rows(app, batch["output_file_id"])
        assert [result["custom_id"] for result in results] == ["a", "b", "c"]
        live = (await post(app, line("a")["body"]).end()).json
        for result in results:
            assert result["error"] is None
            assert result["response"]["status_code"] == 200
            body = result["response"]["body"]
            assert body.keys() == live.keys()
            assert body["choices"] == live["choices"]
            assert body["id"].removeprefix("chatcmpl-") == result["response"]["request_id"].removeprefix("req_")


async def test_a_task_line_has_the_body_of_a_task(tmp_path):
    async with running(tmp_path) as app:
        asked = line("a", "/infer", task="vqa", images=[PICTURE], text="What?")
        refused = line("b", "/infer", task="vqa", images=[])
        batch = await ended(app, asked, refused, endpoint="/infer")
        assert batch["request_counts"] == {"total": 2, "completed": 1, "failed": 1}
        (good,) = await rows(app, batch["output_file_id"])
        assert (good["response"]["body"]["code"], good["response"]["body"]["result"]["answer"]) == (0, "Hello")
        (bad,) = await rows(app, batch["error_file_id"])
        assert bad["response"]["status_code"] == 400
        assert bad["response"]["body"]["code"] == 1000
        assert bad["response"]["body"]["msg"].startswith("images is empty")


@pytest.mark.row("U15")
async def test_a_line_is_refused_as_the_live_route_refuses_it(tmp_path):
    bad = [
        {"messages": [{"role": "user", "content": [{"type": "image_url", "image_url": {"url": url}}]}]}
        for url in ("http://127.0.0.1/x.png", "file:///etc/passwd", "data:image/png;base64,")
    ]
    bad += [{}, {"messages": [], "nonsense": 1}, {"messages": [{"role": "user", "content": "x"}], "model": "gpt-4"}]
    async with running(tmp_path) as app:
        batch = await ended(app, *(line(str(i)) | {"body": body} for i, body in enumerate(bad)))
        results = await rows(app, batch["error_file_id"])
        assert (len(results), batch["output_file_id"]) == (len(bad), None)
        for body, result in zip(bad, results, strict=True):
            live = await post(app, body).end()
            assert result["response"]["status_code"] == live.status
            assert result["response"]["body"] == live.json


@pytest.mark.row("Q14")
async def test_a_bad_line_is_named_and_spoils_no_other(tmp_path):
    lines = [
        line("good"),
        b"{broken",
        line("good"),
        line("elsewhere", "/v1/embeddings"),
        line("streamed", messages=[], stream=True),
        b"[]",
        line("") | {"method": "GET"},
        b" " * 20 + jsonl(line("large", messages=[{"role": "user", "content": "x" * 2000}])),
        b"",
        line("last"),
    ]
    async with running(tmp_path, max_body_mb=0.001) as app:
        batch = await ended(app, *lines)
        assert batch["request_counts"] == {"total": 9, "completed": 2, "failed": 7}
        good = await rows(app, batch["output_file_id"])
        assert [result["custom_id"] for result in good] == ["good", "last"]
        found = [
            (r["custom_id"], r["error"]["code"], r["error"]["line"]) for r in await rows(app, batch["error_file_id"])
        ]
        assert found == [
            (None, "invalid_json", 2),
            ("good", "duplicate_custom_id", 3),
            ("elsewhere", "invalid_value", 4),
            ("streamed", "unsupported_parameter", 5),
            (None, "invalid_json", 6),
            ("", "invalid_value", 7),
            (None, "content_too_large", 8),
        ]
        messages = [r["error"]["message"] for r in await rows(app, batch["error_file_id"])]
        assert messages[0].startswith("line 2: it is not valid JSON")
        assert messages[1] == "line 3: custom_id 'good' stands in line 1 already"
        assert messages[2] == f"line 4: url is '/v1/embeddings', the batch is for '{CHAT}'"


async def test_a_file_without_a_usable_line_fails_the_batch_and_names_its_lines(tmp_path):
    async with running(tmp_path) as app:
        batch = await ended(app, b"\x89PNG", b"{}")
        assert (batch["status"], batch["output_file_id"], batch["error_file_id"]) == ("failed", None, None)
        assert [error["line"] for error in batch["errors"]["data"]] == [1, 2]
        assert batch["failed_at"] >= batch["created_at"]
        empty = await ended(app, b"\n\n")
        assert empty["errors"]["data"][0]["code"] == "empty_file"


@pytest.mark.row("Q14")
async def test_a_batch_has_so_many_lines_at_most(tmp_path, monkeypatch):
    monkeypatch.setattr(batch_lines, "MAX_LINES", 3)
    async with running(tmp_path) as app:
        assert (await ended(app, *map(line, "abc")))["status"] == "completed"
        batch = await ended(app, *map(line, "abcd"))
        assert (batch["status"], batch["errors"]["data"][0]["code"]) == ("failed", "too_many_lines")


@pytest.mark.parametrize(
    ("field", "value", "status", "param"),
    [
        ("input_file_id", "file-unknown", 404, None),
        ("endpoint", "/v1/embeddings", 400, "endpoint"),
        ("completion_window", "1h", 400, "completion_window"),
        ("metadata", {"n": 1}, 400, "metadata.n"),
        ("priority", 1, 400, "priority"),
    ],
)
async def test_a_batch_that_cannot_be_made_is_refused_by_name(tmp_path, field, value, status, param):
    async with running(tmp_path) as app:
        file = (await upload(app).end()).json
        asked = {"input_file_id": file["id"], "endpoint": CHAT, "completion_window": "24h"} | {field: value}
        reply = await post(app, asked, "/v1/batches").end()
        assert (reply.status, reply.error["param"]) == (status, param)
        assert (await get(app, "/v1/batches").end()).json["data"] == []


@pytest.mark.row("Q13")
async def test_cancelling_stops_the_running_line_and_keeps_what_was_answered(tmp_path):
    backend, never = FakeBackend(), asyncio.Event()
    async with running(tmp_path, backend) as app:
        batch = await begun(app, line("a"), line("b"), line("c"))
        # The first line ends by itself, the second waits for ever.
        while not backend.answers:
            await asyncio.wait_for(backend.asking.wait(), 5)
            await asyncio.sleep(0)
        backend.steps = (never,)
        while len(backend.answers) < 2:
            await get(app, "/health").end()
        path = f"/v1/batches/{batch['id']}/cancel"
        reply = await post(app, {}, path).end()
        assert (reply.status, reply.json["status"]) == (200, "cancelling")
        batch = await until(app, batch, "cancelled")
        assert backend.answers[1].closed.is_set()
        assert batch["request_counts"] == {"total": 3, "completed": 1, "failed": 2}
        late = await rows(app, batch["error_file_id"])
        assert [(r["custom_id"], r["error"]["code"]) for r in late] == [
            ("b", "batch_cancelled"),
            ("c", "batch_cancelled"),
        ]
        again = await post(app, {}, path).end()
        assert (again.status, again.error["code"]) == (409, "batch_not_cancellable")


async def test_a_batch_whose_window_is_over_expires(tmp_path):
    backend = FakeBackend(asyncio.Event())
    async with running(tmp_path, backend) as app:
        batch = await begun(app, line("a"), line("b"))
        await asyncio.wait_for(backend.asking.wait(), 5)
        app.state.storage.clock = app.state.storage._store.batches._clock = lambda: batch["expires_at"] + 1.0
        await begun(app, line("c"))  # wakes the one who works
        batch = await until(app, batch, "expired")
        assert batch["request_counts"] == {"total": 2, "completed": 0, "failed": 2}
        assert {r["error"]["code"] for r in await rows(app, batch["error_file_id"])} == {"batch_expired"}
        while len(backend.answers) < 2:  # the queue went on
            await get(app, "/v1/batches").end()


async def test_one_line_at_a_time_runs_beside_live_questions(tmp_path):
    hold = asyncio.Event()
    backend = FakeBackend(hold, *says("late"))
    async with running(tmp_path, backend) as app:
        batch = await begun(app, *map(line, "abcd"))
        await asyncio.wait_for(backend.asking.wait(), 5)
        for _ in range(10):
            await get(app, "/v1/batches").end()
        assert len(backend.answers) == 1
        hold.set()
        assert (await until(app, batch, "completed"))["request_counts"]["completed"] == 4


async def test_a_full_queue_puts_a_line_off_and_counts_no_attempt(tmp_path, monkeypatch):
    backend = FakeBackend(refusal=Overloaded("the queue is full", retry_after_s=0))
    monkeypatch.setattr(batch_work, "RETRY_S", 0.0)
    async with running(tmp_path, backend) as app:
        batch = await begun(app, line("a"))
        for _ in range(20):
            await get(app, "/v1/batches").end()
        backend.refusal = None
        assert (await until(app, batch, "completed"))["request_counts"] == {"total": 1, "completed": 1, "failed": 0}


@pytest.mark.parametrize(
    ("refusal", "status", "code"),
    [(RuntimeError("secret"), 500, "internal_error"), (OutOfMemory("it needs 9 GB"), 503, "out_of_memory")],
)
async def test_a_line_that_fails_by_itself_is_not_asked_again(tmp_path, refusal, status, code):
    async with running(tmp_path, FakeBackend(refusal=refusal)) as app:
        batch = await ended(app, line("a"))
        (row,) = await rows(app, batch["error_file_id"])
        assert (row["response"]["status_code"], row["response"]["body"]["error"]["code"]) == (status, code)
        assert "secret" not in json.dumps(row)


async def test_a_stopping_server_gives_its_line_back_and_the_next_one_answers_it(tmp_path):
    backend = FakeBackend(asyncio.Event())
    async with running(tmp_path, backend) as app:
        batch = await begun(app, line("a"), line("b"))
        await asyncio.wait_for(backend.asking.wait(), 5)
    async with running(tmp_path) as app:
        batch = await until(app, batch, "completed")
        assert batch["request_counts"] == {"total": 2, "completed": 2, "failed": 0}


@pytest.mark.row("Q11")
async def test_a_line_that_ends_the_server_twice_is_not_tried_again(tmp_path):
    async with running(tmp_path, FakeBackend(asyncio.Event())) as app:
        batch = await begun(app, line("a"), line("b"))
        await until(app, batch, "in_progress")
    with sqlite3.connect(tmp_path / "sightline.db") as database:  # as two processes left it that were killed
        database.execute("UPDATE batch_lines SET attempts = 2, fence = 2, owner = 'gone' WHERE number = 1")
    async with running(tmp_path) as app:
        batch = await until(app, batch, "completed")
        assert batch["request_counts"] == {"total": 2, "completed": 1, "failed": 1}
        (row,) = await rows(app, batch["error_file_id"])
        assert (row["custom_id"], row["error"]["code"]) == ("a", "worker_crashed")


@pytest.mark.row("Q16")
async def test_a_locked_database_is_503_for_batches_while_questions_are_answered(tmp_path, monkeypatch):
    monkeypatch.setattr(batch_work, "RETRY_S", 0.01)
    monkeypatch.setattr("sightline.store.database.BUSY_S", 0.0)
    async with running(tmp_path) as app:
        file = (await upload(app, jsonl(line("a"))).end()).json
        other = sqlite3.connect(tmp_path / "sightline.db", isolation_level=None)
        other.execute("BEGIN IMMEDIATE")
        asked = {"input_file_id": file["id"], "endpoint": CHAT, "completion_window": "24h"}
        reply = await post(app, asked, "/v1/batches").end()
        assert (reply.status, reply.error["code"]) == (503, "storage_unavailable")
        assert (await post(app, line()["body"]).end()).status == 200
        other.execute("ROLLBACK")
        other.close()
        batch = (await post(app, asked, "/v1/batches").end()).json
        assert (await until(app, batch, "completed"))["request_counts"]["completed"] == 1


@pytest.mark.row("F07")
async def test_an_answer_the_disk_has_no_room_for_is_kept_until_it_has(tmp_path, monkeypatch):
    monkeypatch.setattr(batch_work, "RETRY_S", 0.01)
    refused = 0

    def full(_):
        nonlocal refused
        refused += 1
        raise OSError(errno.ENOSPC, "No space left on device")

    async with running(tmp_path) as app:
        file = (await upload(app, jsonl(line("a"))).end()).json
        asked = {"input_file_id": file["id"], "endpoint": CHAT, "completion_window": "24h"}
        with monkeypatch.context() as patched:
            patched.setattr("os.fsync", full)
            batch = (await post(app, asked, "/v1/batches").end()).json
            await until(app, batch, "finalizing")
            while refused < 3:
                await get(app, "/v1/batches").end()
            assert (await upload(app).end()).status == 503
        batch = await until(app, batch, "completed")
        assert len(await rows(app, batch["output_file_id"])) == 1
        assert len(list((tmp_path / "files").iterdir())) == 2


@pytest.mark.row("Q10")
async def test_a_line_whose_lease_was_lost_is_stopped(tmp_path, monkeypatch):
    monkeypatch.setattr(batch_work, "HEARTBEAT_S", 0.01)
    backend = FakeBackend(asyncio.Event())
    async with running(tmp_path, backend) as app:
        batch = await begun(app, line("a"))
        await asyncio.wait_for(backend.asking.wait(), 5)
        with sqlite3.connect(tmp_path / "sightline.db") as database:  # as another one who works on the queue
            database.execute("UPDATE batch_lines SET fence = 2, owner = 'other', lease_until = 9e9")
        while not backend.answers:
            await get(app, "/v1/batches").end()
        await asyncio.wait_for(backend.answers[0].closed.wait(), 5)
        assert (await get(app, f"/v1/batches/{batch['id']}").end()).json["request_counts"]["completed"] == 0


async def test_batches_are_listed_newest_first(tmp_path):
    async with running(tmp_path) as app:
        ids = [(await ended(app, line("a")))["id"] for _ in range(3)]
        page = (await get(app, "/v1/batches?limit=2").end()).json
        assert ([batch["id"] for batch in page["data"]], page["has_more"]) == (ids[:0:-1], True)
        page = (await get(app, f"/v1/batches?after={page['last_id']}").end()).json
        assert ([batch["id"] for batch in page["data"]], page["has_more"]) == (ids[:1], False)
        assert (await get(app, "/v1/batches?limit=101").end()).status == 400
        assert (await get(app, "/v1/batches/batch_unknown").end()).status == 404
