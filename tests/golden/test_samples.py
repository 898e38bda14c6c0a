"""The demo model's answers about the sample pictures, in every precision: those of transformers in float32."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from sightline.backends.local import LocalBackend
from sightline.settings import load_settings
from sightline.types import Conversation, Image, Message, Precision, Sampling, Text

SAMPLES = Path(__file__).parent / "samples"


def answers(precision: Precision, cache: Path, asked: list[dict[str, str]]) -> list[str]:
    async def all_of_them() -> list[str]:
        backend = LocalBackend(load_settings(precision=precision, cache_dir=cache))
        await backend.start()
        try:
            await backend.ready()
            return [await answered(backend, (SAMPLES / one["image"]).read_bytes(), one["question"]) for one in asked]
        finally:
            await backend.close()

    return asyncio.run(all_of_them())


async def answered(backend: LocalBackend, picture: bytes, question: str) -> str:
    asked = Conversation((Message("user", (Image(picture), Text(question))),))
    stream = await backend.generate(asked, Sampling(temperature=0, max_tokens=300), request_id="sample")
    return "".join([delta.text async for delta in stream])


@pytest.mark.parametrize(("precision", "most_different"), [("exact", 0), ("int8", 1), ("int4", 3)])
def test_the_samples_are_answered_as_in_float32(
    precision: Precision, most_different: int, samples: list[dict[str, str]], tmp_path: Path
):
    found = answers(precision, tmp_path, samples)
    different = [
        (one["question"], one["model"], said) for one, said in zip(samples, found, strict=True) if said != one["model"]
    ]
    assert len(different) <= most_different, different
