"""Sends hundreds of mixed requests to a server and watches that it keeps nothing: memory flat, no block in use after.

    python bench/soak.py --requests 500
    python bench/soak.py --model DIR --precision int8

Chats with and without pictures, streamed and whole, clients that leave, broken pictures, tasks, documents, JSON. Prints
what became of them and, after each round, the memory of the server with its workers (PSS, what is shared counted in
part). The first rounds fill caches and pools; from a third of the way on, memory may grow by one percent and 16 MB.
Knows the service's requests, nothing of its inside.
"""

from __future__ import annotations

import argparse
import asyncio
import base64
import io
import os
import random
import socket
import subprocess
import sys
import tempfile
from collections import Counter
from pathlib import Path
from typing import Any

import httpx2

import pictures

START = "from sightline.cli import main; main()"
ROUND = 25  # requests between two looks at the memory
AT_ONCE = 6
GROWTH, SLACK_MB = 0.01, 16
DIFFERENT = 40  # pictures: more than the caches below hold, so that they evict
KINDS = ("text", "picture", "picture", "pictures", "stream", "leaver", "broken", "json", "task", "document")
CACHES = {"SIGHTLINE_KV_CACHE_MB": "24", "SIGHTLINE_VISION_CACHE_MB": "16", "SIGHTLINE_MAX_CONCURRENCY": "4"}


def url(kind: str, data: bytes) -> str:
    return f"data:{kind};base64," + base64.b64encode(data).decode()


def picture(rng: random.Random) -> str:
    seed = rng.randrange(DIFFERENT)
    return url("image/jpeg", pictures.jpeg(seed, *random.Random(seed).choices(range(100, 900), k=2)))


def document(rng: random.Random) -> str:
    pages = [pictures.draw(rng.randrange(DIFFERENT), 400, 500) for _ in range(rng.randint(1, 3))]
    file = io.BytesIO()
    pages[0].save(file, "PDF", save_all=True, append_images=pages[1:], resolution=144)
    return url("application/pdf", file.getvalue())


def chat(rng: random.Random, *parts: dict[str, Any], **more: object) -> tuple[str, dict[str, Any]]:
    text = {"type": "text", "text": "What is this? " * rng.choice([1, 4, 40])}
    sampling = {"max_tokens": rng.choice([1, 8, 60]), "temperature": rng.choice([0, 0.8])}
    return "/v1/chat/completions", {"messages": [{"role": "user", "content": [*parts, text]}], **sampling, **more}


def image_part(source: str) -> dict[str, Any]:
    return {"type": "image_url", "image_url": {"url": source}}


def request(rng: random.Random) -> tuple[str, str, dict[str, Any], int | None]:
    """What it is, where it goes, its body, and after how many lines its client leaves, if it does."""
    kind = rng.choice(
        ["text", "picture", "picture", "pictures", "stream", "leaver", "broken", "json", "task", "document"]
    )
    shown = [image_part(picture(rng)) for _ in range(rng.randint(2, 3) if kind == "pictures" else 1)]
    if kind == "broken":
        shown = [image_part(url("image/jpeg", pictures.jpeg(1, 200, 200)[: rng.randrange(1, 4000)]))]
    if kind == "task":
        return (
            kind,
            "/infer",
            {"task": rng.choice(["vqa", "ocr"]), "images": [picture(rng)], "text": "What is it?"},
            None,
        )
    if kind == "document":
        return kind, "/infer", {"task": "doc_analyze", "documents": [document(rng)], "text": "What is the total?"}, None
    more: dict[str, object] = {"stream": True} if kind in ("stream", "leaver") else {}
    if kind == "json":
        more["response_format"] = {"type": "json_object"}
    path, body = chat(rng, *(() if kind == "text" else shown), **more)
    return kind, path, body, rng.randrange(6) if kind == "leaver" else None


async def send(client: httpx2.AsyncClient, rng: random.Random) -> str:
    """Sends one request and says what became of it."""
    kind, path, body, leaves_after = await asyncio.to_thread(request, rng)
    async with client.stream("POST", path, json=body) as reply:
        lines = 0
        async for _ in reply.aiter_lines():
            if lines == leaves_after:
                return f"{kind} left"
            lines += 1
        return f"{kind} {reply.status_code}"


def memory_mb(root: int) -> float:
    """PSS of a process and of those below it."""
    children = [int(child) for child in Path(f"/proc/{root}/task/{root}/children").read_text().split()]
    for task in Path(f"/proc/{root}/task").iterdir():
        children += [int(child) for child in (task / "children").read_text().split() if int(child) not in children]
    lines = Path(f"/proc/{root}/smaps_rollup").read_text().splitlines()
    own = next(int(line.split()[1]) for line in lines if line.startswith("Pss:"))
    return own / 1024 + sum(memory_mb(child) for child in children)


async def soak(base: str, server: subprocess.Popen[bytes], count: int, seed: int) -> bool:
    rng, ends, seen = random.Random(seed), Counter[str](), list[float]()
    async with httpx2.AsyncClient(base_url=base, timeout=600) as client:
        while (await _status(client))["state"] == "loading":
            await asyncio.sleep(0.2)
        places = asyncio.Semaphore(AT_ONCE)

        async def one(own: random.Random) -> None:
            async with places:
                ends[await send(client, own)] += 1

        for begun in range(0, count, ROUND):
            await asyncio.gather(*(one(random.Random(rng.random())) for _ in range(min(ROUND, count - begun))))
            while (status := await _status(client))["running"] or status["waiting"] or status["kv"]["used"]:
                await asyncio.sleep(0.05)  # who left is gone within a step; if blocks stay in use, this never ends
            seen.append(memory_mb(server.pid))
            kv = status["kv"]
            print(
                f"{begun + ROUND:5} requests: {seen[-1]:7.1f} MB, {kv['kept']} of {kv['blocks']} blocks kept, "
                f"{kv['preemptions']} preempted, {status['state']}",
                flush=True,
            )
    print(", ".join(f"{name} {number}" for name, number in sorted(ends.items())))
    filled = seen[len(seen) // 3]
    flat = max(seen[len(seen) // 3 :]) <= filled * (1 + GROWTH) + SLACK_MB
    broke = [name for name in ends if name.endswith((" 500", " 503")) or name == "broken 200"]
    print(f"memory {filled:.0f} MB a third of the way on, {seen[-1]:.0f} MB at the end: {'flat' if flat else 'GROWS'}")
    if broke:
        print(f"should not happen: {', '.join(broke)}")
    return flat and not broke and status["state"] == "healthy"


async def _status(client: httpx2.AsyncClient) -> dict[str, Any]:
    for _ in range(100):
        try:
            return dict((await client.get("/v1/status")).raise_for_status().json())
        except httpx2.ConnectError:  # it does not listen yet
            await asyncio.sleep(0.2)
    raise SystemExit("the server does not listen; its own words are above")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--requests", type=int, default=500)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--model", help="checkpoint folder; the demo model without")
    parser.add_argument("--precision", default="int8", choices=["exact", "int8", "int4"])
    given = parser.parse_args()
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    with tempfile.TemporaryDirectory() as folder:
        own = {"SIGHTLINE_PRECISION": given.precision, "SIGHTLINE_LOG_LEVEL": "warning", "SIGHTLINE_DATA_DIR": folder}
        own |= {"SIGHTLINE_MODEL": given.model} if given.model else {}
        command = [sys.executable, "-c", START, "serve", "--port", str(port)]
        server = subprocess.Popen(command, env={**os.environ, **CACHES, **own})
        try:
            sound = asyncio.run(soak(f"http://127.0.0.1:{port}", server, given.requests, given.seed))
        finally:
            server.terminate()
            server.wait()
    sys.exit(not sound)


if __name__ == "__main__":
    main()
