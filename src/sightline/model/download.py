"""Brings a checkpoint from a model hub to this disk: whole and verified, or not at all. Knows nothing of tensors."""

from __future__ import annotations

import email.utils
import errno
import fcntl
import hashlib
import json
import os
import re
import shutil
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Literal, Protocol
from urllib.parse import quote, urlsplit

import httpx2

from sightline import __version__
from sightline.errors import DownloadError

Source = Literal["huggingface", "modelscope"]

MANIFEST = ".sightline.json"
_TRIES = 5  # without progress; the waits between them are 1, 2, 4 and 8 s
_PROGRESS_BYTES = 1 << 20  # a try that brought this much starts the count afresh
_MAX_WAIT_S = 120.0  # a hub that asks for more is not worth waiting for
_TIMEOUT = httpx2.Timeout(30.0, connect=10.0)  # per read: a mirror silent for 30 s is a cut connection
_SPARE_BYTES = 64 << 20  # left free on the disk
_BLOCK = 1 << 20
_WEIGHTS = ".safetensors"
_SUFFIXES = (_WEIGHTS, ".json", ".jinja")
_PAPERS = ("README.md", "LICENSE", "LICENSE.txt", "NOTICE")


@dataclass(frozen=True, slots=True)
class Progress:
    """How far a pull is, in bytes over all its files, and what it does now, for a person to read."""

    text: str
    done: int
    total: int


Report = Callable[[Progress], None]


@dataclass(frozen=True, slots=True)
class RemoteFile:
    """A file as the hub lists it. `sha256` for large files, `git_sha1` (of the git blob) for small ones, or neither."""

    name: str
    size: int
    sha256: str | None = None
    git_sha1: str | None = None


@dataclass(frozen=True, slots=True)
class Listing:
    """The files of one version of a model. `version` names the content, `revision` is what to ask the hub for."""

    version: str
    revision: str
    files: tuple[RemoteFile, ...]


@dataclass(frozen=True, slots=True)
class Downloaded:
    """A pulled model on this disk. `damaged` names the files that are missing or have another size than when pulled."""

    id: str
    source: str
    revision: str
    version: str
    folder: Path
    size_bytes: int
    damaged: tuple[str, ...]


def pull(
    model_id: str,
    *,
    into: Path,
    source: Source = "huggingface",
    revision: str | None = None,
    endpoint: str | None = None,
    token: str | None = None,
    progress: Report = lambda _: None,
    sleep: Callable[[float], None] = time.sleep,
) -> Path:
    """Fetch `model_id` into `into`/<org>--<name>/<version> and return that folder.

    Files arrive as NAME.part in a hidden folder, which gets its name when every file is verified; a pull that was
    cut continues where it stopped. Of two pulls at once the second waits and finds the work done.
    Raises DownloadError saying what to try.
    """
    if not re.fullmatch(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*", model_id) or ".." in model_id:
        raise DownloadError(
            f"{model_id!r} is not a hub id; write it as ORGANISATION/NAME, as Qwen/Qwen3-VL-2B-Instruct"
        )
    hub = _HUBS[source](endpoint)
    revision = revision or hub.default_revision
    if not re.fullmatch(r"[A-Za-z0-9][\w./-]*", revision) or ".." in revision:
        raise DownloadError(f"revision {revision!r} is not a branch, tag or commit name")
    headers = {"User-Agent": f"sightline/{__version__}"} | ({"Authorization": f"Bearer {token}"} if token else {})
    home = into / model_id.replace("/", "--")
    with httpx2.Client(headers=headers, timeout=_TIMEOUT, follow_redirects=True) as client:
        wire = _Wire(client, hub, progress, sleep)
        wire.report(f"asking {hub.host} for {model_id}")
        try:
            listing = hub.listing(wire, model_id, revision)
        except (KeyError, TypeError, ValueError, AttributeError):  # JSON, but not a hub's
            raise _not_a_hub(hub.host) from None
        files = _wanted(listing, model_id)
        try:
            with _alone(home, lambda: wire.report(f"waiting for another pull of {model_id}")):
                folder = home / listing.version
                if folder.exists() and not _damaged(folder):
                    return folder
                staging = _staging(home, listing.version, files)
                _check_space(home, files, staging)
                wire.expect(files)
                for file in files:
                    wire.fetch(hub.file_url(model_id, listing.revision, file.name), file, staging)
                _write_manifest(staging, model_id, source, revision, listing.version, files)
                staging.rename(folder)
                for leftover in home.glob(".*.partial"):  # of versions that were never finished
                    shutil.rmtree(leftover)
                return folder
        except OSError as error:
            raise _disk_error(error, home) from error


def downloaded(models_dir: Path) -> list[Downloaded]:
    """The models pulled into `models_dir`, newest first. Unfinished ones are not among them."""
    found = []
    for path in models_dir.glob(f"*/[!.]*/{MANIFEST}"):
        try:
            manifest = json.loads(path.read_bytes())
            model = Downloaded(
                id=str(manifest["id"]),
                source=str(manifest["source"]),
                revision=str(manifest["revision"]),
                version=str(manifest["version"]),
                folder=path.parent,
                size_bytes=sum(int(file["size"]) for file in manifest["files"]),
                damaged=_damaged(path.parent),
            )
        except (OSError, ValueError, KeyError, TypeError):
            continue  # not written by a pull
        found.append((path.stat().st_mtime, model))
    return [model for _, model in sorted(found, key=lambda entry: entry[0], reverse=True)]


def resolve(model: str, models_dir: Path) -> Path | None:
    """The folder of `model`: a folder's path as it is, or a pulled hub id or its last part, in any case; else None.

    Never asks the network. Of several pulled versions the newest undamaged one.
    """
    folder = Path(model).expanduser()
    if folder.is_dir():
        return folder
    asked = model.casefold()
    for known in downloaded(models_dir):
        if not known.damaged and asked in (known.id.casefold(), known.id.casefold().rpartition("/")[2]):
            return known.folder
    return None


class _Hub(Protocol):
    """What differs between hubs: how files are listed and where they are."""

    default_revision: str
    host: str

    def listing(self, wire: _Wire, model_id: str, revision: str) -> Listing: ...

    def file_url(self, model_id: str, revision: str, name: str) -> str: ...


class HuggingFace:
    """huggingface.co and mirrors of its REST interface."""

    default_revision = "main"

    def __init__(self, endpoint: str | None) -> None:
        self.endpoint, self.host = _endpoint(endpoint or "https://huggingface.co")

    def listing(self, wire: _Wire, model_id: str, revision: str) -> Listing:
        """Top-level files at the commit `revision` means now, so that a push during the pull changes nothing."""
        base = f"{self.endpoint}/api/models/{model_id}"
        commit = wire.ask(f"{base}/revision/{quote(revision, safe='')}", f"{model_id} at {revision}").body["sha"]
        if not re.fullmatch(r"[0-9a-f]{40,64}", commit):
            raise ValueError(f"commit {commit!r}")
        tree = f"{base}/tree/{commit}"
        files: list[RemoteFile] = []
        query = ""
        for _ in range(100):  # 1000 entries a page
            page = wire.ask(tree + query, f"{model_id} at {revision}")
            files += [self._file(entry) for entry in page.body if entry["type"] == "file"]
            if page.next_query is None:
                break
            query = "?" + page.next_query
        return Listing(commit, commit, tuple(files))

    def _file(self, entry: Mapping[str, Any]) -> RemoteFile:
        large = entry.get("lfs") or {}
        sha256 = str(large["oid"]).removeprefix("sha256:") if large else None
        return RemoteFile(_safe_name(entry["path"]), _size(entry["size"]), sha256, None if large else entry.get("oid"))

    def file_url(self, model_id: str, revision: str, name: str) -> str:
        return f"{self.endpoint}/{model_id}/resolve/{revision}/{quote(name)}"


class ModelScope:
    """modelscope.cn. It gives a SHA-256 for every file but no dependable commit: the listing names the version."""

    default_revision = "master"

    def __init__(self, endpoint: str | None) -> None:
        self.endpoint, self.host = _endpoint(endpoint or "https://modelscope.cn")

    def listing(self, wire: _Wire, model_id: str, revision: str) -> Listing:
        url = f"{self.endpoint}/api/v1/models/{model_id}/repo/files?Revision={quote(revision, safe='')}"
        entries = wire.ask(url, f"{model_id} at {revision}").body["Data"]["Files"]
        if entries is None:  # what it answers, with HTTP 200, for a revision it does not know
            raise DownloadError(f"{self.host} has no revision {revision!r} of {model_id}; its main branch is 'master'")
        files = sorted((self._file(e) for e in entries if e["Type"] != "tree"), key=lambda file: file.name)
        content = "\n".join(f"{file.name} {file.size} {file.sha256}" for file in files)
        return Listing(hashlib.sha256(content.encode()).hexdigest()[:40], revision, tuple(files))

    def _file(self, entry: Mapping[str, Any]) -> RemoteFile:
        return RemoteFile(_safe_name(entry["Path"]), _size(entry["Size"]), entry.get("Sha256") or None)

    def file_url(self, model_id: str, revision: str, name: str) -> str:
        query = f"Revision={quote(revision, safe='')}&FilePath={quote(name, safe='')}"
        return f"{self.endpoint}/api/v1/models/{model_id}/repo?{query}"


_HUBS: Mapping[str, Callable[[str | None], _Hub]] = {"huggingface": HuggingFace, "modelscope": ModelScope}


class _TryAgain(Exception):
    """This request failed in a way that may pass.

    `after_s` is the wait the hub asked for; `afresh` says that what is there cannot be continued.
    """

    def __init__(self, why: str, after_s: float | None = None, afresh: bool = False):
        super().__init__(why)
        self.why = why
        self.after_s = after_s
        self.afresh = afresh


@dataclass(frozen=True, slots=True)
class _Page:
    """A JSON answer and, when the listing goes on, the query of its next page."""

    body: Any
    next_query: str | None


class _Wire:
    """One pull's conversation with its hub: tries again with growing waits, continues cut files, reports bytes."""

    def __init__(self, client: httpx2.Client, hub: _Hub, progress: Report, sleep: Callable[[float], None]) -> None:
        self._client = client
        self._hub = hub
        self._progress = progress
        self._sleep = sleep
        self._done = 0  # bytes of the files that are finished
        self._total = 0
        self._failures = 0

    def expect(self, files: tuple[RemoteFile, ...]) -> None:
        self._total = sum(file.size for file in files)

    def report(self, text: str, now: int = 0) -> None:
        self._progress(Progress(text, self._done + now, self._total))

    def ask(self, url: str, what: str) -> _Page:
        """The JSON at `url`; anything that is not the hub's JSON is a DownloadError naming the endpoint."""
        self._failures = 0
        while True:
            try:
                with self._get(url, what, {}) as response:
                    response.read()
                    link = response.links.get("next", {}).get("url")
                    # Only the query is taken: a mirror may point to the original, and the token stays where it is.
                    return _Page(response.json(), urlsplit(link).query if link else None)
            except _TryAgain as failure:
                self._wait(failure)
            except ValueError:
                raise _not_a_hub(self._hub.host) from None

    def fetch(self, url: str, file: RemoteFile, folder: Path) -> None:
        """Leave `file`, verified, in `folder`; what an earlier pull left as NAME.part is continued."""
        target, part = folder / file.name, folder / f"{file.name}.part"
        if not target.exists():  # a file gets its name only when it is verified
            continued = part.exists()
            wrong = self._complete(url, file, part)
            if wrong and continued:  # two versions joined; the second try has only one
                wrong = self._complete(url, file, part)
            if wrong:
                raise DownloadError(
                    f"{file.name} from {self._hub.host} is damaged: {wrong}; it was deleted, pull again or use another "
                    "--source or --endpoint"
                )
            _etag_path(part).unlink(missing_ok=True)
            part.replace(target)
        self._done += file.size
        self.report(file.name)

    def _complete(self, url: str, file: RemoteFile, part: Path) -> str | None:
        """Bring `part` to full length and check it. Returns what is wrong, the part then deleted, or None."""
        part.touch()
        self._failures = 0
        while (have := part.stat().st_size) != file.size:
            try:
                self._receive(url, file, part, have)
            except _TryAgain as failure:
                if part.stat().st_size - have >= _PROGRESS_BYTES:
                    self._failures = 0
                if failure.afresh:
                    os.truncate(part, 0)
                self._wait(failure)
        self.report(f"checking {file.name}", file.size)
        wrong = _mismatch(part, file)
        if wrong:
            part.unlink()
        return wrong

    def _receive(self, url: str, file: RemoteFile, part: Path, have: int) -> None:
        """One request's worth of `file`, appended to `part`, which holds `have` bytes of it."""
        tag = _etag_path(part)
        known = tag.read_text() if tag.exists() else None
        if have > file.size or (have and known is None and not (file.sha256 or file.git_sha1)):
            have = 0  # nothing could tell whether the rest belongs to this beginning
        headers = {"Accept-Encoding": "identity"}
        if have:
            headers |= {"Range": f"bytes={have}-"} | ({"If-Range": known} if known else {})
        with self._get(url, file.name, headers) as response:
            if response.status_code == 206:
                if not response.headers.get("Content-Range", "").startswith(f"bytes {have}-"):
                    raise _TryAgain(f"it answered another range than bytes {have}-", afresh=True)
            else:
                have = 0
                _remember_etag(tag, response.headers.get("ETag"))
            with part.open("ab" if have else "wb") as out:
                for block in response.iter_bytes():
                    have += len(block)
                    if have > file.size:
                        out.truncate(0)
                        raise DownloadError(
                            f"{self._hub.host} sent more than the {file.size} bytes it lists for {file.name}"
                        )
                    out.write(block)
                    self.report(file.name, have)
                out.flush()
                os.fsync(out.fileno())
        if have < file.size:
            raise _TryAgain(f"the connection closed at byte {have} of {file.size}")

    @contextmanager
    def _get(self, url: str, what: str, headers: Mapping[str, str]) -> Iterator[httpx2.Response]:
        """A streamed 200 or 206. Failures that may pass become _TryAgain, the others DownloadError."""
        try:
            with self._client.stream("GET", url, headers=dict(headers)) as response:
                if response.status_code not in (200, 206):
                    self._refused(response, what)
                yield response
        except (httpx2.UnsupportedProtocol, httpx2.InvalidURL, httpx2.TooManyRedirects) as error:
            raise DownloadError(f"{self._hub.host} leads nowhere ({error}); check --endpoint") from None
        except httpx2.RequestError as error:
            raise _TryAgain(str(error) or type(error).__name__) from None

    def _refused(self, response: httpx2.Response, what: str) -> None:
        status, host = response.status_code, self._hub.host
        if status == 416:
            raise _TryAgain("it refuses to continue the file", afresh=True)
        if status in (408, 429) or status >= 500:
            raise _TryAgain(f"HTTP {status}", _retry_after(response.headers.get("Retry-After")))
        if status in (401, 403):
            raise DownloadError(
                f"{host} refuses {what} (HTTP {status}): it is private or gated, or there is no such model; "
                "check the spelling, or give a token that may read it with --token"
            )
        if status == 404:
            raise DownloadError(f"{host} has no {what}; check the spelling, --revision and --source")
        raise DownloadError(f"{host} answers HTTP {status} for {what}; check --endpoint")

    def _wait(self, failure: _TryAgain) -> None:
        self._failures += 1
        delay = 2.0 ** (self._failures - 1) if failure.after_s is None else failure.after_s
        if self._failures >= _TRIES or delay > _MAX_WAIT_S:
            asked = f" and asks to wait {delay:.0f} s" if delay > _MAX_WAIT_S else f", {_TRIES} times in a row"
            raise DownloadError(
                f"cannot download from {self._hub.host}: {failure.why}{asked}; check the network, or use another "
                "--source or a mirror with --endpoint; pulling again continues where this stopped, and a checkpoint "
                "folder on this disk needs no network"
            )
        self.report(f"{failure.why}; trying again in {delay:.0f} s")
        self._sleep(delay)


def _wanted(listing: Listing, model_id: str) -> tuple[RemoteFile, ...]:
    """The files a checkpoint needs: weights and JSON of the top folder; never pickles, other formats, hidden files."""
    names = {file.name for file in listing.files}
    if "config.json" not in names or not any(name.endswith(_WEIGHTS) and "/" not in name for name in names):
        raise DownloadError(
            f"{model_id} is not a checkpoint Sightline can serve: it needs config.json and *.safetensors, "
            f"the hub lists {', '.join(sorted(names)[:8]) or 'nothing'}"
        )
    unneeded = {"vocab.json"} if "tokenizer.json" in names else set()
    extra = set(_PAPERS) | (set() if "tokenizer.json" in names else {"merges.txt"})
    return tuple(
        file
        for file in listing.files
        if "/" not in file.name
        and not file.name.startswith(".")
        and file.name not in unneeded
        and (file.name.endswith(_SUFFIXES) or file.name in extra)
    )


def _size(value: object) -> int:
    if not isinstance(value, int) or value < 0:
        raise ValueError(f"size {value!r}")
    return value


def _safe_name(name: str) -> str:
    """`name` if it stays inside a folder, whatever the system."""
    if not name.isprintable() or "\\" in name or any(part in ("", ".", "..") for part in name.split("/")):
        raise DownloadError(
            f"the hub lists a file named {name!r}, which would leave the model's folder; nothing was pulled"
        )
    return name


@contextmanager
def _alone(home: Path, waiting: Callable[[], None]) -> Iterator[None]:
    """Hold the model's lock; it ends with the process that holds it, so nothing is left behind by a crash."""
    home.mkdir(parents=True, exist_ok=True)
    with (home / ".lock").open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            waiting()
            fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def _staging(home: Path, version: str, files: tuple[RemoteFile, ...]) -> Path:
    """The hidden folder this version grows in. A finished folder that lost files becomes it again."""
    staging, folder = home / f".{version}.partial", home / version
    if folder.exists():
        if staging.exists():
            shutil.rmtree(staging)
        folder.rename(staging)
        sizes = {file.name: file.size for file in files}
        for path in staging.iterdir():
            if path.stat().st_size != sizes.get(path.name):
                path.unlink()
    staging.mkdir(exist_ok=True)
    return staging


def _check_space(home: Path, files: tuple[RemoteFile, ...], staging: Path) -> None:
    have = sum(path.stat().st_size for path in staging.iterdir())
    need, free = sum(file.size for file in files) - have + _SPARE_BYTES, shutil.disk_usage(home).free
    if need > free:
        raise DownloadError(
            f"the disk of {home} has {free / 1e9:.1f} GB free, the pull needs {need / 1e9:.1f} GB more; "
            "free some space or set SIGHTLINE_CACHE_DIR to a larger disk"
        )


def _mismatch(path: Path, file: RemoteFile) -> str | None:
    """What distinguishes `path` from the file the hub lists, or None. Its length is known to be right."""
    if file.sha256:
        found, want, kind = _digest(path, hashlib.sha256()), file.sha256, "SHA-256"
    elif file.git_sha1:
        blob = hashlib.sha1(b"blob %d\0" % file.size, usedforsecurity=False)
        found, want, kind = _digest(path, blob), file.git_sha1, "git SHA-1"
    else:
        return None
    return None if found == want.lower() else f"its {kind} is {found}, the hub lists {want}"


def _digest(path: Path, state: hashlib._Hash) -> str:
    with path.open("rb") as file:
        while block := file.read(_BLOCK):
            state.update(block)
    return state.hexdigest()


def _write_manifest(
    folder: Path, model_id: str, source: str, revision: str, version: str, files: tuple[RemoteFile, ...]
) -> None:
    entries = [
        {"name": f.name, "size": f.size, "sha256": f.sha256 or _digest(folder / f.name, hashlib.sha256())}
        for f in files
    ]
    manifest = {"id": model_id, "source": source, "revision": revision, "version": version, "files": entries}
    with (folder / MANIFEST).open("w", encoding="utf-8") as out:
        json.dump(manifest, out, indent=1)
        out.flush()
        os.fsync(out.fileno())


def _damaged(folder: Path) -> tuple[str, ...]:
    """The names of `folder`'s files that are not there as they were pulled, by size."""
    try:
        entries = json.loads((folder / MANIFEST).read_bytes())["files"]
        sizes = {str(entry["name"]): int(entry["size"]) for entry in entries}
    except (OSError, ValueError, KeyError, TypeError):
        return (MANIFEST,)
    return tuple(n for n, size in sizes.items() if not (folder / n).is_file() or (folder / n).stat().st_size != size)


def _etag_path(part: Path) -> Path:
    return part.with_name(part.name + ".etag")


def _remember_etag(path: Path, etag: str | None) -> None:
    if etag and not etag.startswith("W/"):  # only a strong one may be used to continue a file
        path.write_text(etag)
    else:
        path.unlink(missing_ok=True)


def _retry_after(value: str | None) -> float | None:
    """Seconds from a Retry-After header, which holds seconds or a date."""
    if value is None:
        return None
    try:
        return max(0.0, float(value))
    except ValueError:
        pass
    try:
        return max(0.0, (email.utils.parsedate_to_datetime(value) - datetime.now(UTC)).total_seconds())
    except (ValueError, TypeError):
        return None


def _endpoint(address: str) -> tuple[str, str]:
    """(address without a last slash, its host for messages)."""
    parts = urlsplit(address)
    if parts.scheme not in ("http", "https") or not parts.netloc:
        raise DownloadError(f"endpoint {address!r} is not an address; write it as https://HOST")
    return address.rstrip("/"), parts.netloc.rpartition("@")[2]


def _not_a_hub(host: str) -> DownloadError:
    return DownloadError(
        f"{host} did not answer with a file list; check --endpoint and --source, and that no login page is between"
    )


def _disk_error(error: OSError, home: Path) -> DownloadError:
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return DownloadError(
            f"the disk of {home} is full; free some space, or set SIGHTLINE_CACHE_DIR to a larger disk; "
            "pulling again continues where this stopped"
        )
    return DownloadError(
        f"cannot write to {error.filename or home} ({error.strerror}); set SIGHTLINE_CACHE_DIR to a writable folder"
    )
