"""Sends log lines to stderr: one line each, for people and for grep. Nobody gives it the content of a request."""

from __future__ import annotations

import contextlib
import json
import logging
import sys
from collections.abc import MutableMapping
from typing import Any

import structlog


def to_stderr(level: str) -> None:
    """Log our own lines from `level` up, and the libraries' from warnings up."""
    threshold = logging.getLevelNamesMapping()[level.upper()]
    structlog.configure(
        processors=[structlog.processors.add_log_level, structlog.processors.format_exc_info, _line],
        wrapper_class=structlog.make_filtering_bound_logger(threshold),
        logger_factory=_Stderr,
    )
    logging.basicConfig(stream=sys.stderr, level=logging.WARNING, format="%(levelname)s: %(message)s")
    # It warns of every form it refuses, and we tell the one who sent it.
    logging.getLogger("python_multipart").setLevel(logging.ERROR)


class _Stderr:
    """Writes finished lines. A stderr that is gone must not fail a request, so the line is lost instead."""

    def __init__(self, *_: object):
        pass

    def msg(self, line: str) -> None:
        with contextlib.suppress(OSError, ValueError):  # ValueError: the file is closed
            sys.stderr.write(f"{line}\n")
            sys.stderr.flush()

    debug = info = warning = error = exception = msg


def _line(_: object, __: str, event: MutableMapping[str, Any]) -> str:
    """`text key=value …`; what is worse than info has its level in front. Values are escaped, so a line stays one."""
    level, text, trace = event.pop("level"), event.pop("event"), event.pop("exception", None)
    words = [text if level in ("debug", "info") else f"{level}: {text}"]
    words += [f"{name}={_value(value)}" for name, value in event.items()]
    return " ".join(words) + (f"\n{trace}" if trace else "")


def _value(value: object) -> str:
    text = str(value)
    plain = text.isascii() and text.isprintable() and not set(text) & {" ", '"', "="}
    return text if plain and text else json.dumps(text)
