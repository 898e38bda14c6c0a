"""The web page is served as it was built: nothing else of the disk, and with all that keeps a browser safe."""

import gzip

import pytest

from asgi import Exchange, get, post
from fake_backend import FakeBackend
from sightline.server.app import create_app
from sightline.settings import Settings

pytestmark = pytest.mark.anyio
SCRIPT = b"console.log('hello')" * 100


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "secret.txt").write_text("secret")
    page = tmp_path / "web"
    (page / "assets").mkdir(parents=True)
    (page / "index.html").write_text("<!doctype html><title>Sightline</title>")
    (page / "icon.svg").write_text("<svg/>")
    (page / "assets" / "main-1a2b.js").write_bytes(SCRIPT)
    (page / "assets" / "main-1a2b.js.gz").write_bytes(gzip.compress(SCRIPT))
    (page / "assets" / "font-3c4d.woff2").write_bytes(b"wOF2")
    return page


@pytest.fixture
def app(folder):
    return create_app(FakeBackend(), Settings(base_path="/qwen-vl"), folder)


async def fetch(app, path, **headers):
    headers = {name.replace("_", "-"): value for name, value in headers.items()}
    return await Exchange(app, "GET", path, [b""], headers).begin().end()


@pytest.mark.parametrize("base", ["", "/qwen-vl"])
async def test_the_page_and_its_files_are_there_with_and_without_the_base_path(app, base):
    page = await fetch(app, f"{base}/")
    assert (page.status, page.headers["content-type"]) == (200, "text/html; charset=utf-8")
    assert b"<title>Sightline</title>" in page.body
    assert (await fetch(app, f"{base}/assets/main-1a2b.js")).body == SCRIPT
    assert (await fetch(app, f"{base}/icon.svg")).headers["content-type"] == "image/svg+xml"


async def test_the_base_path_leads_into_the_page(app):
    reply = await fetch(app, "/qwen-vl")
    assert (reply.status, reply.headers["location"]) == (308, "qwen-vl/")


async def test_a_browser_asks_again_for_the_page_and_never_for_what_is_named_by_its_content(app):
    page = await fetch(app, "/")
    assert page.headers["cache-control"] == "no-cache"
    assert (await fetch(app, "/", if_none_match=page.headers["etag"])).status == 304
    script = await fetch(app, "/assets/main-1a2b.js")
    assert script.headers["cache-control"] == "public, max-age=31536000, immutable"


async def test_the_browser_is_told_what_the_page_may_do(app):
    for path in ("/", "/assets/main-1a2b.js"):
        headers = (await fetch(app, path)).headers
        policy = headers["content-security-policy"]
        assert "default-src 'none'" in policy
        assert "script-src 'self';" in policy
        assert "unsafe" not in policy
        assert headers["x-content-type-options"] == "nosniff"
        assert headers["referrer-policy"] == "no-referrer"
        assert "camera=(self)" in headers["permissions-policy"]


async def test_what_the_build_compressed_is_sent_compressed_to_those_who_take_it(app):
    packed = await fetch(app, "/assets/main-1a2b.js", accept_encoding="gzip, deflate, br")
    assert packed.headers["content-encoding"] == "gzip"
    assert packed.headers["content-type"] == "text/javascript"
    assert packed.headers["vary"] == "accept-encoding"
    assert gzip.decompress(packed.body) == SCRIPT
    for refusing in ("", "identity", "gzip;q=0"):
        plain = await fetch(app, "/assets/main-1a2b.js", accept_encoding=refusing)
        assert "content-encoding" not in plain.headers
        assert plain.body == SCRIPT


async def test_fonts_have_their_type(app):
    assert (await fetch(app, "/assets/font-3c4d.woff2")).headers["content-type"] == "font/woff2"


async def test_head_is_answered_without_a_body(app):
    reply = await get(app, "/", "HEAD").end()
    assert (reply.status, reply.body) == (200, b"")
    assert int(reply.headers["content-length"]) > 0


@pytest.mark.parametrize(
    "path",
    [
        "/assets/../../secret.txt",
        "/assets/..%2f..%2fsecret.txt",
        "/assets//etc/passwd",
        "/assets/",
        "/assets/none.js",
        "/assets/\0",
        "/assets/" + "a" * 5000,
        "/secret.txt",
        "/index.htm",
        "/none",
    ],
)
async def test_nothing_else_of_the_disk_is_there(app, path):
    reply = await fetch(app, path)
    assert (reply.status, reply.error["code"]) == (404, "not_found")


async def test_a_link_out_of_the_folder_is_not_followed(folder):
    (folder / "assets" / "way-out.txt").symlink_to(folder.parent / "secret.txt")
    app = create_app(FakeBackend(), Settings(), folder)
    assert (await fetch(app, "/assets/way-out.txt")).status == 404


async def test_the_page_takes_nothing_away_from_the_api(app):
    assert (await get(app, "/v1/chat/completions").end()).status == 405
    assert (await post(app, {}, "/").end()).status == 405
    assert (await get(app, "/health").end()).json == {"status": "healthy"}


async def test_without_a_built_page_one_line_says_how_to_build_it(tmp_path):
    app = create_app(FakeBackend(), Settings(), tmp_path / "web")
    reply = await fetch(app, "/")
    assert (reply.status, reply.headers["content-type"]) == (200, "text/plain; charset=utf-8")
    assert b"make web" in reply.body
    assert b"/v1/chat/completions" in reply.body
