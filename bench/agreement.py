"""Measures how far int8 and int4 answers are from exact ones on the same pictures and questions.

`int4-plain` is what `int4` was in its first recipe: each value to its nearest level, value matrices in 4 bits, too.

    python bench/agreement.py
    python bench/agreement.py --checkpoint DIR --image PAGE.png --image PHOTO.jpg --precision int8

`exact` answers greedily; every precision then reads each prompt with that answer behind it, and what it expects at
each place of the answer is compared. Prints a card, a table and one JSON line. Knows the model, no server.
"""

from __future__ import annotations

import argparse
import asyncio
import hashlib
import io
import json
import re
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import nullcontext
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime
from importlib.metadata import version
from importlib.resources import files
from pathlib import Path
from unittest.mock import patch

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageChops, ImageEnhance, ImageFilter
from rich.console import Console
from rich.table import Table

from report import commit, machine, show_card
from sightline.engine.prepare import Preparer
from sightline.engine.prompt import Picture, Prompt
from sightline.media.decoders import Decoders
from sightline.model import quantize
from sightline.model.language import Slice, VisualRows
from sightline.model.load import Model, load
from sightline.model.vision import Features
from sightline.settings import EngineSettings, MediaSettings
from sightline.types import Conversation, Message, Precision, Sampling, Text
from sightline.types import Image as Encoded

SAMPLES = Path(__file__).parents[1] / "tests" / "golden" / "samples"
PAPER = (255, 255, 255)
# Each sample picture is shown in all of these ways. They change every pixel, but nothing that is asked about.
VARIANTS: dict[str, Callable[[Image.Image], Image.Image]] = {
    "as it is": lambda picture: picture,
    "darker": lambda picture: ImageEnhance.Brightness(picture).enhance(0.85),
    "paler": lambda picture: ImageEnhance.Contrast(picture).enhance(0.7),
    "moved": lambda picture: ImageChops.offset(picture, 7, 5),
    "softer": lambda picture: picture.filter(ImageFilter.GaussianBlur(0.6)),
    "turned": lambda picture: picture.rotate(1.5, Image.Resampling.BICUBIC, fillcolor=PAPER),
}
QUESTIONS = (
    "Describe this picture in detail.",
    "请详细描述这张图片的内容,并提取所有可见文字。",
    "Read all the text in this picture.",
    "What kind of picture is this?",
    "Extract the important facts as JSON.",
)

PLAIN = "int4-plain"

F32 = NDArray[np.float32]


@dataclass(frozen=True, slots=True, eq=False)
class Answer:
    """What `exact` answered to one prompt, end token included, and its log-probabilities [tokens, vocabulary]."""

    prompt: Prompt
    tokens: NDArray[np.int32]
    expected: F32


@dataclass(frozen=True, slots=True)
class Agreement:
    """`mean_kl`: of KL(exact || precision) over next-token distributions, in nats. Shares are of 0..1.

    A whole answer is equal when all its tokens are, so free greedy decoding would have written the same.
    """

    precision: str
    answers: int
    tokens: int
    mean_kl: float
    worst_kl: float
    equal_tokens: float
    equal_answers: float
    slow_paths: tuple[str, ...]


class Reader:
    """A loaded model that reads prompts, each picture encoded once."""

    def __init__(self, model: Model):
        self.model = model
        self._seen: dict[bytes, Features] = {}

    def answer(self, prompt: Prompt, most: int) -> Answer:
        """The greedy answer of up to `most` tokens."""
        tokens = [int(self._read(prompt, (), [len(prompt.token_ids) - 1])[0].argmax())]
        while tokens[-1] not in self.model.config.generation.eos and len(tokens) < min(most, prompt.max_new):
            past = len(prompt.token_ids) + len(tokens) - 1
            at = np.full((3, 1), prompt.next_position + len(tokens) - 1, np.int32)
            piece = Slice(np.array(tokens[-1:], np.int32), at, past, self._blocks(past + 1), logits=[0])
            tokens.append(int(self.model.language.step([piece]).logits[0].argmax()))
        answer = np.array(tokens, np.int32)
        return Answer(prompt, answer, self.expect(prompt, answer))

    def expect(self, prompt: Prompt, tokens: NDArray[np.int32]) -> F32:
        """Log-probabilities [tokens, vocabulary] at every place of the answer, given what stands before it."""
        first = len(prompt.token_ids) - 1
        logits = self._read(prompt, tokens[:-1], range(first, first + len(tokens)))
        logits -= logits.max(-1, keepdims=True)
        return logits - np.log(np.exp(logits).sum(-1, keepdims=True))

    def _read(self, prompt: Prompt, answer: Sequence[int] | NDArray[np.int32], rows: Sequence[int]) -> F32:
        """Logits of some rows of the prompt with a part of its answer, read in one step."""
        ids = np.concatenate([prompt.token_ids, np.asarray(answer, np.int32)])
        behind = prompt.next_position + np.arange(len(answer), dtype=np.int32)
        positions = np.concatenate([prompt.positions, np.tile(behind, (3, 1))], 1)
        visual = []
        for place in prompt.visuals:
            features = self._features(place.picture)
            visual.append(VisualRows(place.start, features.main, features.deep))
        step = Slice(ids, positions, 0, self._blocks(len(ids)), visual, rows)
        return self.model.language.step([step]).logits

    def _features(self, picture: Picture) -> Features:
        if picture.digest not in self._seen:
            self._seen[picture.digest] = self.model.vision.encode(picture.pixels)
        return self._seen[picture.digest]

    def _blocks(self, tokens: int) -> range:
        return range(1, 1 - (-tokens // self.model.language.block))


def compare(reader: Reader, answers: Sequence[Answer]) -> Agreement:
    divergences, same = [], []
    for answer in answers:
        found = reader.expect(answer.prompt, answer.tokens)
        divergences.append((np.exp(answer.expected) * (answer.expected - found)).sum(-1))
        same.append(answer.expected.argmax(-1) == found.argmax(-1))
    every = np.concatenate(divergences)
    return Agreement(
        precision=reader.model.kernels.precision,
        answers=len(answers),
        tokens=len(every),
        mean_kl=float(every.mean()),
        worst_kl=float(every.max()),
        equal_tokens=float(np.concatenate(same).mean()),
        equal_answers=float(np.mean([all(row) for row in same])),
        slow_paths=reader.model.slow_paths,
    )


def sample_questions() -> Iterator[tuple[bytes, str]]:
    """(encoded picture, question) of the golden samples, each in every variant."""
    for sample in json.loads((SAMPLES / "answers.json").read_text(encoding="utf-8")):
        picture = Image.open(SAMPLES / sample["image"]).convert("RGB")
        for change in VARIANTS.values():
            out = io.BytesIO()
            change(picture).save(out, "PNG")
            yield out.getvalue(), sample["question"]


def prompts(model: Model, asked: Sequence[tuple[bytes, str]]) -> list[Prompt]:
    workers = Decoders(MediaSettings(workers=1))
    preparer = Preparer(model, workers, MediaSettings(), model.config.text.max_positions)

    async def prepare() -> list[Prompt]:
        turns = [Message("user", (Encoded(picture), Text(question))) for picture, question in asked]
        return [await preparer.prepare(Conversation((turn,)), Sampling(temperature=0)) for turn in turns]

    try:
        return asyncio.run(prepare())
    finally:
        workers.close()


def load_as(name: str, checkpoint: Path, threads: int | None, cache: Path) -> Model:
    """The checkpoint in the precision of that name, its pack in a folder of its own."""
    precision: Precision = "int8" if name == "int8" else "exact" if name == "exact" else "int4"
    # Where nothing is seen of what matrices multiply, values are rounded to the nearest level.
    plain = {"layer_inputs": lambda opened, _: [{}] * opened.config.text.layers, "_SPARED": re.compile("(?!)")}
    with patch.multiple(quantize, **plain) if name == PLAIN else nullcontext():
        return load(checkpoint, EngineSettings(precision, threads, cache_dir=cache / name))


def digest(checkpoint: Path) -> str:
    """The first 12 hex digits of the SHA-256 of all weight files."""
    state = hashlib.sha256()
    for path in sorted(checkpoint.glob("*.safetensors")):
        with path.open("rb") as file:
            state.update(hashlib.file_digest(file, "sha256").digest())
    return state.hexdigest()[:12]


def show_table(console: Console, rows: Sequence[Agreement]) -> None:
    table = Table("precision", "answers", "tokens", "mean KL, nats", "worst KL", "equal tokens", "equal answers")
    for row in rows:
        shares = (f"{100 * share:.1f} %" for share in (row.equal_tokens, row.equal_answers))
        figures = (str(row.answers), str(row.tokens), f"{row.mean_kl:.5f}", f"{row.worst_kl:.3f}", *shares)
        table.add_row(row.precision, *figures)
        for slow in row.slow_paths:
            console.print(f"{row.precision}: {slow}", highlight=False)
    console.print(table)


def options() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--checkpoint", type=Path, default=Path(str(files("sightline") / "demo_model")))
    parser.add_argument("--image", type=Path, action="append", help="ask about these instead of the golden samples")
    parser.add_argument("--precision", action="append", choices=["int8", PLAIN, "int4"], help="default: all")
    parser.add_argument("--tokens", type=int, default=256, help="longest answer")
    parser.add_argument("--threads", type=int, help="default: every core")
    parser.add_argument("--out", type=Path, help="append the JSON line to this file")
    return parser


def main() -> None:
    given = options().parse_args()
    if given.image:
        asked = [(path.read_bytes(), question) for path in given.image for question in QUESTIONS]
    else:
        asked = list(sample_questions())
    rows = []
    with tempfile.TemporaryDirectory() as cache:

        def reader(name: str) -> Reader:
            return Reader(load_as(name, given.checkpoint, given.threads, Path(cache)))

        exact = reader("exact")
        answers = [exact.answer(prompt, given.tokens) for prompt in prompts(exact.model, asked)]
        del exact
        for name in given.precision or ("int8", PLAIN, "int4"):
            rows.append(replace(compare(reader(name), answers), precision=name))
    card = {
        "when": datetime.now(UTC).isoformat(timespec="seconds"),
        "commit": commit(),
        **machine(),
        "openvino": version("openvino"),
        "model": given.checkpoint.name,
        "weights": digest(given.checkpoint),
    }
    console = Console(width=120)
    show_card(console, card)
    show_table(console, rows)
    line = json.dumps(card | {"agreement": [asdict(row) for row in rows]}, ensure_ascii=False)
    print(line)
    if given.out:
        given.out.parent.mkdir(parents=True, exist_ok=True)
        with given.out.open("a", encoding="utf-8") as file:
            file.write(line + "\n")


if __name__ == "__main__":
    main()
