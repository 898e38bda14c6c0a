"""The `sightline` command: finds the subcommand, and turns what went wrong into one line and an exit code."""

from __future__ import annotations

import sys
from typing import Annotated

import typer

from sightline import __version__
from sightline.errors import InvalidRequest, SettingsError, SightlineError

USAGE, FAILED = 2, 1  # exit codes: what you gave cannot be used; it could be used, and went wrong


def main() -> None:
    """Run the command line; exits with 0, 1 (failed), 2 (usage or input), 3 (address taken) or 130 (interrupted)."""
    try:
        build()(prog_name="sightline")
    except SightlineError as error:
        print(f"sightline: {error.message}", file=sys.stderr)
        sys.exit(USAGE if isinstance(error, InvalidRequest | SettingsError) else FAILED)
    except ModuleNotFoundError as error:
        package = (error.name or "").partition(".")[0]
        if package == "sightline":
            raise
        print(f"sightline: {package} is not installed; pip install 'sightline[server]'", file=sys.stderr)
        sys.exit(FAILED)


def build() -> typer.Typer:
    """The command with all its subcommands. Their heavy libraries are imported when they run."""
    from sightline.cli import models
    from sightline.cli.ask import ask
    from sightline.cli.doctor import doctor
    from sightline.cli.serve import serve

    app = typer.Typer(
        help="Ask questions about pictures, on the CPU you already have.",
        no_args_is_help=True,
        pretty_exceptions_enable=False,
    )
    app.callback()(_options)
    app.command()(ask)
    app.command()(serve)
    app.add_typer(models.app, name="models")
    app.command()(doctor)
    return app


def _print_version(wanted: bool) -> None:
    if wanted:
        print(f"sightline {__version__}")
        raise typer.Exit


def _options(
    version: Annotated[
        bool, typer.Option("--version", callback=_print_version, is_eager=True, help="Print the version and exit.")
    ] = False,
) -> None:
    """Ask questions about pictures, on the CPU you already have."""
