"""`sightline serve`: one model behind the HTTP API, until it is told to stop. Parses and calls; knows no routes."""

from __future__ import annotations

import asyncio
import sys
from typing import Annotated

import typer

from sightline.settings import load_settings
from sightline.types import Precision

ADDRESS_TAKEN = 3  # exit code


def serve(
    checkpoint: Annotated[
        str | None, typer.Argument(help="Checkpoint folder or pulled model; the embedded demo model by default.")
    ] = None,
    host: Annotated[str | None, typer.Option(help="Address to listen on; 127.0.0.1 by default.")] = None,
    port: Annotated[int | None, typer.Option(help="8080 by default; 0 picks a free one.")] = None,
    lighter: Annotated[
        str | None, typer.Option(help="A smaller model, as above, that answers when the queue of the first is full.")
    ] = None,
    precision: Annotated[Precision | None, typer.Option(help="exact by default; int8 and int4 are faster.")] = None,
) -> None:
    """Serve a model over HTTP, as OpenAI does. More settings: SIGHTLINE_… environment variables, see the README."""
    settings = load_settings(model=checkpoint, host=host, port=port, lighter_model=lighter, precision=precision)
    import structlog

    from sightline.backends.lighter import opened
    from sightline.server import logs, run

    logs.to_stderr(settings.log_level)
    backend = opened(settings)
    try:
        sock = run.listen(settings.host, settings.port)
    except OSError as error:
        address = f"{settings.host}:{settings.port}"
        reason = str(error.strerror).partition(" (while ")[0]  # Python adds the address once more
        print(f"sightline: cannot listen on {address}: {reason}; choose another --port", file=sys.stderr)
        raise typer.Exit(ADDRESS_TAKEN) from None
    if settings.model is None:
        structlog.get_logger().info("demo model: serve a real one with: sightline serve FOLDER_OR_ID")
    raise typer.Exit(asyncio.run(run.serve(backend, settings, sock)))
