"""A model hub on loopback for tests: real HTTP in both dialects, with faults on demand. Knows nothing of our client."""

from __future__ import annotations

import hashlib
import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit

COMMIT = "0123456789abcdef0123456789abcdef01234567"
MODEL = "Qwen/Tiny-VL"
WEIGHTS = bytes(range(256)) * 1024  # 256 KiB


class FakeHub:
    """What the server holds and the faults it shall show, each consumed once and in order."""

    def __init__(self, files: dict[str, bytes]) -> None:
        self.files = files
        self.large = {name for name in files if name.endswith(".safetensors")}  # listed with SHA-256, as LFS files are
        self.cuts: list[int] = []  # the next file answers stop after so many bytes
        self.refusals: list[tuple[int, dict[str, str]]] = []  # the next answers are these: status, headers
        self.corrupt: list[bytes] = []  # the next file bodies are these instead
        self.sizes: dict[str, Any] = {}  # listed instead of the true size
        self.page_entries = 1000
        self.ignore_ranges = False
        self.cdn: FakeHub | None = None  # file requests are redirected there
        self.asked: list[tuple[str, dict[str, str]]] = []  # every request: path, headers (lower case)
        self.gate: threading.Event | None = None  # file answers wait for it
        self.at_gate = threading.Event()
        self.url = ""

    def ranges(self) -> list[str | None]:
        """The Range header of each request for weights, in order."""
        return [headers.get("range") for path, headers in self.asked if ".safetensors" in path]

    def hugging_face_tree(self) -> list[dict[str, Any]]:
        entries: list[dict[str, Any]] = [{"type": "directory", "path": "onnx", "size": 0, "oid": "0" * 40}]
        for name, data in self.files.items():
            blob = hashlib.sha1(b"blob %d\0" % len(data) + data).hexdigest()
            entry = {"type": "file", "path": name, "size": self.sizes.get(name, len(data)), "oid": blob}
            if name in self.large:
                entry["lfs"] = {"oid": hashlib.sha256(data).hexdigest(), "size": len(data), "pointerSize": 134}
            entries.append(entry)
        return entries

    def model_scope_files(self) -> list[dict[str, Any]]:
        return [{"Path": "onnx", "Type": "tree", "Size": 0}] + [
            {"Path": name, "Type": "blob", "Size": len(data), "Sha256": hashlib.sha256(data).hexdigest()}
            for name, data in self.files.items()
        ]


@contextmanager
def serving(hub: FakeHub) -> Iterator[FakeHub]:
    """Serve `hub` on a free loopback port until the block ends."""

    class Answers(_Answers):
        pass

    Answers.hub = hub
    server = _Server(("127.0.0.1", 0), Answers)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True)
    thread.start()
    hub.url = f"http://127.0.0.1:{server.server_address[1]}"
    try:
        yield hub
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


class _Server(ThreadingHTTPServer):
    daemon_threads = True

    def handle_error(self, *_: object) -> None:
        """A client that leaves early is no news."""


class _Answers(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True  # or each answer waits 40 ms for an acknowledgement
    hub: FakeHub

    def log_message(self, *_: object) -> None:
        pass

    def do_GET(self) -> None:
        hub, parts = self.hub, urlsplit(self.path)
        path, query = unquote(parts.path), parse_qs(parts.query)
        hub.asked.append((self.path, {name.lower(): value for name, value in self.headers.items()}))
        if hub.refusals:
            status, headers = hub.refusals.pop(0)
            self.answer(status, b"<html>refused</html>", headers)
        elif path == f"/api/models/{MODEL}/revision/main":
            self.answer_json({"id": MODEL, "sha": COMMIT})
        elif path == f"/api/models/{MODEL}/tree/{COMMIT}":
            self.tree(int(query.get("cursor", ["0"])[0]))
        elif path.startswith(f"/{MODEL}/resolve/{COMMIT}/"):
            self.file(path.removeprefix(f"/{MODEL}/resolve/{COMMIT}/"))
        elif path == f"/api/v1/models/{MODEL}/repo/files":
            known = query["Revision"] == ["master"]
            self.answer_json({"Code": 200, "Data": {"Files": hub.model_scope_files() if known else None}})
        elif path == f"/api/v1/models/{MODEL}/repo":
            self.file(query["FilePath"][0])
        else:
            self.answer(404, b"<html>not found</html>")

    def tree(self, start: int) -> None:
        hub = self.hub
        entries, end = hub.hugging_face_tree(), start + hub.page_entries
        more = {"Link": f'<https://elsewhere.invalid/tree?cursor={end}>; rel="next"'} if end < len(entries) else {}
        self.answer(200, json.dumps(entries[start:end]).encode(), more)

    def file(self, name: str) -> None:
        hub = self.hub
        if hub.gate:
            hub.at_gate.set()
            hub.gate.wait(10)
        if hub.cdn:
            self.answer(302, b"", {"Location": hub.cdn.url + self.path})
            return
        body = hub.corrupt.pop(0) if hub.corrupt else hub.files[name]
        etag = f'"{hashlib.sha256(body).hexdigest()}"'
        headers, status = {"ETag": etag}, 200
        asked = self.headers.get("Range")
        if asked and not hub.ignore_ranges and self.headers.get("If-Range", etag) == etag:
            start = int(asked.removeprefix("bytes=").removesuffix("-"))
            headers["Content-Range"] = f"bytes {start}-{len(body) - 1}/{len(body)}"
            status, body = 206, body[start:]
        self.answer(status, body, headers, cut=hub.cuts.pop(0) if hub.cuts else None)

    def answer_json(self, value: object) -> None:
        self.answer(200, json.dumps(value).encode(), {"Content-Type": "application/json"})

    def answer(self, status: int, body: bytes, headers: dict[str, str] | None = None, cut: int | None = None) -> None:
        self.send_response(status)
        for name, value in (headers or {}).items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body[:cut])
        self.close_connection = cut is not None
