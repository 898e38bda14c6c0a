"""The routes of the server, and who may ask while the model loads or the server stops. Knows one backend, no engine."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from functools import partial
from typing import Any

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException
from starlette.responses import JSONResponse, PlainTextResponse, Response

from sightline import __version__, wire, wire_tasks
from sightline.backends import Backend
from sightline.errors import (
    InternalError,
    InvalidRequest,
    MethodNotAllowed,
    ModelLoading,
    ModelNotFound,
    NotFound,
    ShuttingDown,
    SightlineError,
    Unavailable,
)
from sightline.server import bodies, infer, openai
from sightline.server.answers import close_answers, collect, open_answers, while_connected
from sightline.server.edge import Edge
from sightline.server.form import chat_body, read_form
from sightline.server.refusals import refusal
from sightline.server.sse import EventStream, chat_events
from sightline.settings import MIB, Settings
from sightline.tasks.answering import Reading
from sightline.types import Conversation, Sampling

WELCOME = f"Sightline {__version__} answers questions about pictures. POST /v1/chat/completions as for OpenAI.\n"


def create_app(backend: Backend, settings: Settings) -> FastAPI:
    """The server for one backend. Its lifespan starts and closes the backend; `app.state.service` knows its state."""
    service = Service(backend, settings)

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        await backend.start()
        yield
        await backend.close(0)

    app = FastAPI(title="Sightline", lifespan=lifespan, openapi_url=None, redirect_slashes=False)
    app.state.service = service
    app.add_middleware(Edge)
    for kind in (SightlineError, HTTPException, RequestValidationError):
        app.add_exception_handler(kind, _refuse)
    routes: dict[str, tuple[str, Any]] = {
        "/": ("GET", welcome),
        "/health": ("GET", service.health),
        "/healthz": ("GET", service.alive),
        "/readyz": ("GET", service.health),
        "/version": ("GET", service.version),
        "/v1/models": ("GET", service.models),
        "/v1/models/{name:path}": ("GET", service.model),
        "/v1/chat/completions": ("POST", service.chat),
        "/v1/estimate": ("POST", service.estimate),
        "/infer": ("POST", service.infer),
        "/infer_stream": ("POST", service.infer_stream),
        "/v1/infer": ("POST", service.infer),
        "/v1/infer_stream": ("POST", service.infer_stream),
        "/v1/completions": ("POST", unsupported),
        "/v1/embeddings": ("POST", unsupported),
    }
    for base in dict.fromkeys(("", settings.base_path)):  # probes and proxies that strip it find the routes without it
        for path, (method, endpoint) in routes.items():
            app.add_api_route(base + path, endpoint, methods=[method], response_model=None)
    return app


class Service:
    """The endpoints, around one backend. `draining` refuses new questions while running ones finish."""

    def __init__(self, backend: Backend, settings: Settings):
        self.backend = backend
        self.settings = settings
        self.draining = False

    async def health(self) -> Response:
        """GET /health, /readyz: 200 when a question would be answered."""
        states = {"ready": "healthy", "loading": "loading", "failed": "unhealthy"}
        status = "draining" if self.draining else states[self.backend.state]
        return JSONResponse({"status": status}, 200 if status == "healthy" else 503)

    async def alive(self) -> Response:
        """GET /healthz: 200 as long as the process answers at all."""
        return JSONResponse({"status": "alive"})

    async def version(self) -> Response:
        return JSONResponse({"version": __version__})

    async def models(self) -> Response:
        return _json(wire.ModelList(object="list", data=(self._model(),)))

    async def model(self, name: str) -> Response:
        self._check_model(name)
        return _json(self._model())

    async def chat(self, request: Request) -> Response:
        """POST /v1/chat/completions."""
        started = time.perf_counter()
        asked, conversation, samplings = await self._question(request)
        request_id: str = request.state.request_id
        opening = open_answers(self.backend, conversation, samplings, request_id)
        answers = await while_connected(request.receive, opening)
        caption = openai.Caption(
            request_id, self.backend.model_id, int(time.time()), answers[0].pictures, answers[0].dropped_turns
        )
        tools = bool(conversation.tools)
        if asked.stream:
            include_usage = bool(asked.stream_options and asked.stream_options.include_usage)
            events = chat_events(caption, answers, tools=tools, include_usage=include_usage, started=started)
            return EventStream(events, request_id=request_id, cleanup=partial(close_answers, answers))
        try:
            outcomes = await while_connected(request.receive, collect(answers))
        finally:
            await close_answers(answers)
        total_ms = (time.perf_counter() - started) * 1000
        return _json(openai.completion(caption, outcomes, total_ms, tools=tools, logprobs=bool(asked.logprobs)))

    async def estimate(self, request: Request) -> Response:
        """POST /v1/estimate: what a chat request would take, without answering it."""
        _, conversation, (sampling, *_) = await self._question(request)
        found = await while_connected(request.receive, self.backend.estimate(conversation, sampling))
        return _json(openai.estimate(self.backend.model_id, found, sampling.max_tokens))

    async def infer(self, request: Request) -> Response:
        """POST /infer: one task about pictures, streamed when its options say so."""
        return await self._infer(request, stream=False)

    async def infer_stream(self, request: Request) -> Response:
        """POST /infer_stream: the same, always streamed."""
        return await self._infer(request, stream=True)

    async def _infer(self, request: Request, *, stream: bool) -> Response:
        started = time.perf_counter()
        self._admit()
        bodies.content_kind(request, bodies.JSON)
        raw = await bodies.whole(request, int(self.settings.max_body_mb * MIB))
        asked = wire_tasks.parse_task(wire.read_json(raw))
        task, conversation, sampling = infer.question(asked, self.backend.defaults)
        request.state.pictures = openai.picture_bytes(conversation)
        request_id: str = request.state.request_id
        opening = open_answers(self.backend, conversation, (sampling,), request_id)
        answers = await while_connected(request.receive, opening)
        reading, cleanup = Reading(task, answers[0]), partial(close_answers, answers)
        if stream or (asked.options and asked.options.stream):
            events = infer.events(reading, started)
            return EventStream(events, request_id=request_id, cleanup=cleanup, error_event=infer.error_event)
        try:
            result = await while_connected(request.receive, reading.whole())
        finally:
            await cleanup()
        return _json(infer.reply(request_id, task, result, started))

    async def _question(self, request: Request) -> tuple[wire.ChatRequest, Conversation, tuple[Sampling, ...]]:
        """What is asked, as sent and as our values; raises for whatever keeps it from being asked."""
        self._admit()
        asked, pictures = await self._read(request)
        self._check_model(asked.model)
        samplings = openai.samplings(asked, self.backend.defaults)
        conversation = openai.conversation(asked, pictures)
        request.state.pictures = openai.picture_bytes(conversation)
        return asked, conversation, samplings

    async def _read(self, request: Request) -> tuple[wire.ChatRequest, tuple[bytes, ...]]:
        """The request, from JSON or from a form, and the pictures of the form."""
        limit = int(self.settings.max_body_mb * MIB)
        if bodies.content_kind(request, bodies.JSON, bodies.FORM) == bodies.JSON:
            return wire.parse_chat(wire.read_json(await bodies.whole(request, limit))), ()
        parts = await read_form(bodies.chunks(request, limit), request.headers["content-type"])
        body, pictures = chat_body(parts)
        return wire.parse_chat(body), pictures

    def _admit(self) -> None:
        if self.draining:
            raise ShuttingDown("the server is stopping; ask again in a moment, another one may answer")
        if self.backend.state == "loading":
            raise ModelLoading(f"model '{self.backend.model_id}' is still loading; ask again in a moment")
        if self.backend.state == "failed":
            raise Unavailable("the model is not available; the server's log says why", code="engine_unavailable")

    def _check_model(self, name: str | None) -> None:
        served = self.backend.model_id, *self.backend.aliases
        if name is not None and name.lower() not in [known.lower() for known in served]:
            raise ModelNotFound(
                f"model {wire.shown(name)} is not served here; '{self.backend.model_id}' is", param="model"
            )

    def _model(self) -> wire.Model:
        return wire.Model(
            id=self.backend.model_id,
            object="model",
            created=self.backend.created,
            owned_by="sightline",
            max_model_len=self.backend.max_context,
        )


async def welcome() -> Response:
    """GET /: the web page has its place here."""
    return PlainTextResponse(WELCOME)


async def unsupported(request: Request) -> Response:
    """The OpenAI routes for models that are not of our kind."""
    raise NotFound(
        f"{request.url.path} is unsupported: the model here answers chats; use /v1/chat/completions", code="unsupported"
    )


async def _refuse(request: Request, error: Exception) -> Response:
    headers = None
    if isinstance(error, HTTPException):
        headers, error = error.headers, _from_framework(request, error)
    elif isinstance(error, RequestValidationError):
        error = InvalidRequest("a parameter of the address or a header cannot be used")
    return refusal(error, request.scope, headers)


def _from_framework(request: Request, error: HTTPException) -> SightlineError:
    where = f"{request.method} {wire.shown(request.url.path)}"
    if error.status_code == 404:
        return NotFound(f"{where} is not an address of this server; see /v1/models, /v1/chat/completions and /infer")
    if error.status_code == 405:
        allowed = (error.headers or {}).get("Allow", "another method")
        return MethodNotAllowed(f"{where} is not possible; use {allowed}")
    return InternalError(str(error.status_code))


def _json(body: wire.Wire) -> Response:
    return Response(body.model_dump_json(exclude_unset=True), media_type="application/json")
