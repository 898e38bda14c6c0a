"""Opens a checkpoint and makes it ready to answer: weights, both towers, tokenizer, KV pools. Knows no requests."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TypeVar

import numpy as np

from sightline.errors import CheckpointError
from sightline.model import kernels as k
from sightline.model.checkpoint import Checkpoint
from sightline.model.config import ModelConfig
from sightline.model.kernels import Kernels
from sightline.model.language import LanguageModel, Slice
from sightline.model.lossless import open_lossless
from sightline.model.machine import read_machine, trim_heap
from sightline.model.own import OwnKernels
from sightline.model.packs import PackNotKept, Progress
from sightline.model.positions import token_positions
from sightline.model.prompt import Style, Tokenizer, read_template, style_of
from sightline.model.quantize import open_weights
from sightline.model.vision import VisionTower
from sightline.model.weights import Weights
from sightline.settings import EngineSettings

_RELEASE_EVERY_S = 0.2  # every 0.05 s cost 2 s of processor time in page faults (2B int8), this costs 0.2 GB at most
_WARM_MOE_TOKENS = 512
_WARM_SIDE_PX = 256  # the plugin repacks weights for pictures of some size; ours are computed with as they lie
_WARM_STEPS = (16, 8, 4, 2, 1)  # rows of the steps that write answers: several of them, or one with guesses
_KV_SHARE = 4  # by default the KV pools may grow to this part (1/n) of the memory free after loading
_KV_MOST = 4 << 30

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Model:
    """A loaded checkpoint. `slow_paths` names kernels that are not the ones this precision should run on."""

    config: ModelConfig
    tokenizer: Tokenizer
    style: Style
    language: LanguageModel
    vision: VisionTower
    kernels: Kernels
    slow_paths: tuple[str, ...]

    def rest(self) -> None:
        """Give back the memory that computing took; the next step takes it anew. Not while anything computes."""
        self.language.rest()
        self.vision.rest()
        trim_heap()


def load(folder: Path, settings: EngineSettings, progress: Progress | None = None) -> Model:
    """Load the checkpoint in `folder` for `settings.precision`, compute once with it, and reserve its KV pools.

    Raises CheckpointError when a file is missing, damaged or of another model. Takes seconds for a 2B model;
    `progress` hears about it. Tokenizer and both towers are made side by side, each in a thread of its own.
    """
    tell = progress or (lambda _what, _share: None)
    tell("reading checkpoint", 0.0)
    checkpoint = Checkpoint.open(folder)
    config = checkpoint.config
    tokenizer = _beside(lambda: _tokenizer_of(folder, config))
    template = read_template(folder)
    threads = settings.threads or read_machine().cores
    chosen = k.choose(settings.precision, threads, config, settings.own_kernels)
    weights, as_stored = _weights(checkpoint, settings, chosen, progress)
    with _releasing(weights) if chosen.own is None else nullcontext():  # ours read weights where they lie
        tell("compiling", 0.0)
        vision_tower = _beside(lambda: _warm_vision(config, weights, chosen))
        language = LanguageModel(config, weights, chosen)
        tell("warming up", 0.0)
        vision = vision_tower()
        if chosen.own is not None:
            _beside(partial(_move_weights, chosen.own))
        tell("warming up", 0.5)
        _warm_language(language)
    language.allocate(_kv_blocks(language, settings))
    model = Model(
        config=config,
        tokenizer=tokenizer(),
        style=style_of(template) if template else "instruct",
        language=language,
        vision=vision,
        kernels=chosen,
        slow_paths=(*as_stored, *k.slow_paths(chosen, config, language.compiled, vision.compiled)),
    )
    if settings.precision != "exact":
        checkpoint.release()  # of it only the patch embedding is read again
    trim_heap()  # 90 MB that reading a tokenizer of 150,000 words leaves behind
    tell("ready", 1.0)
    return model


def _weights(
    checkpoint: Checkpoint, settings: EngineSettings, chosen: Kernels, progress: Progress | None
) -> tuple[Weights, tuple[str, ...]]:
    """The weights for a precision, and why those of `exact` do not come in 12 bits though our own kernels read them."""
    precision, cache, threads = settings.precision, settings.cache_dir, chosen.threads
    if precision != "exact" or chosen.own is None:
        return open_weights(checkpoint, precision, cache, threads, progress, chosen.stored_vision), ()
    try:
        return open_lossless(checkpoint, cache, threads, progress), ()
    except PackNotKept as error:  # they are the same numbers as stored, only slower to read
        return Weights(checkpoint), (f"weights are read in 16 bits instead of 12: {error.message}",)


def _beside(work: Callable[[], T]) -> Callable[[], T]:
    """Begin `work` in a thread that a process which wants to end does not wait for; the call returned waits for it."""
    future: Future[T] = Future()

    def run() -> None:
        try:
            future.set_result(work())
        except BaseException as error:
            future.set_exception(error)

    threading.Thread(target=run, name="load beside", daemon=True).start()
    return future.result


def _tokenizer_of(folder: Path, config: ModelConfig) -> Tokenizer:
    tokenizer = Tokenizer.load(folder)
    if tokenizer.size > config.text.vocab:
        raise CheckpointError(
            f"{folder / 'tokenizer.json'}: has {tokenizer.size} tokens, the model only {config.text.vocab}; "
            "the tokenizer belongs to another checkpoint"
        )
    _check_control_tokens(config, tokenizer, folder)
    return tokenizer


def _check_control_tokens(config: ModelConfig, tokenizer: Tokenizer, folder: Path) -> None:
    expected = {
        "<|image_pad|>": config.image_token,
        "<|video_pad|>": config.video_token,
        "<|vision_start|>": config.vision_start_token,
        "<|vision_end|>": config.vision_end_token,
    }
    for token, number in expected.items():
        if tokenizer.special(token) != number:
            raise CheckpointError(
                f"{folder / 'tokenizer.json'}: {token} is token {tokenizer.special(token)}, config.json says {number}; "
                "the tokenizer belongs to another checkpoint"
            )


def _warm_vision(config: ModelConfig, weights: Weights, chosen: Kernels) -> VisionTower:
    tower = VisionTower(config, weights, chosen)
    side = _WARM_SIDE_PX if chosen.own is None else config.vision.patch * config.vision.merge
    tower.encode(np.zeros((1, side, side, 3), np.uint8))
    return tower


def _warm_language(language: LanguageModel) -> None:
    """Run one prompt chunk and the steps of writing: the plugin repacks weights and makes kernels for each new shape.

    Experts are repacked when first chosen, so a mixture reads enough different tokens to choose nearly all of them.
    """
    longest = _WARM_MOE_TOKENS if language.config.experts else language.block
    language.allocate(1 + longest // language.block)
    for count in (longest, *_WARM_STEPS) if language.multiplied_by_plugin else (1,):
        ids = np.linspace(0, language.config.vocab - 1, count, dtype=np.int32)
        positions, _ = token_positions(count, ())
        blocks = range(1, 1 + longest // language.block)
        language.step([Slice(ids, positions, 0, blocks, logits=[count - 1])])


def _move_weights(own: OwnKernels) -> None:
    """In a thread of its own, which steps back behind those that compute: on Linux only this thread gets nicer."""
    os.nice(10)
    own.move_weights()


@contextmanager
def _releasing(weights: Weights) -> Iterator[None]:
    """Keep giving back the pages of mapped weight files while the kernels make their own packed copies of them.

    Without it a load peaks at twice the size of the weights (measured on 2B).
    """
    done = threading.Event()

    def release() -> None:
        while not done.wait(_RELEASE_EVERY_S):
            weights.release()

    thread = threading.Thread(target=release, name="release-pages", daemon=True)
    thread.start()
    try:
        yield
    finally:
        done.set()
        thread.join()
        weights.release()


def _kv_blocks(language: LanguageModel, settings: EngineSettings) -> int:
    """How many blocks the pools get: what `kv_bytes` allows, by default a quarter of the free memory, at most 4 GiB.

    Pools are reserved, not filled: memory is used as blocks are first written, and kept blocks fill it in time.
    Never more than all running requests at full context could use, twice over.
    """
    block_bytes = language.kv_block_bytes
    budget = settings.kv_bytes or min(read_machine().memory_available // _KV_SHARE, _KV_MOST)
    context = min(language.config.max_positions, settings.max_context or language.config.max_positions)
    useful = 2 * settings.max_running * -(-context // language.block) + 2
    blocks = min(budget // block_bytes, useful)
    if blocks < 4:
        raise CheckpointError(
            f"the KV cache may use {budget >> 20} MiB, one block of this model takes {block_bytes >> 10} KiB; "
            "at least 4 blocks are needed: raise SIGHTLINE_KV_CACHE_MB or free memory"
        )
    return blocks
