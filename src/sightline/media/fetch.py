"""Fetches media from the hosts an operator allows, and never from an address inside a network. Knows no formats.

Whoever names an address in a request makes this server ask for it, so the address must not lead to what only this
server can reach. One parse decides and dials; the name is resolved once, and the very address that was checked is
dialled. There is no client here, only its transport: a client would bring redirects, cookies, passwords from .netrc
and the proxies of the environment.
"""

from __future__ import annotations

import asyncio
import re
import socket
import ssl
from collections.abc import Awaitable, Callable, Mapping, Sequence
from functools import cached_property
from ipaddress import IPv4Address, IPv6Address, ip_address, ip_network
from typing import Final

import httpx2

from sightline import __version__
from sightline.errors import (
    ContentTooLarge,
    DocumentTooLarge,
    ImageTooLarge,
    InvalidMediaUrl,
    InvalidRequest,
    MediaUnreachable,
    VideoTooLarge,
)
from sightline.settings import MediaSettings
from sightline.types import Medium

Address = IPv4Address | IPv6Address
Resolve = Callable[[str, int], Awaitable[Sequence[Address]]]

PORTS: Final = {"http": 80, "https": 443}
CONNECT_S: Final = 5.0  # for each of a host's addresses
PAGES: Final = ("text/html", "application/xhtml+xml", "application/json", "text/xml", "application/xml")
HOST_NAME: Final = re.compile(r"(?=.{1,253}$)[a-z0-9_-]+(\.[a-z0-9_-]+)*")
UNPRINTABLE: Final = re.compile(r"[\x00-\x20\x7f\\]")
TOO_LARGE: Final[Mapping[Medium, type[InvalidRequest]]] = {
    "image": ImageTooLarge,
    "video": VideoTooLarge,
    "document": DocumentTooLarge,
}

# Beyond what `is_global` of the standard library excludes, which differs between its versions.
NOT_PUBLIC: Final = tuple(
    map(
        ip_network,
        (
            "100.64.0.0/10",  # carriers' own networks; clouds keep metadata there too
            "168.63.129.16/32",  # Azure's own services inside its virtual networks
            "192.0.0.0/24",
            "192.88.99.0/24",  # 6to4 relays
            "224.0.0.0/3",  # multicast, reserved, broadcast
            "2001::/23",  # Teredo and other carriers of IPv4
            "2001:db8::/32",
            "2002::/16",  # 6to4
            "3fff::/20",
        ),
    )
)
# All that is assigned for public use. The NAT64 prefix, mapped IPv4 and the rest of embedded addresses lie outside.
PUBLIC_IPV6: Final = ip_network("2000::/3")


def is_public(address: Address) -> bool:
    """Whether anyone on the internet could reach this address, and not only we."""
    if address.version == 6 and address not in PUBLIC_IPV6:
        return False
    return address.is_global and not any(address in network for network in NOT_PUBLIC)


async def resolve(host: str, port: int) -> Sequence[Address]:
    """All addresses of a host, best first. Raises OSError or UnicodeError."""
    found = await asyncio.get_running_loop().getaddrinfo(host, port, type=socket.SOCK_STREAM)
    return [ip_address(str(place[0]).partition("%")[0]) for *_, place in found]


class Room:
    """How many bytes a whole request may still fetch."""

    def __init__(self, limit: int):
        self.limit = limit
        self.left = limit


class Fetcher:
    """Fetches from `settings.hosts`, at most `settings.fetches` at once over all requests.

    `resolve` and `reachable` (whether an address may be dialled) are given by tests, which have only loopback; there
    is no setting for either.
    """

    def __init__(
        self,
        settings: MediaSettings,
        *,
        resolve: Resolve = resolve,
        reachable: Callable[[Address], bool] = is_public,
        tls: ssl.SSLContext | None = None,
    ):
        self._settings = settings
        self._resolve = resolve
        self._reachable = reachable
        self._given_tls = tls
        self._slots = asyncio.Semaphore(settings.fetches)

    @cached_property
    def _tls(self) -> ssl.SSLContext:
        return self._given_tls or httpx2.create_ssl_context()

    @property
    def enabled(self) -> bool:
        return bool(self._settings.hosts)

    def check(self, text: str, param: str, medium: Medium) -> None:
        """Raises InvalidMediaUrl for an address that would not be asked. Looks nothing up."""
        self._parsed(text, param, medium)

    async def fetch(self, text: str, param: str, medium: Medium, limit: int, room: Room) -> bytes:
        """What is at the address, at most `limit` bytes. Cancelling closes the connection.

        Raises InvalidMediaUrl when it is not asked, MediaUnreachable when it does not give its medium whole and in
        time, the medium's own error past `limit`, ContentTooLarge when there is no more `room`.
        """
        url = self._parsed(text, param, medium)
        timeout_s = self._settings.fetch_s
        async with self._slots:
            try:
                async with asyncio.timeout(timeout_s):
                    return await self._dial(url, _Fetch(_host(url), param, medium, limit, room))
            except TimeoutError:
                reason = f"did not send it within {timeout_s:g} s, the limit"
                raise _unreachable(_host(url), reason, param, medium) from None

    def _parsed(self, text: str, param: str, medium: Medium) -> httpx2.URL:
        def refused(reason: str) -> InvalidMediaUrl:
            return InvalidMediaUrl(
                f"{param}: {reason}; or send the {medium} itself, as base64", param=param, code=f"invalid_{medium}_url"
            )

        text = text.strip()
        if UNPRINTABLE.search(text):
            raise refused("the address has a space, a backslash or a control character in it; write them as %20")
        try:
            url = httpx2.URL(text)
        except httpx2.InvalidURL:
            raise refused("this is not a web address; send one like https://example.com/a.jpg") from None
        if url.scheme not in PORTS:
            raise refused(f"addresses of the kind {url.scheme[:20]!r} are not fetched; send http or https")
        if url.userinfo:
            raise refused("the address has a user name or password in it; send one without")
        host, port = _host(url), _port(url)
        if not HOST_NAME.fullmatch(host) or not self._listed(host, port):
            shown = host[:80] if port in PORTS.values() else f"{host[:80]}:{port}"
            way_out = "ask its operator to list it in SIGHTLINE_MEDIA_HOSTS"
            raise refused(f"this server does not fetch from {shown!r}; {way_out}")
        return url

    def _listed(self, host: str, port: int) -> bool:
        for entry in self._settings.hosts:
            name, _, only = entry.partition(":")
            if port not in ((int(only),) if only else PORTS.values()):
                continue
            if host == name or (name.startswith("*.") and host.endswith(name[1:])):
                return True
        return False

    async def _dial(self, url: httpx2.URL, fetch: _Fetch) -> bytes:
        """Resolve once, check every address, and ask the first that answers."""
        try:
            addresses = await self._resolve(fetch.host, _port(url))
        except (OSError, UnicodeError):
            raise fetch.failed("is a name that cannot be resolved") from None
        if not addresses or not all(map(self._reachable, addresses)):
            raise InvalidMediaUrl(
                f"{fetch.param}: {fetch.host!r} leads to an address that is not on the public internet, which is "
                f"never asked; send the {fetch.medium} itself, as base64",
                param=fetch.param,
                code=f"invalid_{fetch.medium}_url",
            )
        for address in addresses:
            try:
                return await self._get(url, address, fetch)
            except (httpx2.ConnectError, httpx2.ConnectTimeout):
                continue
            except httpx2.HTTPError:
                raise fetch.failed("broke off its answer, or gave one that is not HTTP") from None
        raise fetch.failed("could not be connected to, or has no valid certificate")

    async def _get(self, url: httpx2.URL, address: Address, fetch: _Fetch) -> bytes:
        settings = self._settings
        request = httpx2.Request(
            "GET",
            url.copy_with(host=str(address)),
            headers={
                "host": url.netloc.decode("ascii"),
                "user-agent": f"sightline/{__version__}",
                "accept-encoding": "identity",  # nothing to inflate, so nothing that inflates without end
            },
            extensions={
                "sni_hostname": fetch.host,  # the name that the certificate must be for
                "timeout": {"connect": CONNECT_S, "read": settings.fetch_s, "write": CONNECT_S, "pool": CONNECT_S},
            },
        )
        async with httpx2.AsyncHTTPTransport(verify=self._tls, trust_env=False) as transport:
            response = await transport.handle_async_request(request)
            try:
                return await fetch.read(response)
            finally:
                await response.aclose()


class _Fetch:
    """One medium on its way: what is asked for, and how much of it may come."""

    def __init__(self, host: str, param: str, medium: Medium, limit: int, room: Room):
        self.host = host
        self.param = param
        self.medium = medium
        self.limit = limit
        self.room = room

    def failed(self, reason: str) -> MediaUnreachable:
        return _unreachable(self.host, reason, self.param, self.medium)

    async def read(self, response: httpx2.Response) -> bytes:
        self._check(response)
        data = bytearray()
        async for chunk in response.aiter_raw():
            data += chunk
            self.room.left -= len(chunk)
            if len(data) > self.limit:
                raise self._too_large(f"more than {self.limit}")
            if self.room.left < 0:
                raise ContentTooLarge(
                    f"the media of the request have more than {self.room.limit} bytes together, the limit; send fewer",
                    param=self.param,
                )
        if not data:
            raise self.failed("answered with nothing, 0 bytes")
        return bytes(data)

    def _check(self, response: httpx2.Response) -> None:
        """What the headers already tell. Raises before a byte of the body is read."""
        status, headers = response.status_code, response.headers
        if 300 <= status < 400:
            raise self.failed(f"answered with {status}; redirects are not followed, send the address they lead to")
        if status != 200:
            raise self.failed(f"answered with {status}, not with the {self.medium}")
        coding = headers.get("content-encoding", "identity").strip().lower()
        if coding != "identity":
            raise self.failed("sent it compressed though asked not to")
        kind = headers.get("content-type", "").partition(";")[0].strip().lower()
        if kind in PAGES:
            raise self.failed(f"answered with {kind}, maybe an error page, not with the {self.medium}")
        declared = headers.get("content-length", "")
        if declared.isdecimal() and int(declared) > self.limit:
            raise self._too_large(declared[:20])

    def _too_large(self, size: str) -> InvalidRequest:
        return TOO_LARGE[self.medium](
            f"{self.medium} is {size} bytes, the limit is {self.limit} ({self.limit / (1 << 20):g} MiB); "
            f"send a smaller one ({self.param})",
            param=self.param,
        )


def _host(url: httpx2.URL) -> str:
    """In ASCII, as it is resolved; `url.host` would show an international name in its own letters."""
    return url.raw_host.decode("ascii")


def _port(url: httpx2.URL) -> int:
    return PORTS[url.scheme] if url.port is None else url.port


def _unreachable(host: str, reason: str, param: str, medium: Medium) -> MediaUnreachable:
    return MediaUnreachable(
        f"{param}: {host[:80]!r} {reason}; or send the {medium} itself, as base64",
        param=param,
        code=f"failed_to_download_{medium}",
    )
