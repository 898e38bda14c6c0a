"""Rows H: requests that bend HTTP, against a live server."""

from __future__ import annotations

import contextlib
import json
import resource
import socket

import httpx2
import pytest

from faults.conftest import CHAT, MAX_BODY, says

BODY = json.dumps(says("hello")).encode()
IDLE = 2000
FULL = BODY + b" " * (MAX_BODY - len(BODY))
JSON = b"Content-Type: application/json"


def head(*lines: bytes, target: bytes = CHAT.encode(), host: bytes | None = b"x", method: bytes = b"POST") -> bytes:
    hosts = () if host is None else (b"Host: " + host,)
    return b"\r\n".join([method + b" " + target + b" HTTP/1.1", *hosts, b"Connection: close", *lines, b"", b""])


def sized(body: bytes = BODY) -> bytes:
    return b"Content-Length: %d" % len(body)


def status(said: bytes) -> int:
    return int(said.split(b" ", 2)[1])


@pytest.mark.row("H01")
def test_a_body_of_the_limit_is_read_and_one_byte_more_is_not(walk):
    assert walk.post(FULL).status_code == 200
    reply = walk.post(FULL + b" ")
    assert (reply.status_code, reply.json()["error"]["code"]) == (413, "content_too_large")
    said = walk.raw(head(JSON, sized(FULL + b" ")))  # and no body at all
    assert status(said) == 413


@pytest.mark.row("H02")
def test_a_chunked_body_is_read_up_to_the_limit(walk):
    chunk = b"%x\r\n" % (1 << 20) + bytes(1 << 20) + b"\r\n"
    said = walk.raw(head(JSON, b"Transfer-Encoding: chunked"), *[chunk] * 20, b"0\r\n\r\n")
    assert said == b"" or status(said) == 413  # nothing when the connection was reset while we wrote


@pytest.mark.row("H03", "H04", "H06")
@pytest.mark.parametrize(
    "lines",
    [
        (b"Content-Length: ten",),
        (b"Content-Length: ",),
        (b"Content-Length: -1",),
        (b"Content-Length: 5", b"Content-Length: 6"),
        (b"Transfer-Encoding: xchunked",),
        (b"Transfer-Encoding: chunked, identity",),
        (b"Bad Header: x",),
        (b"X: a\0b",),
    ],
)
def test_a_broken_head_is_refused_and_the_connection_closed(walk, lines):
    assert status(walk.raw(head(JSON, *lines) + BODY)) in (400, 501)


@pytest.mark.row("H04")
def test_a_request_hidden_behind_another_is_not_served(walk):
    hidden = b"GET /v1/models HTTP/1.1\r\nHost: x\r\n\r\n"
    said = walk.raw(head(JSON, b"Content-Length: 4", b"Transfer-Encoding: chunked") + b"0\r\n\r\n" + hidden)
    assert said.count(b"HTTP/1.1") == 1
    assert b"sightline-demo" not in said


@pytest.mark.row("H06")
@pytest.mark.parametrize("chunk", [b"xyz\r\n", b"f" * 21 + b"\r\n", b"5;" + b"x" * (1 << 20) + b"\r\nhello\r\n"])
def test_a_broken_chunk_is_refused(walk, chunk):
    said = walk.raw(head(JSON, b"Transfer-Encoding: chunked"), chunk)
    assert said == b"" or status(said) == 400


@pytest.mark.row("H05")
@pytest.mark.parametrize("count", [65_537, 1_000_000])
def test_a_body_in_a_million_crumbs_is_not_read_to_its_end(walk, count):
    said = walk.raw(head(JSON, b"Transfer-Encoding: chunked"), b"1\r\n \r\n" * count)
    assert said == b"" or status(said) == 400


@pytest.mark.row("H07")
@pytest.mark.parametrize(
    "lines",
    [[b"X: " + b"y" * 200_000], [b"X%d: y" % i for i in range(1000)], [b"X%d: " % i + b"y" * 500 for i in range(150)]],
    ids=["one of 200 kB", "a thousand", "150 of 500 bytes"],
)
def test_headers_without_measure_are_refused(walk, lines):
    said = walk.raw(head(*lines, target=b"/health", method=b"GET"))
    assert said == b"" or status(said) in (400, 431)


@pytest.mark.row("H10")
def test_two_thousand_idle_connections_keep_nobody_out(walk):
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if hard != resource.RLIM_INFINITY and hard < 2 * IDLE:
        pytest.skip(f"this machine allows {hard} open files")
    resource.setrlimit(resource.RLIMIT_NOFILE, (max(soft, 2 * IDLE), hard))
    address = httpx2.URL(walk.server.url)
    with contextlib.ExitStack() as idle:
        for _ in range(IDLE):
            idle.enter_context(socket.create_connection((address.host, address.port)))
        assert walk.post(BODY).status_code == 200


@pytest.mark.row("H11", "Q04")
@pytest.mark.parametrize("sent", [b"", BODY[:10]])
def test_a_client_that_leaves_in_the_middle_leaves_nothing(walk, sent):
    address = httpx2.URL(walk.server.url)
    for _ in range(20):
        with socket.create_connection((address.host, address.port)) as connection:
            connection.sendall(head(JSON, sized()) + sent)


@pytest.mark.row("H12")
def test_a_body_over_the_limit_is_never_asked_for(walk):
    said = walk.raw(head(JSON, sized(FULL + b" "), b"Expect: 100-continue"))
    assert status(said) == 413
    assert b"100 Continue" not in said


@pytest.mark.row("H13", "H14")
@pytest.mark.parametrize(
    "lines",
    [
        (JSON, b"Content-Encoding: gzip"),
        (JSON, b"Content-Encoding: br"),
        (b"Content-Type: text/plain",),
        (b"Content-Type: application/x-www-form-urlencoded",),
        (),
    ],
)
def test_another_coding_or_kind_of_body_is_refused(walk, lines):
    assert status(walk.raw(head(*lines, sized()) + BODY)) == 415


@pytest.mark.row("H16")
@pytest.mark.parametrize("method", [b"GET", b"PUT", b"DELETE", b"PATCH", b"TRACE", b"OPTIONS", b"NONSENSE"])
def test_a_wrong_method_is_told_the_right_one(walk, method):
    said = walk.raw(head(method=method))
    assert status(said) == 405
    assert b"allow: POST" in said


@pytest.mark.row("H17")
def test_ranges_are_not_worked_through(walk):
    ranges = b"Range: bytes=" + b",".join(b"%d-%d" % (i, i) for i in range(5000))
    assert status(walk.raw(head(ranges, target=b"/health", method=b"GET"))) in (200, 416)


@pytest.mark.row("H18")
@pytest.mark.parametrize(
    "target", [b"//v1/models", b"/v1/../admin", b"/%2e%2e/x", b"/%00", b"/v1/models;x", b"/" + b"a" * 60_000]
)
def test_an_odd_path_is_not_found(walk, target):
    assert status(walk.raw(head(target=target, method=b"GET"))) in (400, 404, 414)


@pytest.mark.row("H19")
@pytest.mark.parametrize("host", [b"x/?", b"x/#", b"x@y", None])
def test_an_odd_host_changes_nothing(walk, host):
    assert status(walk.raw(head(target=b"/health", host=host, method=b"GET"))) in (200, 400)


@pytest.mark.row("H19")
def test_two_hosts_or_an_absolute_address_change_nothing(walk):
    assert status(walk.raw(head(b"Host: y", target=b"/health", method=b"GET"))) in (200, 400)
    assert status(walk.raw(head(target=b"http://127.0.0.1:1/health", method=b"GET"))) in (200, 400, 404)


@pytest.mark.row("H20")
def test_requests_written_at_once_are_answered_in_order(walk):
    one = b"GET /health HTTP/1.1\r\nHost: x\r\n\r\n"
    said = walk.raw(one * 49 + head(target=b"/version", method=b"GET"))
    assert said.count(b"HTTP/1.1 200") == 50
    assert said.rstrip().endswith(b'"}')
    assert b'"version"' in said.rpartition(b"\r\n\r\n")[2]


@pytest.mark.row("H22")
def test_what_a_client_says_of_itself_is_neither_believed_nor_logged(walk):
    lines = [b"X-Forwarded-For: 203.0.113.7", b"X-Forwarded-Proto: https", b"X-Forwarded-Host: evil.example"]
    more = (b"X-Request-Id: mine", b"X-Real-IP: 203.0.113.7")
    said = walk.raw(head(*lines, *more, target=b"/openapi.json", method=b"GET"))
    assert status(said) == 200
    logged = "".join(walk.server.lines).encode()
    for forged in (b"203.0.113.7", b"evil.example", b": mine"):
        assert forged not in said
        assert forged not in logged


@pytest.mark.row("H21")
@pytest.mark.parametrize(
    "upgrade", [(b"Upgrade: websocket", b"Sec-WebSocket-Key: AAAA"), (b"Upgrade: h2c", b"HTTP2-Settings: AA")]
)
def test_an_upgrade_is_not_taken(walk, upgrade):
    lines = (b"Connection: Upgrade", *upgrade)
    assert status(walk.raw(head(*lines, target=b"/health", method=b"GET"))) in (200, 400, 404, 426)
