"""Measures what guessing an answer's next tokens by prompt lookup brings, and that it changes no answer.

    python bench/lookup.py --checkpoint DIR --precision int8

The demo model answers the golden samples with guesses and without: the answers must be equal. A checkpoint of random
weights has nothing to say, so there the written answers of `written.json` are said: every step computes all that it
would, and then the sampler takes the next written token. Both take turns. Prints a card, a table, claims, a JSON line.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from importlib.metadata import version
from importlib.resources import files
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
from numpy.typing import NDArray

import agreement
from report import Claim, Figure
from rounds import Measured, card_of, publish, quietly
from sightline.engine import engine as engine_module
from sightline.engine.constrain import GrammarCompiler
from sightline.engine.engine import Engine
from sightline.engine.prompt import Prompt
from sightline.engine.sampler import Choice, Sampler
from sightline.model.load import Model, load
from sightline.settings import EngineSettings
from sightline.types import Grammar, Precision, Sampling, Usage

WITH, WITHOUT = "guesses", "no guesses"
DEMO = "demo model, golden samples"
ROOM = 4000  # tokens an answer might have
WARM_TOKENS = 16
LIMITS = {"copies": 1 / 1.6, "elsewhere": 1 / 0.97}  # of the time without guesses


@dataclass(frozen=True, slots=True)
class Written:
    """A question and the answer that is said to it. `kind`: whether the answer copies the prompt, or is new."""

    name: str
    kind: str
    schema: bool  # whether the question asks for JSON of the answer's form
    prompt: str
    answer: str


class Replay:
    """While open, every answer of every engine is the script: samplers work as always, then say its next token."""

    def __init__(self) -> None:
        self.script: list[int] = []

    @contextlib.contextmanager
    def installed(self) -> Iterator[None]:
        replay = self

        class Said(Sampler):
            def choose(self, logits: Any, mask: NDArray[np.bool_] | None = None) -> Choice:
                super().choose(logits, mask)
                self.said = getattr(self, "said", -1) + 1
                token = replay.script[self.said]
                assert mask is None or mask[token], "the written answer does not satisfy its own schema"
                return Choice(token)

        with mock.patch.object(engine_module, "Sampler", Said):
            yield


def schema_of(value: object) -> dict[str, object]:
    """A JSON schema that `value` satisfies, all keys required."""
    if isinstance(value, dict):
        inner = {key: schema_of(item) for key, item in value.items()}
        return {"type": "object", "properties": inner, "required": list(value), "additionalProperties": False}
    if isinstance(value, list):
        return {"type": "array", "items": schema_of(value[0])}
    return {"type": "string" if isinstance(value, str) else "number"}


def prompt_of(model: Model, compiler: GrammarCompiler, written: Written) -> Prompt:
    tokenizer = model.tokenizer
    text = f"<|im_start|>user\n{written.prompt}<|im_end|>\n<|im_start|>assistant\n"
    ids = np.array(tokenizer.encode(text), np.int32)
    grammar = Grammar(json.dumps(schema_of(json.loads(written.answer)))) if written.schema else None
    positions = np.broadcast_to(np.arange(len(ids), dtype=np.int32), (3, len(ids)))
    return Prompt(ids, positions, len(ids), (), ROOM, compiler.compile(grammar) if grammar else None)


def answer(engine: Engine, prompt: Prompt, most: int) -> tuple[list[int], Usage]:
    """The tokens of a greedy answer of up to `most`, and what it cost."""
    deltas = list(engine.submit(prompt, Sampling(temperature=0, max_tokens=most)))
    usage = deltas[-1].usage
    assert usage
    return [token for delta in deltas for token in delta.tokens], usage


def engine_of(model: Model, name: str) -> Engine:
    return Engine(model, EngineSettings(speculate=name == WITH))


def turns(number: int) -> tuple[str, str]:
    """Who goes first changes from round to round."""
    return (WITH, WITHOUT) if number % 2 else (WITHOUT, WITH)


def replayed(model: Model, cases: Sequence[Written], rounds: int, most: int) -> dict[str, dict[str, list[float]]]:
    """Tokens per second of the written answers by engine and case.

    The pools hold what either engine wrote last, so attention may read what belongs to another text: its time is the
    same, and what it finds decides nothing here.
    """
    tokenizer, replay = model.tokenizer, Replay()
    compiler = GrammarCompiler(tokenizer.definition, tokenizer.size, model.config.generation.eos)
    results: dict[str, dict[str, list[float]]] = {WITH: {}, WITHOUT: {}}
    with replay.installed():
        engines = {name: engine_of(model, name) for name in (WITH, WITHOUT)}  # one at a time has work
        for number in range(rounds + 1):  # the first one is for the guesser to learn what steps cost
            for case in cases:
                script = tokenizer.encode(case.answer)[: most if number else WARM_TOKENS]
                replay.script = [*script, *[0] * engine_module.MIXED_TOKENS]
                for name in turns(number):
                    tokens, usage = answer(engines[name], prompt_of(model, compiler, case), len(script))
                    assert tokens == script[: len(tokens)]
                    if number:
                        rate = 1e3 * (len(tokens) - 1) / usage.decode_ms
                        results[name].setdefault(f"{case.name} / decode_tok_s", []).append(round(rate, 3))
        for engine in engines.values():
            engine.close()
    return results


def demo(precision: Precision, rounds: int, most: int) -> dict[str, dict[str, list[float]]]:
    """Tokens per second of all golden samples together, and how many answers are equal with and without guesses."""
    folder = Path(str(files("sightline") / "demo_model"))
    results: dict[str, dict[str, list[float]]] = {WITH: {}, WITHOUT: {}}
    with tempfile.TemporaryDirectory() as cache:
        models = [load(folder, EngineSettings(precision, cache_dir=Path(cache))) for _ in range(2)]  # own KV pools
    samples = json.loads((agreement.SAMPLES / "answers.json").read_text(encoding="utf-8"))
    asked = [((agreement.SAMPLES / sample["image"]).read_bytes(), sample["question"]) for sample in samples]
    prompts = agreement.prompts(models[0], asked)
    engines = {name: engine_of(model, name) for name, model in zip((WITH, WITHOUT), models, strict=True)}
    for number in range(1, rounds + 1):
        said: dict[str, list[list[int]]] = {}
        for name in turns(number):
            answers = [answer(engines[name], prompt, most) for prompt in prompts]
            said[name] = [tokens for tokens, _ in answers]
            seconds = sum(usage.decode_ms for _, usage in answers) / 1e3
            rate = sum(len(tokens) - 1 for tokens in said[name]) / seconds
            results[name].setdefault(f"{DEMO} / decode_tok_s", []).append(round(rate, 3))
        equal = sum(map(list.__eq__, said[WITH], said[WITHOUT]))
        results[WITH].setdefault(f"{DEMO} / equal", []).append(equal)
        results[WITHOUT].setdefault(f"{DEMO} / equal", []).append(len(prompts))
    for engine in engines.values():
        engine.close()
    return results


def measure(given: argparse.Namespace, cases: Sequence[Written], cache: Path) -> Measured:
    results = demo(given.precision, given.rounds, given.tokens)
    if given.checkpoint:
        model = load(Path(given.checkpoint), EngineSettings(given.precision, cache_dir=cache))
        for name, figures in replayed(model, cases, given.rounds, given.tokens).items():
            results[name] |= figures
    return Measured(results, {"sightline": {"openvino": version("openvino")}})


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--checkpoint", help="Qwen3-VL folder that says the written answers; else the demo model only")
    parser.add_argument("--precision", default="int8", choices=["exact", "int8", "int4"])
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--tokens", type=int, default=400, help="of each answer at most")
    parser.add_argument("--case", action="append", help="names in written.json; default: all")
    parser.add_argument("--cache", type=Path, help="where our quantised weights stay; default: for this run only")
    parser.add_argument("--out", type=Path, help="append the JSON line to this file")
    given = parser.parse_args()
    texts = json.loads((Path(__file__).parent / "written.json").read_text(encoding="utf-8"))
    cases = [case for case in (Written(**text) for text in texts) if not given.case or case.name in given.case]
    card = card_of(table="lookup", precision=given.precision, tokens=given.tokens, rounds=given.rounds)
    with tempfile.TemporaryDirectory() as made:
        cache = given.cache / f"sightline {given.precision}" if given.cache else Path(made)
        measured = quietly(card, lambda: measure(given, cases, cache))
    figures = [
        *(
            Figure(case.name, "decode_tok_s", f"{case.name} ({case.kind}), tok/s", more_is_better=True)
            for case in cases
        ),
        Figure(DEMO, "decode_tok_s", f"{DEMO}, tok/s", more_is_better=True),
        Figure(DEMO, "equal", f"{DEMO}: equal answers", more_is_better=True),
    ]
    claims = [
        Claim(f"{case.name}: {1 / limit:.2f}x with guesses", (WITHOUT, key), (WITH, key), limit)
        for case in cases
        for key, limit in [(f"{case.name} / decode_tok_s", LIMITS[case.kind])]
    ]
    same = f"{DEMO} / equal"
    claims.append(Claim("guesses change no answer of the demo model", (WITHOUT, same), (WITH, same), 1.0))
    publish(card, measured, figures, claims, given.out)


if __name__ == "__main__":
    main()
