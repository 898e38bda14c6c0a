"""Gives a request its media: decoded from base64, or fetched where the operator allows it. Knows no formats."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from typing import TypeVar

from sightline.errors import InvalidRequest
from sightline.media.fetch import Fetcher, Room
from sightline.server.inline import Read, inline_bytes, is_address
from sightline.settings import MIB, Settings
from sightline.types import Medium

T = TypeVar("T")


class Sources:
    """Where the bytes of a request's media come from. `fetcher` is given by tests."""

    def __init__(self, settings: Settings, fetcher: Fetcher | None = None):
        media = settings.media
        self._fetcher = fetcher or Fetcher(media)
        self._most = media.max_images
        self._total_bytes = int(settings.max_body_mb * MIB)
        self._limits: Mapping[Medium, int] = {
            "image": media.max_image_bytes,
            "video": media.max_video_bytes,
            "document": media.max_document_bytes,
        }

    async def of(self, translate: Callable[[Read], T]) -> T:
        """What `translate` makes of a request, given what reads its media. Cancelling ends all fetches.

        It runs once to see which addresses there are and whether all else is right, and once more when all of them
        have been fetched, each once. So it must not care what the bytes are. Raises what it raises, and what
        Fetcher.fetch does.
        """
        wanted: dict[tuple[str, Medium], str] = {}

        def noted(text: str, param: str, medium: Medium = "image") -> bytes:
            if not self._fetcher.enabled or not is_address(text):
                return inline_bytes(text, param, medium)
            self._fetcher.check(text, param, medium)
            wanted.setdefault((text, medium), param)
            return b""

        asked = translate(noted)
        if not wanted:
            return asked
        fetched = await self._fetch(wanted)

        def given(text: str, param: str, medium: Medium = "image") -> bytes:
            return fetched[text, medium] if is_address(text) else inline_bytes(text, param, medium)

        return translate(given)

    async def _fetch(self, wanted: Mapping[tuple[str, Medium], str]) -> dict[tuple[str, Medium], bytes]:
        if len(wanted) > self._most:
            raise InvalidRequest(
                f"the request has {len(wanted)} addresses of media, the limit is {self._most}; send fewer",
                param=next(iter(wanted.values())),
                code="too_many_images",
            )
        room = Room(self._total_bytes)
        fetching = [
            asyncio.ensure_future(self._fetcher.fetch(text, param, medium, self._limits[medium], room))
            for (text, medium), param in wanted.items()
        ]
        try:
            return dict(zip(wanted, await asyncio.gather(*fetching), strict=True))
        except BaseException:
            for fetch in fetching:
                fetch.cancel()
            await asyncio.gather(*fetching, return_exceptions=True)  # their connections are closed before we go on
            raise
