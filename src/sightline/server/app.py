"""The routes of the server, and who may ask while the model loads or the server stops. Knows one backend, no engine."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from functools import cached_property, partial
from pathlib import Path
from typing import Any

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException
from starlette.responses import JSONResponse, Response
from starlette.routing import Match

from sightline import __version__, strict_json, wire, wire_tasks
from sightline.backends import Answer, Backend, Place
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
from sightline.moderation import Moderator
from sightline.server import bodies, describe, infer, openai
from sightline.server.answers import Opening, close_answers, open_answers, while_connected
from sightline.server.batch_work import BatchWork
from sightline.server.batches import BatchesApi
from sightline.server.edge import Edge
from sightline.server.files import FilesApi
from sightline.server.form import chat_body, read_form
from sightline.server.ledger import Ledger
from sightline.server.metrics import CONTENT_TYPE, Metrics
from sightline.server.moderations import ModerationsApi
from sightline.server.refusals import refusal
from sightline.server.sources import Sources
from sightline.server.sse import EventStream, chat_events
from sightline.server.status import state, status
from sightline.server.storage import Storage
from sightline.server.web_page import FOLDER, WebPage, into_folder
from sightline.server.whole import answer_chat, answer_line, answer_task
from sightline.settings import MIB, Settings
from sightline.tasks.catalogue import Task, find
from sightline.tasks.documents import DocumentReading
from sightline.types import Conversation, Lane, Sampling

BODIES_AT_ONCE = 16  # of the largest size, that may be coming: 1 GiB as set


def create_app(
    backend: Backend, settings: Settings, page_folder: Path = FOLDER, *, moderator: Moderator | None = None
) -> FastAPI:
    """The server for one backend, with the page in `page_folder`.

    Its lifespan starts and closes the backend; `app.state.service` knows its state.
    """
    service, page = Service(backend, settings), WebPage(settings.base_path, page_folder)
    storage = Storage(settings.data_dir)
    work = BatchWork(
        storage,
        partial(answer_line, service),
        backend.ready,
        lines_at_once=settings.batch_concurrency,
        max_line_bytes=int(settings.max_body_mb * MIB),
    )

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        await backend.start()
        work.start()
        yield
        work.stop()
        await backend.close(0)
        await work.close()
        await storage.close()

    app = FastAPI(title="Sightline", lifespan=lifespan, openapi_url=None, redirect_slashes=False)
    app.state.service, app.state.storage = service, storage
    app.state.intake = bodies.Intake(int(BODIES_AT_ONCE * settings.max_body_mb * MIB))
    app.add_middleware(Edge, metrics=service.metrics)
    for kind in (SightlineError, HTTPException, RequestValidationError):
        app.add_exception_handler(kind, _refuse)
    routes = (
        *service.routes(),
        *FilesApi(storage, settings).routes(),
        *BatchesApi(storage, work, backend.model_id).routes(),
        *ModerationsApi(moderator, service.sources, settings).routes(),
    )
    for base in dict.fromkeys(("", settings.base_path)):  # probes and proxies that strip it find the routes without it
        for method, path, endpoint in routes:
            app.add_api_route(base + path, endpoint, methods=[method], response_model=None)
        for path in page.addresses():
            app.add_api_route(
                base + path, page.answer, methods=["GET", "HEAD"], response_model=None, include_in_schema=False
            )
    if settings.base_path:
        app.add_api_route(
            settings.base_path, into_folder, methods=["GET", "HEAD"], response_model=None, include_in_schema=False
        )
    return app


class Service:
    """The endpoints, around one backend. `draining` refuses new questions while running ones finish."""

    def __init__(self, backend: Backend, settings: Settings):
        self.backend = backend
        self.settings = settings
        self.sources = Sources(settings)
        self.draining = False
        self.started = time.monotonic()
        self.metrics = Metrics()
        self.ledger = Ledger(backend, self.metrics)
        self.metrics.watch(backend, self.ledger)

    def routes(self) -> Sequence[tuple[str, str, Any]]:
        return (
            ("GET", "/health", self.health),
            ("GET", "/healthz", self.alive),
            ("GET", "/readyz", self.health),
            ("GET", "/version", self.version),
            ("GET", "/metrics", self.figures),
            ("GET", "/v1/status", self.status),
            ("GET", "/openapi.json", self.openapi),
            ("GET", "/v1/models", self.models),
            ("GET", "/v1/models/{name:path}", self.model),
            ("POST", "/v1/chat/completions", self.chat),
            ("POST", "/v1/estimate", self.estimate),
            ("POST", "/infer", self.infer),
            ("POST", "/infer_stream", self.infer_stream),
            ("POST", "/v1/infer", self.infer),
            ("POST", "/v1/infer_stream", self.infer_stream),
            ("POST", "/v1/completions", unsupported),
            ("POST", "/v1/embeddings", unsupported),
        )

    async def health(self) -> Response:
        """GET /health, /readyz: 200 when a question would be answered."""
        status = state(self.backend, self.draining)
        return JSONResponse({"status": status}, 200 if status == "healthy" else 503)

    async def alive(self) -> Response:
        """GET /healthz: 200 as long as the process answers at all."""
        return JSONResponse({"status": "alive"})

    async def status(self) -> Response:
        """GET /v1/status: what the house is busy with."""
        uptime_s = time.monotonic() - self.started
        refused = self.metrics.refused
        found = status(
            self.backend, self.settings, self.ledger, draining=self.draining, uptime_s=uptime_s, refused=refused
        )
        return _json(found)

    async def figures(self) -> Response:
        """GET /metrics, for Prometheus."""
        return Response(self.metrics.text(), media_type=CONTENT_TYPE)

    async def version(self) -> Response:
        return JSONResponse({"version": __version__})

    async def openapi(self) -> Response:
        """GET /openapi.json."""
        return Response(self._described, media_type="application/json")

    @cached_property
    def _described(self) -> str:
        return describe.text(describe.document(self.settings.base_path))

    async def models(self) -> Response:
        return _json(wire.ModelList(object="list", data=(self._model(),)))

    async def model(self, name: str) -> Response:
        self._check_model(name)
        return _json(self._model())

    async def chat(self, request: Request) -> Response:
        """POST /v1/chat/completions."""
        started = time.perf_counter()
        asked, conversation, samplings = await self._question(request, answers=True)
        request_id: str = request.state.request_id
        opening = open_answers(self.ledger, conversation, samplings, request_id, place=request.state.place)
        caption = openai.Caption(request_id, self.backend.model_id, int(time.time()))
        tools, options = bool(conversation.tools), asked.stream_options or wire.StreamOptions()
        del conversation  # whoever waits in the queue need not hold its media: they are decoded before
        if not asked.stream:
            answering = answer_chat(opening, caption, started, tools=tools, logprobs=bool(asked.logprobs))
            return _json(await while_connected(request.receive, answering))
        streaming = partial(chat_events, tools=tools, include_usage=bool(options.include_usage), started=started)
        if options.include_progress:  # from here on, what is refused is an event of the stream
            early = Opening(opening)
            return EventStream(streaming(caption, early), request_id=request_id, cleanup=early.close)
        answers = await while_connected(request.receive, opening)
        cleanup = partial(close_answers, answers)
        return EventStream(streaming(caption.of(answers[0]), answers), request_id=request_id, cleanup=cleanup)

    async def estimate(self, request: Request) -> Response:
        """POST /v1/estimate: what a chat request would take, without answering it."""
        _, conversation, (sampling, *_) = await self._question(request, answers=False)
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
        self.admit()
        bodies.content_kind(request, bodies.JSON)
        limit = int(self.settings.max_body_mb * MIB)
        asked = wire_tasks.parse_task(strict_json.read_json(await bodies.whole(request, limit)))
        task = find(asked.task)
        if task.paged:
            return await self._analyze(request, asked, stream, started)
        place = self._reserve(request, task.lane, lighter=task.lighter)
        task, conversation, sampling = await while_connected(request.receive, self.task_meant(asked))
        request.state.task = task.name
        request.state.pictures = openai.picture_bytes(conversation)
        request_id: str = request.state.request_id
        wishes = asked.wishes
        opening = open_answers(self.ledger, conversation, (sampling,), request_id, task.name, task.lane, place)
        del asked, conversation  # as in a chat
        if not stream and not wishes.stream:
            answering = answer_task(opening, task, request_id, started)
            return _json(await while_connected(request.receive, answering))
        streamed = partial(EventStream, request_id=request_id, error_event=infer.error_event)
        if wishes.progress:  # from here on, what is refused is an event of the stream
            early = Opening(opening)
            return streamed(infer.events(task, early, started), cleanup=early.close)
        answers = await while_connected(request.receive, opening)
        return streamed(infer.events(task, answers[0], started), cleanup=partial(close_answers, answers))

    async def _analyze(self, request: Request, asked: wire_tasks.TaskRequest, stream: bool, started: float) -> Response:
        """A task that reads a document page by page."""
        request_id: str = request.state.request_id
        task = find(asked.task)
        place = self._reserve(request, task.lane, lighter=task.lighter)  # its pages wait in the queue by themselves
        reading = await while_connected(request.receive, self.document_meant(asked, request_id, asked.task))
        place.leave()
        request.state.task, request.state.pictures = asked.task, [len(reading.pages[0].document.data)]
        if stream or asked.wishes.stream:
            events = infer.analysis_events(reading, started)
            return EventStream(events, request_id=request_id, cleanup=events.aclose, error_event=infer.error_event)
        result = await while_connected(request.receive, reading.whole())
        return _json(infer.reply(request_id, reading.task, result, started))

    async def _question(
        self, request: Request, *, answers: bool
    ) -> tuple[wire.ChatRequest, Conversation, tuple[Sampling, ...]]:
        """What is asked, as sent but for its messages, and as our values; raises for what keeps it from being asked.

        With `answers`, their place in the queue is `request.state.place`, held before anything is fetched or decoded.
        """
        self.admit()
        if answers:
            self.backend.reserve(lighter=True).leave()  # a full queue is told before the body is read
        asked, pictures = await self._read(request)
        request.state.task = "chat"
        if answers:
            self._reserve(request, "interactive", asked.n or 1, lighter=True)
        conversation, samplings = await while_connected(request.receive, self.chat_meant(asked, pictures))
        request.state.pictures = openai.picture_bytes(conversation)
        return asked.model_copy(update={"messages": ()}), conversation, samplings

    async def chat_meant(
        self, asked: wire.ChatRequest, pictures: Sequence[bytes] = ()
    ) -> tuple[Conversation, tuple[Sampling, ...]]:
        """A chat request as our values, one sampling for each answer. `pictures` are those of a form."""
        self._check_model(asked.model)
        samplings = openai.samplings(asked, self.backend.defaults)
        return await self.sources.of(partial(openai.conversation, asked, pictures)), samplings

    async def task_meant(self, asked: wire_tasks.TaskRequest) -> tuple[Task, Conversation, Sampling]:
        """A task request as our values."""
        instructed = self.backend.takes_instructions
        return await self.sources.of(partial(infer.question, asked, self.backend.defaults, instructed=instructed))

    async def document_meant(self, asked: wire_tasks.TaskRequest, request_id: str, named: str) -> DocumentReading:
        """The reading that a document's task asks for, its pages counted. `named`: what the books call its answers."""
        finding = self.sources.of(partial(infer.analysis, asked, self.backend.defaults))
        task, document, text, sampling = await finding
        pages = await self.backend.pages(document)

        async def ask(conversation: Conversation, sampling: Sampling) -> Answer:
            place = self.backend.reserve(task.lane, lighter=task.lighter)
            try:
                return await self.ledger.generate(
                    conversation, sampling, request_id=request_id, task=named, lane=task.lane, place=place
                )
            finally:
                place.leave()

        return DocumentReading(task, pages, text, sampling, ask, self.backend.takes_instructions)

    async def _read(self, request: Request) -> tuple[wire.ChatRequest, tuple[bytes, ...]]:
        """The request, from JSON or from a form, and the pictures of the form."""
        limit = int(self.settings.max_body_mb * MIB)
        if bodies.content_kind(request, bodies.JSON, bodies.FORM) == bodies.JSON:
            return wire.parse_chat(strict_json.read_json(await bodies.whole(request, limit))), ()
        parts = await read_form(bodies.chunks(request, limit), request.headers["content-type"])
        body, pictures = chat_body(parts)
        return wire.parse_chat(body), pictures

    def _reserve(self, request: Request, lane: Lane, answers: int = 1, *, lighter: bool = False) -> Place:
        """Room in the queue, held until answers take it or the request has ended: see Edge."""
        place = self.backend.reserve(lane, answers, lighter=lighter)
        request.state.place = place
        return place

    def admit(self) -> None:
        """Raises Unavailable while no question can be answered."""
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
                f"model {strict_json.shown(name)} is not served here; '{self.backend.model_id}' is", param="model"
            )

    def _model(self) -> wire.Model:
        return wire.Model(
            id=self.backend.model_id,
            object="model",
            created=self.backend.created,
            owned_by="sightline",
            max_model_len=self.backend.max_context,
        )


async def unsupported(request: Request) -> Response:
    """The OpenAI routes for models that are not of our kind."""
    raise NotFound(
        f"{request.url.path} is unsupported: the model here answers chats; use /v1/chat/completions", code="unsupported"
    )


async def _refuse(request: Request, error: Exception) -> Response:
    headers = None
    if isinstance(error, HTTPException):
        headers = {"allow": _allowed(request)} if error.status_code == 405 else error.headers
        error = _from_framework(request, error)
    elif isinstance(error, RequestValidationError):
        error = InvalidRequest("a parameter of the address or a header cannot be used")
    return refusal(error, request.scope, headers)


def _from_framework(request: Request, error: HTTPException) -> SightlineError:
    where = f"{request.method} {strict_json.shown(request.url.path)}"
    if error.status_code == 404:
        return NotFound(f"{where} is not an address of this server; see /v1/models, /v1/chat/completions and /infer")
    if error.status_code == 405:
        return MethodNotAllowed(f"{where} is not possible; use {_allowed(request)}")
    return InternalError(str(error.status_code))


def _allowed(request: Request) -> str:
    """The methods of all routes of this address. The framework names those of the first."""
    routes = [route for route in request.app.routes if route.matches(request.scope)[0] is not Match.NONE]
    return ", ".join(sorted({method for route in routes for method in route.methods}))


def _json(body: wire.Wire) -> Response:
    return Response(body.model_dump_json(exclude_unset=True), media_type="application/json")
