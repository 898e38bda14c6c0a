"""Files over HTTP: what is uploaded comes back byte for byte, and what is wrong with an upload is said by name."""

import pytest

from asgi import get, post
from server.stored import field, running, upload

pytestmark = pytest.mark.anyio
DATA = bytes(range(256)) * 9000  # over two of the pieces that are written at once, and full of dashes and line ends


async def test_a_file_comes_back_byte_for_byte(tmp_path):
    async with running(tmp_path) as app:
        reply = await upload(app, DATA).end()
        assert reply.status == 200, reply.body
        file = reply.json
        assert {name: file[name] for name in ("object", "bytes", "filename", "purpose", "status")} == {
            "object": "file",
            "bytes": len(DATA),
            "filename": "lines.jsonl",
            "purpose": "batch",
            "status": "processed",
        }
        assert (await get(app, f"/v1/files/{file['id']}").end()).json == file
        content = await get(app, f"/v1/files/{file['id']}/content").end()
        assert content.body == DATA
        assert content.headers["x-content-type-options"] == "nosniff"
        assert content.headers["content-disposition"].startswith("attachment")


async def test_fields_after_the_file_count_as_well(tmp_path):
    fields = (
        field("file", b"{}\n", 'filename="a.jsonl"'),
        field("expires_after[anchor]", b"created_at"),
        field("expires_after[seconds]", b"3600"),
        field("purpose", b"batch"),
    )
    async with running(tmp_path) as app:
        file = (await upload(app, b"", *fields).end()).json
        assert (file["bytes"], file["expires_at"] - file["created_at"]) == (3, 3600)


async def test_a_deleted_file_is_gone(tmp_path):
    async with running(tmp_path) as app:
        file = (await upload(app).end()).json
        gone = await get(app, f"/v1/files/{file['id']}", "DELETE").end()
        assert gone.json == {"id": file["id"], "object": "file", "deleted": True}
        for path in (f"/v1/files/{file['id']}", f"/v1/files/{file['id']}/content"):
            reply = await get(app, path).end()
            assert (reply.status, reply.error["code"]) == (404, "not_found")
        assert not list((tmp_path / "files").iterdir())


async def test_files_are_listed_newest_first_page_by_page(tmp_path):
    async with running(tmp_path) as app:
        ids = [(await upload(app).end()).json["id"] for _ in range(3)]
        first = (await get(app, "/v1/files?limit=2").end()).json
        assert ([file["id"] for file in first["data"]], first["has_more"]) == (ids[:0:-1], True)
        rest = (await get(app, f"/v1/files?after={first['last_id']}").end()).json
        assert ([file["id"] for file in rest["data"]], rest["has_more"]) == (ids[:1], False)
        assert (await get(app, "/v1/files?purpose=batch_output").end()).json["data"] == []
        assert [file["id"] for file in (await get(app, "/v1/files?order=asc").end()).json["data"]] == ids


@pytest.mark.parametrize(
    ("query", "param"), [("limit=0", "limit"), ("limit=10001", "limit"), ("limit=x", "limit"), ("order=up", "order")]
)
async def test_a_list_that_cannot_be_made_is_refused(tmp_path, query, param):
    async with running(tmp_path) as app:
        reply = await get(app, f"/v1/files?{query}").end()
        assert (reply.status, reply.error["param"]) == (400, param)


@pytest.mark.parametrize(
    ("fields", "param", "message"),
    [
        ((field("purpose", b"batch"),), "file", "the form has 0 files in the field 'file'; send one"),
        ((field("file", b"x"),), "purpose", "'purpose' is missing; send the form field purpose=batch"),
        ((field("file", b"x"), field("purpose", b"fine-tune")), "purpose", "purpose is 'fine-tune'; only 'batch'"),
        ((field("file", b""), field("purpose", b"batch")), "file", "file is empty"),
        ((field("file", b"x"), field("file", b"y"), field("purpose", b"batch")), "file", "the form has 2 files"),
        (
            (field("file", b"x"), field("purpose", b"batch"), field("expires_after[seconds]", b"60")),
            "expires_after.anchor",
            "expires_after.anchor is null",
        ),
    ],
    ids=["no file", "no purpose", "another purpose", "empty", "two files", "half an expiry"],
)
async def test_an_upload_that_cannot_be_used_is_refused_and_leaves_nothing(tmp_path, fields, param, message):
    async with running(tmp_path) as app:
        reply = await upload(app, b"", *fields).end()
        assert (reply.status, reply.error["param"]) == (400, param)
        assert reply.error["message"].startswith(message)
        assert not list((tmp_path / "files").iterdir())


async def test_a_file_over_the_limit_is_refused_and_leaves_nothing(tmp_path):
    async with running(tmp_path, max_file_mb=0.1) as app:
        reply = await upload(app, b"x" * 200_000).end()
        assert (reply.status, reply.error["code"]) == (413, "content_too_large")
        assert reply.error["message"].endswith("split the file")
        assert not list((tmp_path / "files").iterdir())


async def test_an_upload_that_breaks_off_leaves_nothing(tmp_path):
    async with running(tmp_path) as app:
        reply = await post(
            app,
            [field("purpose", b"batch"), field("file", b"half of it")],
            "/v1/files",
            {"content-type": "multipart/form-data; boundary=b"},
        ).end()
        assert (reply.status, reply.error["code"]) == (400, "invalid_form")
        assert not list((tmp_path / "files").iterdir())


async def test_a_hostile_name_is_only_a_name(tmp_path):
    async with running(tmp_path) as app:
        file = (await upload(app, filename="../../etc/<b>x.jsonl").end()).json
        assert file["filename"] == "<b>x.jsonl"
        assert [path.name for path in (tmp_path / "files").iterdir()] == [file["id"]]


@pytest.mark.parametrize("file_id", ["file-unknown", "..%2Flock", "file-" + "0" * 24])
async def test_an_unknown_file_is_not_found(tmp_path, file_id):
    async with running(tmp_path) as app:
        for path in (f"/v1/files/{file_id}", f"/v1/files/{file_id}/content"):
            assert (await get(app, path).end()).status == 404
        assert (await get(app, f"/v1/files/{file_id}", "DELETE").end()).status == 404


@pytest.mark.row("F07", "F19")
async def test_a_data_folder_nobody_can_write_leaves_questions_answered(tmp_path):
    (tmp_path / "data").write_text("a file where the folder should be")
    async with running(tmp_path / "data") as app:
        reply = await upload(app).end()
        assert (reply.status, reply.error["code"]) == (503, "storage_unavailable")
        assert int(reply.headers["retry-after"]) > 0
        assert str(tmp_path) not in reply.error["message"]
        chat = await post(app, {"messages": [{"role": "user", "content": "hello"}]}).end()
        assert chat.status == 200
        (tmp_path / "data").unlink()
        assert (await upload(app).end()).status == 200  # without a restart


@pytest.mark.row("Q26")
async def test_the_second_of_two_servers_is_refused_the_folder_and_answers_questions(tmp_path):
    async with running(tmp_path) as first, running(tmp_path) as second:
        assert (await upload(first).end()).status == 200
        reply = await upload(second).end()
        assert (reply.status, reply.error["code"]) == (503, "storage_unavailable")
        assert (await post(second, {"messages": [{"role": "user", "content": "hello"}]}).end()).status == 200
    async with running(tmp_path) as third:
        assert len((await get(third, "/v1/files").end()).json["data"]) == 1


async def test_a_server_nobody_gives_files_to_writes_nothing(tmp_path):
    async with running(tmp_path / "data") as app:
        await post(app, {"messages": [{"role": "user", "content": "hello"}]}).end()
    assert not (tmp_path / "data").exists()
