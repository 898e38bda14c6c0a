"""Has pictures decoded in worker processes that can be killed. Knows pipes and deadlines; no file formats.

What travels over a worker's pipes, both ways: four bytes (big-endian) with the length of a JSON header, the header,
raw bytes. Out goes {"bytes", "rule", "max_pixels", "timeout_s"} and the encoded picture; back comes {"original":
[height, width]} and the RGB pixels, or {"error", "message"} alone. What comes back is not trusted: the size of the
pixels is computed here, and only two errors are known.
"""

from __future__ import annotations

import asyncio
import json
import os
import select
import subprocess
import sys
import threading
import time
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import asdict
from io import FileIO
from pathlib import Path
from typing import Any, Final, cast

import numpy as np

from sightline.errors import ImageTooLarge, InternalError, InvalidImage, InvalidRequest, OutOfMemory, ShuttingDown
from sightline.media.images import Picture, ResizeRule, fit, requested
from sightline.settings import MediaSettings
from sightline.types import Image

STOPPING: Final = "the server is stopping and decodes no more pictures; send it again later"
UNREADABLE: Final = "Invalid image data: cannot decode image"
# The path is handed over, so that a worker imports what this process would, wherever it found its modules; -I and -S
# keep the environment, the user's site folder and start-up hooks out.
START: Final = (
    "import sys; sys.path[:] = sys.argv[3:]; "
    "from sightline.media.worker import main; main(int(sys.argv[1]), int(sys.argv[2]))"
)
START_LIMIT_S: Final = 30.0
MAX_HEADER_BYTES: Final = 4096


class ImageWorkers:
    """A few processes that decode pictures; at most `settings.workers` at once, each started when first needed.

    Any thread and any event loop may call it. A picture that crashes its worker, or takes longer than
    `settings.timeout_s`, fails alone; the next one gets a new worker. A decode whose caller has gone runs to its end,
    and its result is dropped.
    """

    def __init__(self, settings: MediaSettings) -> None:
        self._settings = settings
        # Threads, because a worker dies with the thread that started it; they live until close().
        self._threads = ThreadPoolExecutor(settings.workers, "sightline-images")
        self._lock = threading.Lock()
        self._idle: list[_Worker] = []
        self._busy: set[_Worker] = set()
        self._closed = False

    async def decode(self, image: Image, rule: ResizeRule) -> Picture:
        """Decode one picture under every limit; `rule` is the model's, the request's wishes are taken from `image`.

        Raises InvalidImage, ImageTooLarge and InvalidRequest (the caller's mistakes, with `image.param`), OutOfMemory
        when no process can be started, ShuttingDown after close().
        """
        return await asyncio.wrap_future(self._submit(image, rule))

    def decode_now(self, image: Image, rule: ResizeRule) -> Picture:
        """As `decode`, for callers without an event loop; blocks."""
        return self._submit(image, rule).result()

    def close(self) -> None:
        """Kill the workers and wait until they are gone; decodes waiting or under way fail with ShuttingDown."""
        with self._lock:
            self._closed = True
            for worker in self._busy:
                worker.kill()
        self._threads.shutdown()
        while self._idle:
            self._idle.pop().end()

    def _submit(self, image: Image, rule: ResizeRule) -> Future[Picture]:
        limit, size = self._settings.max_image_bytes, len(image.data)
        if not size:
            raise InvalidImage(f"{UNREADABLE} (it is empty, 0 bytes; send the whole file)", param=image.param)
        if size > limit:
            raise ImageTooLarge(
                f"image is {size} bytes, the limit is {limit} ({limit / (1 << 20):g} MiB); scale it down",
                param=image.param,
            )
        rule = requested(rule, image, self._settings.max_image_side)
        try:
            return self._threads.submit(self._decode, image, rule)
        except RuntimeError:  # the threads have been shut down
            raise ShuttingDown(STOPPING) from None

    def _decode(self, image: Image, rule: ResizeRule) -> Picture:
        """One picture in one worker, in one of our threads."""
        worker = self._take()
        sound = False
        try:
            picture = worker.decode(image, rule, self._settings)
            sound = True
        except InvalidRequest as error:
            sound = True  # the worker said no and waits for the next picture
            error.param = image.param
            raise
        except TimeoutError:
            raise InvalidImage(
                f"{UNREADABLE} (it was not done after {self._settings.timeout_s:g} s, the limit; "
                "send it smaller or in a simpler format)",
                param=image.param,
            ) from None
        except (OSError, ValueError, RecursionError):  # the pipe broke, or what came back makes no sense
            if self._closed:
                raise ShuttingDown(STOPPING) from None
            raise InvalidImage(
                f"{UNREADABLE} (the decoder crashed on it; save it again as JPEG or PNG)", param=image.param
            ) from None
        finally:
            self._give_back(worker, sound)
        return picture

    def _take(self) -> _Worker:
        with self._lock:
            if self._closed:
                raise ShuttingDown(STOPPING)
            while self._idle:
                worker = self._idle.pop()
                if worker.alive:
                    self._busy.add(worker)
                    return worker
                worker.end()
        worker = _Worker(self._settings.worker_memory_bytes)
        with self._lock:
            self._busy.add(worker)
            if self._closed:
                worker.kill()
        return worker

    def _give_back(self, worker: _Worker, sound: bool) -> None:
        with self._lock:
            self._busy.discard(worker)
            if sound and not self._closed:
                self._idle.append(worker)
                return
        worker.end()


class _Worker:
    """One process and our ends of its pipes. One thread at a time uses it; any thread may kill it."""

    def __init__(self, memory_bytes: int) -> None:
        path = [str(Path(entry).absolute()) for entry in sys.path if entry]
        arguments = [sys.executable, "-I", "-S", "-c", START, str(memory_bytes), str(os.getpid()), *path]
        try:
            self._child = subprocess.Popen(
                arguments,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.DEVNULL,
                bufsize=0,
                cwd="/",
                env={},
                start_new_session=True,  # Ctrl-C is for the server, which lets pictures finish
            )
        except OSError:
            raise OutOfMemory("no process could be started to decode the picture; send it again later") from None
        # bufsize 0 gives raw files, whose reads and writes take what fits; the type checker cannot know.
        self._in, self._out = cast(FileIO, self._child.stdin), cast(FileIO, self._child.stdout)
        os.set_blocking(self._in.fileno(), False)
        os.set_blocking(self._out.fileno(), False)
        try:
            self._read(1, time.monotonic() + START_LIMIT_S)
        except OSError:  # TimeoutError is one
            self.end()
            raise InternalError("the picture decoder does not start on this machine") from None

    @property
    def alive(self) -> bool:
        return self._child.poll() is None

    def kill(self) -> None:
        """Have the process end, whatever it does; the thread that uses it sees a broken pipe and calls `end`."""
        self._child.kill()

    def end(self) -> None:
        """Kill the process, reap it and close the pipes; only for the thread that uses it."""
        self._child.kill()
        self._child.wait()
        self._in.close()
        self._out.close()

    def decode(self, image: Image, rule: ResizeRule, settings: MediaSettings) -> Picture:
        """Send one picture through. Raises the errors the worker reports, and when it is beyond further use:

        TimeoutError past the deadline, OSError when the process ended, ValueError or RecursionError for a reply that
        makes no sense.
        """
        deadline = time.monotonic() + settings.timeout_s
        request = {
            "bytes": len(image.data),
            "rule": asdict(rule),
            "max_pixels": settings.max_image_pixels,
            "timeout_s": settings.timeout_s,
        }
        text = json.dumps(request).encode()
        self._write(len(text).to_bytes(4, "big") + text, deadline)
        self._write(image.data, deadline)
        length = int.from_bytes(self._read(4, deadline), "big")
        if length > MAX_HEADER_BYTES:
            raise ValueError(f"header of {length} bytes")
        original = _original_size(json.loads(self._read(length, deadline)), settings.max_image_pixels)
        try:
            height, width = fit(*original, rule)
        except InvalidImage:
            raise ValueError(f"picture of {original}") from None
        pixels = np.empty((height, width, 3), np.uint8)
        self._fill(pixels.data.cast("B"), deadline)
        return Picture(pixels, original)

    def _write(self, data: bytes, deadline: float) -> None:
        rest = memoryview(data)
        while rest:
            _wait(self._in, select.POLLOUT, deadline)
            rest = rest[self._in.write(rest) or 0 :]

    def _read(self, size: int, deadline: float) -> bytearray:
        data = bytearray(size)
        self._fill(memoryview(data), deadline)
        return data

    def _fill(self, rest: memoryview, deadline: float) -> None:
        while rest:
            _wait(self._out, select.POLLIN, deadline)
            count = self._out.readinto(rest)
            if count == 0:
                raise ConnectionResetError("the worker ended")
            rest = rest[count or 0 :]


def _wait(pipe: FileIO, event: int, deadline: float) -> None:
    """Until `pipe` can be read or written, or has broken. poll, for select stops at file number 1023."""
    poller = select.poll()
    poller.register(pipe, event)
    if not poller.poll(max(0.0, deadline - time.monotonic()) * 1000):
        raise TimeoutError


def _original_size(header: Any, max_pixels: int) -> tuple[int, int]:
    """(height, width) from a worker's reply. Raises the error it reports, ValueError for anything unexpected."""
    match header:
        case {"error": "InvalidImage", "message": str(message)}:
            raise InvalidImage(message)
        case {"error": "ImageTooLarge", "message": str(message)}:
            raise ImageTooLarge(message)
        case {"original": [int(height), int(width)]} if min(height, width) > 0 and height * width <= max_pixels:
            return height, width
    raise ValueError("unexpected reply")
