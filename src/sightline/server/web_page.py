"""Serves the web page as it was built. Knows a folder of files and what browsers may do with them; builds nothing."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from fastapi import Request
from starlette.responses import PlainTextResponse, RedirectResponse, Response
from starlette.staticfiles import StaticFiles

FOLDER = Path(__file__).parents[1] / "web"  # where the build puts it: in a clone, and in the wheel
HASHED = "assets/"  # files under it have a digest of their content in their name
NOT_BUILT = (
    "The web page is not built. In a clone: make web (it needs Node.js 20 or its wheel), then start the server again.\n"
    "The API is here: POST /v1/chat/completions as for OpenAI.\n"
)

# The page loads nothing from elsewhere and has no inline script or style; pictures and videos are also its own blobs.
POLICY = "; ".join(
    (
        "default-src 'none'",
        "script-src 'self'",
        "style-src 'self'",
        "img-src 'self' blob: data:",
        "media-src 'self' blob:",
        "connect-src 'self'",
        "font-src 'self'",
        "worker-src 'self'",
        "manifest-src 'self'",
        "base-uri 'none'",
        "form-action 'none'",
        "frame-ancestors 'none'",
    )
)
HEADERS = {
    "content-security-policy": POLICY,
    "x-content-type-options": "nosniff",
    "referrer-policy": "no-referrer",
    "permissions-policy": "camera=(self), microphone=(), geolocation=()",
    "cross-origin-opener-policy": "same-origin",
}
# Not every system's table of types knows these.
TYPES = {
    ".js": "text/javascript",
    ".mjs": "text/javascript",
    ".webmanifest": "application/manifest+json",
    ".woff2": "font/woff2",
    ".webp": "image/webp",
}
ENCODINGS = {"br": ".br", "gzip": ".gz"}  # the best first


class WebPage:
    """The page of `folder`, under `/` and under `base_path`. What was not there when the server started, is not served.

    Without a page in it, `/` says in a line of text how to get one.
    """

    def __init__(self, base_path: str, folder: Path = FOLDER):
        self._base = base_path
        self._folder = folder
        self._files = StaticFiles(directory=folder, check_dir=False)

    def addresses(self) -> Iterator[str]:
        """The routes to `answer`, without the base path."""
        yield "/"
        for entry in sorted(self._folder.glob("*")):
            if entry.is_dir():
                yield f"/{entry.name}/{{path:path}}"
            elif entry.suffix not in ENCODINGS.values() and entry.name != "index.html":
                yield f"/{entry.name}"

    async def answer(self, request: Request) -> Response:
        """GET and HEAD of the page and its files. Raises HTTPException 404 for a file that is not there."""
        path = request.scope["path"].removeprefix(self._base + "/").removeprefix("/") or "index.html"
        if path == "index.html" and not (self._folder / path).is_file():
            return PlainTextResponse(NOT_BUILT)
        encoding = self._encoding(path, request.headers.get("accept-encoding", ""))
        response = await self._files.get_response(path + ENCODINGS.get(encoding, ""), request.scope)
        response.headers.update(HEADERS)
        response.headers["vary"] = "accept-encoding"
        response.headers["cache-control"] = _caching(path)
        if encoding:
            response.headers["content-encoding"] = encoding
        if (suffix := Path(path).suffix) in TYPES:
            response.headers["content-type"] = TYPES[suffix]
        return response

    def _encoding(self, path: str, accepted: str) -> str:
        """The best encoding the build has made of a file and the browser takes; empty for the file as it is."""
        offers = {offer.partition(";")[0].strip() for offer in accepted.split(",") if ";q=0" not in offer}
        return next((name for name in ENCODINGS if name in offers and self._has(path + ENCODINGS[name])), "")

    def _has(self, path: str) -> bool:
        return self._files.lookup_path(path)[1] is not None


def _caching(path: str) -> str:
    if path.startswith(HASHED):
        return "public, max-age=31536000, immutable"
    return "no-cache" if path == "index.html" else "public, max-age=3600"


async def into_folder(request: Request) -> Response:
    """The base path without its slash: addresses in the page are relative, so it has to be there."""
    return RedirectResponse(request.scope["path"].rsplit("/", 1)[-1] + "/", 308)
