"""Starts the real `sightline serve` with the demo model on a free port, and says what it logs."""

import os
import re
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import mkdtemp

from openai import OpenAI

SRC = Path(__file__).parents[2] / "src"
OWN = {name: value for name, value in os.environ.items() if "SIGHTLINE" not in name and name != "MAX_CONCURRENCY"}
ENVIRONMENT = OWN | {"PYTHONPATH": str(SRC)}
COMMAND = [sys.executable, "-c", "from sightline.cli import main; main()"]
PATIENCE_S = 120  # only ever spent by a test that fails


class Server:
    """A running `sightline serve`. Its stderr is read all the time, so that it never blocks on it."""

    def __init__(self, cache: Path, port: str = "0", **settings: str):
        self.process = subprocess.Popen(
            [*COMMAND, "serve", "--port", port],
            env=ENVIRONMENT | {"SIGHTLINE_CACHE_DIR": str(cache), "SIGHTLINE_DATA_DIR": mkdtemp(dir=cache)} | settings,
            stderr=subprocess.PIPE,
            text=True,
        )
        self.lines: list[str] = []
        self._more = threading.Condition()
        threading.Thread(target=self._read, daemon=True).start()
        listening = self.logged(r"^API server running on (http://127\.0\.0\.1:\d+)$")
        self.url = listening[1]
        self.client = OpenAI(base_url=f"{self.url}/v1", api_key="none", max_retries=0, timeout=PATIENCE_S)

    def _read(self) -> None:
        for line in self.process.stderr:
            with self._more:
                self.lines.append(line.rstrip("\n"))
                self._more.notify_all()

    def logged(self, pattern: str) -> re.Match[str]:
        """Wait until a line matches."""

        def found() -> re.Match[str] | None:
            return next((match for line in self.lines if (match := re.search(pattern, line))), None)

        with self._more:
            match = self._more.wait_for(found, PATIENCE_S)
        assert match, f"{pattern!r} was not logged:\n" + "\n".join(self.lines)
        return match

    def ask(self, *content, **fields):
        messages = [{"role": "user", "content": list(content)}]
        return self.client.chat.completions.create(model="sightline-demo", messages=messages, **fields)


@contextmanager
def serving(cache: Path, port: str = "0", **settings: str) -> Iterator[Server]:
    server = Server(cache, port, **settings)
    try:
        server.logged(r"^model \S+ is ready")
        yield server
    finally:
        server.process.kill()
        server.process.wait()
