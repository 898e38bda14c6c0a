"""The life of a worker process: gives up its rights, answers requests until its pipe ends. Knows no media.

`sandbox.py` starts it and says there what travels over the pipes. It imports one worker program, a module with

    def answer(request: dict[str, Any], data: bytes, memory_bytes: int) -> Iterator[tuple[dict[str, object], Buffer]]

which yields the messages of one reply. All it imports, it must import with its module: afterwards no file can be
opened beyond eight, and every library counts towards the memory limit. An InvalidRequest it raises is reported; any
other exception ends the process, which is how a crash shows.
"""

from __future__ import annotations

import ctypes
import importlib
import json
import os
import resource
import signal
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Final

from sightline.errors import InvalidRequest

READY: Final = b"R"  # written once, when requests are welcome


def main(program: str, memory_bytes: int, parent: int) -> None:
    """Answer requests from standard input until it ends. `memory_bytes` comes on top of what the process has now."""
    answer = importlib.import_module(program).answer
    _give_up_rights(memory_bytes, parent)
    source, sink = os.fdopen(0, "rb"), os.fdopen(1, "wb")
    sink.write(READY)
    sink.flush()

    def send(header: dict[str, object]) -> None:
        text = json.dumps(header).encode()
        sink.write(len(text).to_bytes(4, "big") + text)

    while length := int.from_bytes(source.read(4), "big"):
        request = json.loads(source.read(length))
        cpu_s = int(time.process_time() + request["timeout_s"]) + 2
        resource.setrlimit(resource.RLIMIT_CPU, (cpu_s, resource.RLIM_INFINITY))
        data = source.read(request["bytes"])
        try:
            for header, body in answer(request, data, memory_bytes):
                send(header)
                sink.write(body)
        except InvalidRequest as error:
            send({"error": type(error).__name__, "message": error.message})
        del data
        sink.flush()


def _give_up_rights(memory_bytes: int, parent: int) -> None:
    """No files, no core dumps, a memory limit, and no life beyond the parent's."""
    prctl: Callable[..., int] | None = getattr(ctypes.CDLL(None), "prctl", None)  # Linux only
    if prctl:
        prctl(1, signal.SIGKILL)  # PR_SET_PDEATHSIG
    if os.getppid() != parent:  # it died before the line above
        sys.exit(0)
    in_use = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize() if prctl else 256 << 20
    for limit, value in (
        (resource.RLIMIT_AS, in_use + memory_bytes),
        (resource.RLIMIT_NOFILE, 8),  # pipes, and a late import of Pillow's
        (resource.RLIMIT_FSIZE, 0),
        (resource.RLIMIT_CORE, 0),
    ):
        resource.setrlimit(limit, (value, value))
