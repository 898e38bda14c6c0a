"""What the tests of files and batches share: a running server on a data folder, uploads, batches until they end."""

import asyncio
import json
from contextlib import asynccontextmanager

import alembic.command  # noqa: F401  # here, and not while a test waits for an answer

import sightline.store.store  # noqa: F401
from asgi import get, post
from fake_backend import FakeBackend
from sightline.server.app import create_app
from sightline.settings import Settings

CHAT = "/v1/chat/completions"


@asynccontextmanager
async def running(data_dir, backend=None, **settings):
    """An app between its start and its end, as a server runs it."""
    app = create_app(backend or FakeBackend(), Settings(data_dir=data_dir, **settings))
    await app.state.storage.prepare()
    async with app.router.lifespan_context(app):
        yield app


def field(name, value, *rest):
    header = "; ".join([f'form-data; name="{name}"', *rest])
    return f"--b\r\nContent-Disposition: {header}\r\n\r\n".encode() + value + b"\r\n"


def upload(app, data=b"{}\n", *fields, purpose=b"batch", filename="lines.jsonl"):
    fields = fields or (field("purpose", purpose), field("file", data, f'filename="{filename}"'))
    body = b"".join(fields) + b"--b--\r\n"
    pieces = [body[start : start + 5000] for start in range(0, len(body), 5000)]
    return post(app, pieces, "/v1/files", {"content-type": "multipart/form-data; boundary=b"})


def line(custom_id="a", url=CHAT, **body):
    body = body or {"messages": [{"role": "user", "content": f"hello {custom_id}"}]}
    return {"custom_id": custom_id, "method": "POST", "url": url, "body": body}


def jsonl(*lines):
    return b"\n".join(each if isinstance(each, bytes) else json.dumps(each).encode() for each in lines)


async def begun(app, *lines, endpoint=CHAT, **fields):
    """A batch over these lines, as the server answered to its creation."""
    file = (await upload(app, jsonl(*lines)).end()).json
    asked = {"input_file_id": file["id"], "endpoint": endpoint, "completion_window": "24h"} | fields
    return (await post(app, asked, "/v1/batches").end()).json


async def until(app, batch, *statuses):
    """The batch, once it is in one of these states."""
    async with asyncio.timeout(10):
        while (found := (await get(app, f"/v1/batches/{batch['id']}").end()).json)["status"] not in statuses:
            pass
    return found


async def ended(app, *lines, **fields):
    return await until(app, await begun(app, *lines, **fields), "completed", "failed", "expired", "cancelled")


async def rows(app, file_id):
    reply = await get(app, f"/v1/files/{file_id}/content").end()
    return [json.loads(row) for row in reply.body.splitlines()]
