"""Starts an OpenAI-compatible server with the command it is given, and asks it over HTTP. Needs httpx2.

In the command, `{port}` stands for the port to listen on.
"""

from __future__ import annotations

import base64
import json
import shlex
import socket
import subprocess
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx2

from cases import Answer, System, parser, run

START_LIMIT_S = 600
ANSWER_LIMIT_S = 1800


def free_port() -> int:
    with socket.socket() as door:
        door.bind(("127.0.0.1", 0))
        return int(door.getsockname()[1])


class Server(System):
    def __init__(self, command: str, model: str | None):
        port = free_port()
        self.command = shlex.split(command.replace("{port}", str(port)))
        self.base = f"http://127.0.0.1:{port}"
        self.model = model

    def load(self) -> None:
        self.started = subprocess.Popen(self.command, stdout=subprocess.DEVNULL)
        deadline = time.perf_counter() + START_LIMIT_S
        while not self.is_ready():
            if self.started.poll() is not None:
                raise SystemExit(f"the server ended with status {self.started.returncode}: {shlex.join(self.command)}")
            if time.perf_counter() > deadline:
                raise SystemExit(f"the server was not ready after {START_LIMIT_S} s: {shlex.join(self.command)}")
            time.sleep(0.1)

    def is_ready(self) -> bool:
        try:
            return httpx2.get(self.base + "/health", timeout=5).status_code == 200
        except httpx2.TransportError:
            return False

    def versions(self) -> dict[str, str]:
        """What the server says of itself: llama.cpp's has its build in /props."""
        found = httpx2.get(self.base + "/props", timeout=5)
        build = found.json().get("build_info") if found.status_code == 200 else None
        return {"build": str(build or found.headers.get("server", "unknown"))}

    def ask(self, question: str, picture: Path | None, tokens: int) -> Answer:
        content: list[dict[str, object]] = [{"type": "text", "text": question}]
        answer = Answer(time.perf_counter())
        if picture:
            url = "data:image/jpeg;base64," + base64.b64encode(picture.read_bytes()).decode()
            content.insert(0, {"type": "image_url", "image_url": {"url": url}})
        body: dict[str, object] = {
            "messages": [{"role": "user", "content": content}],
            "max_tokens": tokens,
            "temperature": 0,
            "ignore_eos": True,
            "stream": True,
            "stream_options": {"include_usage": True},
        }
        if self.model:
            body["model"] = self.model
        usage: dict[str, int] = {}
        with httpx2.stream("POST", self.base + "/v1/chat/completions", json=body, timeout=ANSWER_LIMIT_S) as reply:
            if reply.status_code != 200:
                raise SystemExit(f"the server answered {reply.status_code}: {reply.read().decode()[:500]}")
            for line in reply.iter_lines():
                if not line.startswith("data: ") or line == "data: [DONE]":
                    continue
                event = json.loads(line[6:])
                usage = event.get("usage") or usage
                delta = (event.get("choices") or [{}])[0].get("delta") or {}
                if delta.get("content") or delta.get("reasoning_content"):
                    answer.arrive()
        self.share_out(answer, usage.get("completion_tokens", len(answer.arrivals)))
        answer.prompt_tokens = usage.get("prompt_tokens")
        return answer

    @staticmethod
    def share_out(answer: Answer, tokens: int) -> None:
        """Spread the true token count over the pieces: a piece of text may hold several tokens."""
        if not answer.arrivals:
            raise SystemExit(f"the server sent no text in {tokens} tokens")
        pieces = len(answer.arrivals)
        answer.arrivals = [
            (when, tokens * (i + 1) // pieces - tokens * i // pieces) for i, (when, _) in enumerate(answer.arrivals)
        ]

    def ask_at_once(self, asked: Sequence[tuple[str, Path]], tokens: int) -> list[Answer]:
        with ThreadPoolExecutor(len(asked)) as pool:
            return list(pool.map(lambda one: self.ask(*one, tokens), asked))

    def close(self) -> None:
        started = getattr(self, "started", None)
        if started:
            started.terminate()
            started.wait()


if __name__ == "__main__":
    options = parser(__doc__)
    options.add_argument("--model-id", help="sent as `model` by requests; nothing is sent without it")
    given = options.parse_args()
    run(Server(given.model, given.model_id), given)
