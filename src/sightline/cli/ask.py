"""`sightline ask`: one question about pictures or clips, answered on stdout as it is written. Parses, calls, prints."""

from __future__ import annotations

import asyncio
import json
import sys
from collections.abc import Mapping
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from sightline.errors import InvalidRequest, InvalidSchema
from sightline.settings import load_settings
from sightline.types import Conversation, Grammar, Image, Message, Precision, Sampling, Text, Usage, Video

if TYPE_CHECKING:
    from rich.status import Status

    from sightline.backends import Backend

DEMO_NOTE = "demo model: it knows large-print receipts, charts and shapes; ask a real one with --model FOLDER_OR_ID"
STDIN = "-"
CLIPS = (".mp4", ".m4v", ".mov", ".webm", ".mkv")  # files with other names are pictures


def ask(
    words: Annotated[
        list[str],
        typer.Argument(
            metavar="[FILE]... QUESTION",
            help="Pictures or clips (.mp4, .mov, .webm, .mkv), then the question. One picture, or the question, may be "
            "- : it is read from stdin.",
        ),
    ],
    model: Annotated[
        str | None, typer.Option(help="Checkpoint folder or pulled model; the embedded demo model by default.")
    ] = None,
    precision: Annotated[Precision | None, typer.Option(help="exact by default; int8 and int4 are faster.")] = None,
    system: Annotated[str | None, typer.Option(help="A system message.")] = None,
    max_tokens: Annotated[int | None, typer.Option(min=1, help="Length limit of the answer.")] = None,
    temperature: Annotated[
        float, typer.Option(min=0, max=2, help="0, the default, gives the same answer every time.")
    ] = 0,
    json_schema: Annotated[
        str | None, typer.Option(metavar="FILE_OR_JSON", help="Answer with JSON that satisfies this schema.")
    ] = None,
    seed: Annotated[int | None, typer.Option(min=0, help="Makes a temperature above 0 repeatable.")] = None,
    verbose: Annotated[bool, typer.Option("--verbose", help="Print token counts and times to stderr.")] = False,
) -> None:
    """Ask a question about pictures or clips, e.g. `sightline ask photo.jpg "What is the total?"`"""
    settings = load_settings(model=model, precision=precision)
    asked = _conversation(words, system)
    sampling = {"temperature": temperature, "seed": seed, "max_tokens": max_tokens, "grammar": _grammar(json_schema)}
    chosen = {name: value for name, value in sampling.items() if value is not None}
    from sightline.backends.local import LocalBackend

    backend = LocalBackend(settings)
    try:
        usage = asyncio.run(answer(backend, asked, chosen))
    except InvalidRequest as error:
        at_fault = f"{error.param}: " if error.param in (*words, "stdin") else ""
        raise InvalidRequest(at_fault + error.message) from None
    if settings.model is None:
        _tell(DEMO_NOTE)
    if verbose:
        _tell(_figures(usage))


async def answer(backend: Backend, asked: Conversation, chosen: Mapping[str, object]) -> Usage:
    """Load, answer on stdout, close. `chosen` replaces fields of the model's own sampling. Returns what it cost."""
    await backend.start()
    try:
        with _progress() as status:
            await _until_ready(backend, status)
            sampling: Sampling = replace(backend.defaults, **chosen)  # type: ignore[arg-type]  # fields of Sampling
            if status:
                status.update("reading")
            written = await backend.generate(asked, sampling, request_id="ask")
            try:
                usage = Usage()
                async for delta in written:
                    if status and delta.text:
                        status.stop()
                    sys.stdout.write(delta.text)
                    sys.stdout.flush()
                    usage = delta.usage or usage
                    if delta.finish == "length":
                        _tell(f"\nthe answer was cut after {usage.completion_tokens} tokens; --max-tokens allows more")
            finally:
                await written.aclose()
        sys.stdout.write("\n")
        return usage
    finally:
        await backend.close(0)


async def _until_ready(backend: Backend, status: Status | None) -> None:
    waiting = asyncio.create_task(backend.ready())
    try:
        while not (await asyncio.wait((waiting,), timeout=0.2))[0]:
            if status:
                status.update(f"loading {backend.model_id}: {backend.progress}")
        waiting.result()
    finally:
        waiting.cancel()


def _progress() -> Status | nullcontext[None]:
    """A spinner on stderr where somebody looks at it."""
    if not sys.stderr.isatty():
        return nullcontext()
    from rich.console import Console

    return Console(stderr=True).status("starting")


def _conversation(words: list[str], system: str | None) -> Conversation:
    *files, question = words
    if words.count(STDIN) > 1:
        raise InvalidRequest("- stands for stdin, which can be read once; give the other one as a file")
    if question == STDIN:
        question = sys.stdin.read()
    elif Path(question).is_file():
        raise InvalidRequest(f"the last argument is the question, but {question} is a file; add a question after it")
    if not question.strip():
        raise InvalidRequest("the question is empty; give it as the last argument, or - to read it from stdin")
    before = (Message("system", (Text(system),)),) if system else ()
    return Conversation((*before, Message("user", (*map(_medium, files), Text(question)))))


def _medium(name: str) -> Image | Video:
    if name == STDIN:
        return Image(sys.stdin.buffer.read(), param="stdin")
    is_clip = name.lower().endswith(CLIPS)
    try:
        data = Path(name).read_bytes()
    except OSError as error:
        raise InvalidRequest(f"cannot read the {'clip' if is_clip else 'picture'} {name}: {error.strerror}") from None
    return Video(data, param=name) if is_clip else Image(data, param=name)


def _grammar(schema: str | None) -> Grammar | None:
    if schema is None:
        return None
    try:
        text = schema if schema.lstrip().startswith("{") else Path(schema).read_text()
        json.loads(text)
    except OSError as error:
        raise InvalidSchema(f"cannot read the schema file {schema}: {error.strerror}") from None
    except ValueError as error:
        raise InvalidSchema(f"the JSON schema is not JSON: {error}") from None
    return Grammar(text)


def _figures(usage: Usage) -> str:
    prompt = f"{usage.prompt_tokens} prompt tokens ({usage.image_tokens} of pictures, {usage.cached_tokens} cached)"
    times = f"pictures {usage.vision_ms:.0f} ms, prompt {usage.prefill_ms:.0f} ms, answer {usage.decode_ms:.0f} ms"
    return f"{prompt}, {usage.completion_tokens} answer tokens; {times}"


def _tell(text: str) -> None:
    print(text, file=sys.stderr)
