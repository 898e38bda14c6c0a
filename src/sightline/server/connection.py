"""Ends connections whose client sends too slowly or in crumbs, and refuses in our words what is no HTTP.

Knows uvicorn's HTTP/1.1 connection; no routes. How slowly a body may come that somebody reads is said in `bodies`.
"""

from __future__ import annotations

import asyncio
import secrets
from typing import Any, cast

import h11
import structlog
from uvicorn.protocols.http.h11_impl import STATUS_PHRASES, H11Protocol

from sightline import wire
from sightline.errors import HeadersTooLarge, InvalidHttp, ReceiveTimeout, SightlineError
from sightline.server.metrics import Metrics

# From the connection, or from the first byte of a later request. Also for what still comes of a body nobody reads.
HEAD_S = 10.0
MAX_CHUNKS = 1 << 16  # of one body: each takes 5 us of the event loop, however little is in it

log = structlog.get_logger()


class Connection(H11Protocol):
    """One connection. It has HEAD_S for each head; one that sends nothing is closed without a word."""

    def __init__(self, *arguments: Any, metrics: Metrics, **named: Any):
        super().__init__(*arguments, **named)
        self.conn = _Reader(h11.SERVER)
        self._metrics = metrics
        self._deadline: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        self._watch()

    def data_received(self, data: bytes) -> None:
        super().data_received(data)
        self._watch()

    def connection_lost(self, exc: Exception | None) -> None:
        self._unwatch()
        super().connection_lost(exc)

    def send_400_response(self, msg: str) -> None:
        """For what h11 does not take. uvicorn's own is plain text, and always 400."""
        self._refuse(cast(_Reader, self.conn).flaw)

    def _watch(self) -> None:
        """Keep a deadline while the client owes a head, or the rest of a body that was answered without being read.

        More bytes do not move it: so they would be sent. Between two requests, uvicorn's keep-alive time is the limit.
        """
        theirs, ours = self.conn.their_state, self.conn.our_state
        if theirs is h11.IDLE or (theirs is h11.SEND_BODY and ours is h11.DONE):
            self._deadline = self._deadline or self.loop.call_later(HEAD_S, self._late)
        else:
            self._unwatch()

    def _unwatch(self) -> None:
        if self._deadline:
            self._deadline.cancel()
            self._deadline = None

    def _late(self) -> None:
        if self.transport.is_closing():
            return
        begun, _ = self.conn.trailing_data
        if begun and self.conn.our_state is h11.IDLE:
            self._refuse(
                ReceiveTimeout(f"the head of the request did not come whole within {HEAD_S:g} s; send it again")
            )
        self.transport.close()

    def _refuse(self, error: SightlineError) -> None:
        """Answer what never became a request of the app, where that is still possible, and close."""
        request_id = "req_" + secrets.token_hex(12)
        if self.conn.our_state in (h11.IDLE, h11.SEND_RESPONSE):
            body = wire.envelope(error).model_dump_json().encode()
            headers = [
                (b"content-type", b"application/json"),
                (b"content-length", b"%d" % len(body)),
                (b"x-request-id", request_id.encode()),
                (b"connection", b"close"),
            ]
            start = h11.Response(status_code=error.status, headers=headers, reason=STATUS_PHRASES[error.status])
            for event in (start, h11.Data(data=body), h11.EndOfMessage()):
                self.transport.write(self.conn.send(event) or b"")
        if self.cycle and not self.cycle.response_complete:  # its body broke off; nobody is left to answer
            self.cycle.disconnected = True
            self.cycle.message_event.set()
        self._metrics.rejected(error.error_code or error.type)
        log.info("refused a connection", id=request_id, status=error.status)
        self.transport.close()


class _Reader(h11.Connection):
    """h11's reader, with a limit on the chunks of a body. `flaw` is why it gave up."""

    def __init__(self, role: type[h11.SERVER]):
        super().__init__(role)
        self.flaw: SightlineError = InvalidHttp(
            "this is not a valid HTTP/1.1 request; send it with an HTTP client library"
        )
        self._in_body = False
        self._chunks = 0

    def next_event(self) -> Any:
        try:
            event = super().next_event()
        except h11.RemoteProtocolError as error:
            if error.error_status_hint == HeadersTooLarge.status and not self._in_body:
                self.flaw = HeadersTooLarge("the head of the request is too long; send fewer or shorter headers")
            raise
        if isinstance(event, (h11.Request, h11.EndOfMessage)):
            self._in_body, self._chunks = isinstance(event, h11.Request), 0
        elif isinstance(event, h11.Data) and event.chunk_end:
            self._chunks += 1
            if self._chunks > MAX_CHUNKS:
                self.flaw = InvalidHttp(f"the body has more than {MAX_CHUNKS} chunks, the limit; send larger ones")
                raise h11.RemoteProtocolError("too many chunks")
        return event
