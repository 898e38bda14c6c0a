"""Runs our worker programs in processes that can be killed, and brings back what they answer. Knows no media.

What travels over a worker's pipes, both ways, is messages: four bytes (big-endian) with the length of a JSON header,
the header, raw bytes. Out goes the request with two keys of ours, {"bytes": length of the raw bytes, "timeout_s"}; back
come as many messages as the program has to say, or one {"error", "message"} alone. What comes back is not trusted: who
asks gives a `receive` that takes nothing on faith, and only errors the program may report are known.
"""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import json
import os
import select
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from io import FileIO
from pathlib import Path
from typing import Any, Final, TypeVar, cast

from sightline.errors import InternalError, InvalidRequest, OutOfMemory, ShuttingDown, SightlineError

STOPPING: Final = "the server is stopping and decodes nothing any more; send it again later"
# The path is handed over, so that a worker imports what this process would, wherever it found its modules; -I and -S
# keep the environment, the user's site folder and start-up hooks out.
START: Final = (
    "import sys; sys.path[:] = sys.argv[4:]; "
    "from sightline.media.confined import main; main(sys.argv[1], int(sys.argv[2]), int(sys.argv[3]))"
)
# Pictures are megabytes at once: in large pages 30 page faults instead of 15,000 for one of 12 megapixels.
ENVIRONMENT: Final = {"GLIBC_TUNABLES": "glibc.malloc.hugetlb=1"}
START_LIMIT_S: Final = 30.0
MAX_HEADER_BYTES: Final = 4096
PIPE_BYTES: Final = 1 << 20  # the usual 64 KiB make both sides wait 160 times for each other over a large picture
# What a worker may still need for a caller who has gone. A new one costs 0.1 s (pictures) to 0.5 s.
LEAVING_S: Final = 0.5

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Program:
    """One of our worker programs, and what its callers are told when it fails them.

    `module` is what `confined.py` runs. `refusals` are the errors it may report itself. `late` (given the seconds) and
    `crashed` make the error for an input that was not done in time, or that the program did not survive. `crashed` is
    told whether the process aborted, as native code does on its own account, mostly because it gets no more memory.
    """

    module: str
    refusals: tuple[type[InvalidRequest], ...]
    late: Callable[[float], SightlineError]
    crashed: Callable[[bool], SightlineError]


@dataclass(slots=True, eq=False)
class _Job:
    """One request: the worker that is at it, and whether its caller has gone."""

    worker: _Worker | None = None
    dropped: bool = False


class Pool:
    """A few processes of one program; at most `workers` at once, each started when first needed.

    Any thread may call it. An input that crashes its worker, or takes longer than it may, fails alone; the next one
    gets a new worker.
    """

    def __init__(self, program: Program, *, workers: int, memory_bytes: int) -> None:
        self._program = program
        self._memory_bytes = memory_bytes
        # Threads, because a worker dies with the thread that started it; they live until close().
        self._threads = ThreadPoolExecutor(workers, f"sandbox {program.module.rpartition('.')[2]}")
        self._lock = threading.Lock()
        self._idle: list[_Worker] = []
        self._busy: set[_Worker] = set()
        self._closed = False

    def submit(
        self,
        request: Mapping[str, object],
        data: bytes,
        receive: Callable[[Reply], T],
        *,
        timeout_s: float,
        param: str | None = None,
    ) -> Future[T]:
        """Queue one request; the future has what `receive` makes of the reply, in one of our threads.

        `receive` reads all that the program answers to a request, no less; it raises ValueError for what makes no
        sense. The future raises what the program may report, `late` and `crashed` (all with `param`), OutOfMemory when
        no process can be started, ShuttingDown after close(); the last also directly.
        """
        return self._queued(_Job(), request, data, receive, timeout_s, param)

    async def ask(
        self,
        request: Mapping[str, object],
        data: bytes,
        receive: Callable[[Reply], T],
        *,
        timeout_s: float,
        param: str | None = None,
    ) -> T:
        """What the future of `submit` would have. Cancelled, it leaves the queue; a worker that goes on with it for
        more than LEAVING_S is killed.
        """
        job = _Job()
        queued = self._queued(job, request, data, receive, timeout_s, param)
        try:
            return await asyncio.wrap_future(queued)
        except asyncio.CancelledError:
            asyncio.get_running_loop().call_later(LEAVING_S, self._drop, job)
            raise

    def close(self) -> None:
        """Kill the workers and wait until they are gone; work waiting or under way fails with ShuttingDown."""
        with self._lock:
            self._closed = True
            for worker in self._busy:
                worker.kill()
        self._threads.shutdown()
        while self._idle:
            self._idle.pop().end()

    def _queued(
        self,
        job: _Job,
        request: Mapping[str, object],
        data: bytes,
        receive: Callable[[Reply], T],
        timeout_s: float,
        param: str | None,
    ) -> Future[T]:
        try:
            return self._threads.submit(partial(self._run, job, request, data, receive, timeout_s, param))
        except RuntimeError:  # the threads have been shut down
            raise ShuttingDown(STOPPING) from None

    def _drop(self, job: _Job) -> None:
        with self._lock:
            job.dropped = True
            if job.worker:
                job.worker.kill()

    def _run(
        self,
        job: _Job,
        request: Mapping[str, object],
        data: bytes,
        receive: Callable[[Reply], T],
        timeout_s: float,
        param: str | None,
    ) -> T:
        """One request to one worker, in one of our threads."""
        worker = self._take(job)
        sound = False
        try:
            result = worker.ask(request, data, receive, timeout_s)
            sound = True
        except InvalidRequest as error:
            sound = True  # the worker said no and waits for the next request
            error.param = param
            raise
        except (OSError, ValueError, RecursionError) as error:  # the pipe broke, or what came back makes no sense
            if self._closed:
                raise ShuttingDown(STOPPING) from None
            late = isinstance(error, TimeoutError)
            failure = self._program.late(timeout_s) if late else self._program.crashed(worker.aborted())
            failure.param = param
            raise failure from None
        finally:
            self._give_back(job, worker, sound)
        return result

    def _take(self, job: _Job) -> _Worker:
        with self._lock:
            if self._closed:
                raise ShuttingDown(STOPPING)
            while self._idle:
                worker = self._idle.pop()
                if worker.alive:
                    self._busy.add(worker)
                    job.worker = worker
                    return worker
                worker.end()
        worker = _Worker(self._program, self._memory_bytes)
        with self._lock:
            self._busy.add(worker)
            job.worker = worker
            if self._closed or job.dropped:
                worker.kill()
        return worker

    def _give_back(self, job: _Job, worker: _Worker, sound: bool) -> None:
        with self._lock:
            self._busy.discard(worker)
            job.worker = None
            if sound and not self._closed and not job.dropped:
                self._idle.append(worker)
                return
        worker.end()


class Reply:
    """What a worker answers to one request, read in the order it comes."""

    def __init__(self, out: FileIO, deadline: float, refusals: tuple[type[InvalidRequest], ...]) -> None:
        self._out = out
        self._deadline = deadline
        self._refusals = {refusal.__name__: refusal for refusal in refusals}

    def header(self) -> Any:
        """The next message's header, parsed JSON of any kind.

        Raises the error it reports, TimeoutError past the deadline, OSError when the process ended, ValueError or
        RecursionError for what is no header.
        """
        length = int.from_bytes(self.read(4), "big")
        if length > MAX_HEADER_BYTES:
            raise ValueError(f"header of {length} bytes")
        header = json.loads(self.read(length))
        match header:
            case {"error": str(name), "message": str(message)}:
                if name not in self._refusals:
                    raise ValueError("unknown error")
                raise self._refusals[name](message)
        return header

    def read(self, size: int) -> bytearray:
        """The next `size` raw bytes; the caller has checked that it wants to hold so many. Raises as `header` does."""
        data = bytearray(size)
        self.fill(memoryview(data))
        return data

    def fill(self, rest: memoryview) -> None:
        """Read raw bytes until all of `rest` is written. Raises as `header` does."""
        while rest:
            _wait(self._out, select.POLLIN, self._deadline)
            count = self._out.readinto(rest)
            if count == 0:
                raise ConnectionResetError("the worker ended")
            rest = rest[count or 0 :]


class _Worker:
    """One process and our ends of its pipes. One thread at a time uses it; any thread may kill it."""

    def __init__(self, program: Program, memory_bytes: int) -> None:
        self._refusals = program.refusals
        path = [str(Path(entry).absolute()) for entry in sys.path if entry]
        own = [program.module, str(memory_bytes), str(os.getpid())]
        arguments = [sys.executable, "-I", "-S", "-c", START, *own, *path]
        try:
            self._child = subprocess.Popen(
                arguments,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.DEVNULL,
                bufsize=0,
                cwd="/",
                env=ENVIRONMENT,
                start_new_session=True,  # Ctrl-C is for the server, which lets running work finish
            )
        except OSError:
            raise OutOfMemory("no process could be started to decode what was sent; send it again later") from None
        # bufsize 0 gives raw files, whose reads and writes take what fits; the type checker cannot know.
        self._in, self._out = cast(FileIO, self._child.stdin), cast(FileIO, self._child.stdout)
        for pipe in (self._in, self._out):
            os.set_blocking(pipe.fileno(), False)
            with contextlib.suppress(OSError, AttributeError):  # not allowed, or not Linux: smaller pipes do, too
                fcntl.fcntl(pipe, fcntl.F_SETPIPE_SZ, PIPE_BYTES)
        try:
            Reply(self._out, time.monotonic() + START_LIMIT_S, ()).read(1)
        except OSError:  # TimeoutError is one
            self.end()
            raise InternalError("a decoder does not start on this machine") from None

    @property
    def alive(self) -> bool:
        return self._child.poll() is None

    def aborted(self) -> bool:
        """Whether the process has aborted; kills it if it lives. Only for the thread that uses it."""
        self._child.kill()
        return self._child.wait() == -signal.SIGABRT

    def kill(self) -> None:
        """Have the process end, whatever it does; the thread that uses it sees a broken pipe and calls `end`."""
        self._child.kill()

    def end(self) -> None:
        """Kill the process, reap it and close the pipes; only for the thread that uses it."""
        self._child.kill()
        self._child.wait()
        self._in.close()
        self._out.close()

    def ask(self, request: Mapping[str, object], data: bytes, receive: Callable[[Reply], T], timeout_s: float) -> T:
        """Send one request and receive its reply. Raises the errors the worker reports, and when it is beyond use:

        TimeoutError past the deadline, OSError when the process ended, ValueError or RecursionError for a reply that
        makes no sense.
        """
        deadline = time.monotonic() + timeout_s
        text = json.dumps({**request, "bytes": len(data), "timeout_s": timeout_s}).encode()
        self._write(len(text).to_bytes(4, "big") + text, deadline)
        self._write(data, deadline)
        return receive(Reply(self._out, deadline, self._refusals))

    def _write(self, data: bytes, deadline: float) -> None:
        rest = memoryview(data)
        while rest:
            _wait(self._in, select.POLLOUT, deadline)
            rest = rest[self._in.write(rest) or 0 :]


def _wait(pipe: FileIO, event: int, deadline: float) -> None:
    """Until `pipe` can be read or written, or has broken. poll, for select stops at file number 1023."""
    poller = select.poll()
    poller.register(pipe, event)
    if not poller.poll(max(0.0, deadline - time.monotonic()) * 1000):
        raise TimeoutError
