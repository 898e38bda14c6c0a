"""Asks our own engine in this process, through the door the server uses."""

from __future__ import annotations

import asyncio
import itertools
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from cases import Answer, System, parser, run

if TYPE_CHECKING:
    from sightline.backends.local import LocalBackend
    from sightline.types import Precision

LONGEST_SIDE = 4096  # pixels; pictures up to here are seen as they are


class Sightline(System):
    packages = ("openvino", "tokenizers")  # the commit on the card says which Sightline

    def __init__(self, checkpoint: str, precision: Precision, at_once: int, folder: Path):
        self.folder = folder
        self.checkpoint, self.precision, self.at_once = checkpoint, precision, at_once
        self.runner = asyncio.Runner()
        self.backend: LocalBackend | None = None
        self.numbers = itertools.count()

    def load(self) -> None:
        from sightline.backends.local import LocalBackend
        from sightline.settings import EngineSettings, Settings, load_settings

        class Plain(Settings):
            """Without guessed tokens: random weights write in circles, and guessing those shows 5 times the speed."""

            @property
            def engine(self) -> EngineSettings:
                return replace(super().engine, speculate=False)

        given = load_settings(
            model=self.checkpoint,
            precision=self.precision,
            max_concurrency=self.at_once,
            max_image_side=LONGEST_SIDE,
            cache_dir=self.folder,
        )
        settings = Plain.model_construct(**dict(given))

        async def start() -> LocalBackend:
            backend = LocalBackend(settings)
            await backend.start()
            await backend.ready()
            return backend

        was_empty = not any(self.folder.iterdir())
        self.backend = self.runner.run(start())
        self.first_load = was_empty and any(self.folder.iterdir())

    async def answer(self, question: str, picture: Path | None, tokens: int) -> Answer:
        assert self.backend
        from sightline.types import Conversation, Image, Message, Sampling, Text

        answer = Answer(time.perf_counter())
        parts = (*([Image(picture.read_bytes())] if picture else []), Text(question))
        stream = await self.backend.generate(
            Conversation((Message("user", parts),)),
            Sampling(temperature=0, max_tokens=tokens, ignore_eos=True),
            request_id=f"bench-{next(self.numbers)}",
        )
        async for delta in stream:
            if delta.tokens:
                answer.arrive(len(delta.tokens))
            if delta.usage:
                answer.prompt_tokens = delta.usage.prompt_tokens
                answer.vision_s = delta.usage.vision_ms / 1e3
        return answer

    def ask(self, question: str, picture: Path | None, tokens: int) -> Answer:
        return self.runner.run(self.answer(question, picture, tokens))

    def ask_at_once(self, asked: Sequence[tuple[str, Path]], tokens: int) -> list[Answer]:
        async def all_answers() -> list[Answer]:
            return await asyncio.gather(*(self.answer(question, picture, tokens) for question, picture in asked))

        return self.runner.run(all_answers())

    def bytes_per_token(self, context: int) -> int:
        from sightline.model.config import ModelConfig
        from sightline.model.machine import decode_bytes, memory_need, read_machine
        from sightline.model.own import why_not
        from sightline.settings import load_settings

        config = ModelConfig.load(Path(self.checkpoint))
        own = why_not(read_machine().flags, load_settings().own_kernels) is None
        return decode_bytes(config, self.precision, own) + memory_need(config, self.precision, context).kv

    def close(self) -> None:
        if self.backend:
            self.runner.run(self.backend.close(0))
        self.runner.close()


if __name__ == "__main__":
    options = parser(__doc__)
    options.add_argument("--precision", default="exact", choices=["exact", "int8", "int4"])
    given = options.parse_args()
    run(Sightline(given.model, given.precision, max(given.at_once, default=1), given.folder), given)
