"""Trains the demo model, stops and goes on where it stopped. Knows stages, time and checkpoints; never HTTP.

    python -m training.train --out training/runs/demo --minutes 120 --adopt shared/earlier-checkpoint

The learning rate follows the share of the time budget that is used, so a slower machine sees fewer pictures but ends
in the same way. Started again with the same --out, it goes on from the last checkpoint.
"""

import argparse
import json
import os
import signal
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from random import Random

import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, IterableDataset, get_worker_info

from sightline.model.machine import read_machine

from . import losses, tokenizer
from .adopt import adopt
from .model import DemoModel, Shape, TextShape
from .muon import Muon
from .packing import Batch, Packer
from .pictures.draw import example
from .threads import FreeCores

LOOK_SHARE = 0.25  # of the time: the vision tower alone
WARM_SHARE, FULL_SHARE = 0.015, 0.2  # the learning rate rises, stays, then falls linearly to LAST_FACTOR
LAST_FACTOR = 0.02
MUON_RATE, ADAM_RATE, HEADS_RATE = 0.009, 0.001, 0.003
EMA_DECAY = 0.99
SAVE_EVERY_S, SHOW_EVERY_STEPS = 180, 20
LONGEST_STEP_S = 30  # what a step took beyond this, it was paused (SIGSTOP) and does not count as training

CANVASES = [(256, 320), (320, 256), (224, 320), (288, 288), (256, 256)]
KINDS = {
    "receipt": 0.14,
    "tight_receipt": 0.07,
    "unlisted_receipt": 0.03,
    "chart": 0.2,
    "scene": 0.24,
    "text": 0.06,
    "form": 0.26,
}
PAIRS = {"two_receipts": 0.75, "two_scenes": 0.25}
PAIR_SHARE = 0.14  # of the batches
BATCH = 8
LOOK_CANVASES = [(256, 192), (192, 256), (224, 224), (256, 256), (128, 128)]
LOOK_KINDS = {"dense": 0.2, "receipt": 0.22, "chart": 0.32, "scene": 0.26}
LOOK_TOKENS = 400  # visual tokens of a batch in the look stage


class Batches(IterableDataset[Batch]):
    """An endless stream; batch number n is a function of the seed, the stage and n."""

    def __init__(self, stage: str, seed: int, first: int) -> None:
        self._stage, self._seed, self._first = stage, seed, first

    def __iter__(self) -> Iterator[Batch]:
        worker = get_worker_info()
        number, step = self._first + (worker.id if worker else 0), worker.num_workers if worker else 1
        packer = Packer(tokenizer.build())
        while True:
            yield self._draw(packer, Random(f"{self._seed}/{self._stage}/{number}"))
            number += step

    def _draw(self, packer: Packer, rng: Random) -> Batch:
        if self._stage == "look":
            width, height = rng.choice(LOOK_CANVASES)
            count, kinds = LOOK_TOKENS * 1024 // (width * height), LOOK_KINDS
            if width < 192:
                kinds = {"scene": 0.8, "dense": 0.2}
        elif rng.random() < PAIR_SHARE:
            (width, height), count, kinds = rng.choice(CANVASES), BATCH // 2, PAIRS
        else:
            (width, height), count, kinds = rng.choice(CANVASES), BATCH, KINDS
        names = rng.choices(list(kinds), list(kinds.values()), k=count)
        examples = [example(rng, name, width, height) for name in names]
        return packer.batch([packer.pack(rng, drawn) for drawn in examples], examples)


@dataclass(slots=True)
class Clock:
    """How much of the time budget is used; counts across restarts."""

    budget_s: float
    used_s: float = 0.0
    steps: int = 0
    pictures: int = 0

    @property
    def share(self) -> float:
        return min(1.0, self.used_s / self.budget_s)

    @property
    def rate(self) -> float:
        if self.share < WARM_SHARE:
            return max(0.02, self.share / WARM_SHARE)
        if self.share < FULL_SHARE:
            return 1.0
        return max(LAST_FACTOR, (1 - self.share) / (1 - FULL_SHARE))


class Trainer:
    def __init__(self, out: Path, seed: int, budget_s: float, adopted: Path | None, most_threads: int = 1) -> None:
        torch.manual_seed(seed)
        self._cores = FreeCores(most_threads)
        words = tokenizer.build()
        self.out, self.seed = out, seed
        self.device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        # Processors without bf16 instructions imitate them, several times slower than float32.
        self._bf16 = self.device.type == "cuda" or read_machine().multiplies_bf16
        rough = torch.bfloat16 if self._bf16 else torch.float32
        self.model = DemoModel(Shape(text=TextShape(vocabulary=tokenizer.padded_size(words))))
        if adopted:
            adopt(self.model, words, adopted)
        self.heads = losses.LabelHeads(self.model.shape)
        self.model.to(self.device)
        self.model.compile_layers()
        self.heads.to(self.device)
        self.average = {name: tensor.clone() for name, tensor in self.model.state_dict().items()}
        self.clock = Clock(budget_s)
        matrices = [
            p for name, p in self.model.named_parameters() if p.dim() == 2 and ("blocks" in name or "layers" in name)
        ]
        ours = {id(p) for p in matrices}
        self._rest = [p for p in self.model.parameters() if id(p) not in ours]
        # The mergers stay with AdamW: their 640x640 matrices would take most of Muon's time.
        self._muon = Muon(matrices, lr=MUON_RATE, weight_decay=0.02, momentum=0.95, dtype=rough)
        groups = [
            {"params": [p for p in self._rest if p.dim() > 1], "weight_decay": 0.01, "peak": ADAM_RATE},
            {"params": [p for p in self._rest if p.dim() <= 1], "weight_decay": 0.0, "peak": ADAM_RATE},
            {"params": list(self.heads.parameters()), "weight_decay": 0.01, "peak": HEADS_RATE},
        ]
        self._adam = torch.optim.AdamW(groups, lr=ADAM_RATE, betas=(0.9, 0.98), eps=1e-9, fused=True)

    def run(self) -> None:
        """Train until the budget is used or a signal asks to stop; saves either way."""
        stop = _StopRequest()
        stage, batches, saved_at, figures = "", iter(()), time.monotonic(), {}
        while self.clock.share < 1 and not stop.asked:
            began = time.monotonic()
            torch.set_num_threads(self._cores.count())
            wanted = "look" if self.clock.share < LOOK_SHARE else "answer"
            if wanted != stage:
                stage, batches = wanted, self._stream(wanted)
            batch = _moved(next(batches), self.device)
            lesson = self._step(stage, batch)
            self.clock.steps += 1
            self.clock.pictures += len(batch.pixels)
            for name, value in lesson.figures.items():
                figures[name] = 0.95 * figures.get(name, float(value)) + 0.05 * float(value)
            self.clock.used_s += min(LONGEST_STEP_S, time.monotonic() - began)
            if self.clock.steps % SHOW_EVERY_STEPS == 0:
                self._show(stage, figures, time.monotonic() - began)
            if time.monotonic() - saved_at > SAVE_EVERY_S:
                self.save()
                saved_at = time.monotonic()
        self.save()

    def save(self) -> None:
        """Replace the checkpoint in one move, so that a crash leaves the earlier one whole."""
        state = {
            "model": self.model.state_dict(),
            "heads": self.heads.state_dict(),
            "average": self.average,
            "muon": self._muon.state_dict(),
            "adam": self._adam.state_dict(),
            "clock": (self.clock.used_s, self.clock.steps, self.clock.pictures),
            "vocabulary": tokenizer.fingerprint(),
        }
        self.out.mkdir(parents=True, exist_ok=True)
        part = self.out / "checkpoint.part"
        torch.save(state, part)
        part.replace(self.out / "checkpoint.pt")

    def resume(self) -> bool:
        """Load the last checkpoint of this run; False when there is none."""
        path = self.out / "checkpoint.pt"
        if not path.exists():
            return False
        state = torch.load(path, map_location=self.device, weights_only=True)
        words = tokenizer.fingerprint()
        if state.get("vocabulary", words) != words:
            raise SystemExit(
                f"{path} was trained with vocabulary {state['vocabulary']}, the wordings now make {words}: keep to "
                "characters that they had, or start anew with --adopt"
            )
        self.model.load_state_dict(state["model"])
        self.heads.load_state_dict(state["heads"])
        self.average = state.get("average") or {name: tensor.clone() for name, tensor in state["model"].items()}
        if "muon" in state:  # `keep` leaves the weights only
            self._muon.load_state_dict(state["muon"])
            self._adam.load_state_dict(state["adam"])
        self.clock.used_s, self.clock.steps, self.clock.pictures = state["clock"]
        return True

    def _step(self, stage: str, batch: Batch) -> losses.Lesson:
        teach = losses.look if stage == "look" else losses.answer
        with torch.autocast(self.device.type, torch.bfloat16, enabled=self._bf16):
            lesson = teach(self.model, self.heads, batch)
        lesson.loss.backward()
        nn.utils.clip_grad_norm_([p for p in self._rest if p.grad is not None], 1.0)
        for group in self._adam.param_groups:
            group["lr"] = group["peak"] * self.clock.rate
        for group in self._muon.param_groups:
            group["lr"] = MUON_RATE * self.clock.rate
        for optimiser in (self._adam, self._muon):
            optimiser.step()
            optimiser.zero_grad(set_to_none=True)
        with torch.no_grad():
            for name, tensor in self.model.state_dict().items():
                self.average[name].lerp_(tensor, 1 - EMA_DECAY)
        return lesson

    def _stream(self, stage: str) -> Iterator[Batch]:
        # Numbering by steps taken keeps the stream moving forward after a restart.
        batches = Batches(stage, self.seed, self.clock.steps)
        workers = max(1, (os.cpu_count() or 2) // 2) if self.device.type == "cuda" else 1
        return iter(DataLoader(batches, None, num_workers=workers, prefetch_factor=6, worker_init_fn=_ignore_stop))

    def _show(self, stage: str, figures: dict[str, float], step_s: float) -> None:
        clock = self.clock
        row = {"stage": stage, "step": clock.steps, "minutes": round(clock.used_s / 60, 2), "pictures": clock.pictures}
        row |= {"rate": round(clock.rate, 3), "step_s": round(step_s, 2), "threads": torch.get_num_threads()}
        row |= {name: round(value, 4) for name, value in figures.items()}
        print("  ".join(f"{name} {value}" for name, value in row.items()), flush=True)
        self.out.mkdir(parents=True, exist_ok=True)
        with (self.out / "progress.jsonl").open("a") as lines:
            lines.write(json.dumps(row) + "\n")


class _StopRequest:
    """SIGTERM and SIGINT end the run after the step that is under way."""

    def __init__(self) -> None:
        self.asked = False
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, self._ask)

    def _ask(self, *_: object) -> None:
        self.asked = True


def _ignore_stop(_worker: int) -> None:
    """A stop signal to the whole process group must not kill the drawing workers before the trainer has saved."""
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, signal.SIG_IGN)


def _moved(batch: Batch, device: torch.device) -> Batch:
    fields: dict[str, Tensor] = {name: getattr(batch, name).to(device) for name in Batch.__slots__}
    return Batch(**fields)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True, help="folder of this run: checkpoint and progress")
    parser.add_argument("--minutes", type=float, default=120.0, help="time budget of the whole run")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--threads", type=int, default=os.cpu_count(), help="at most; fewer beside busy neighbours")
    parser.add_argument("--adopt", type=Path, help="earlier checkpoint in Hugging Face layout to start from")
    options = parser.parse_args()
    trainer = Trainer(options.out, options.seed, options.minutes * 60, options.adopt, options.threads)
    print("resumed" if trainer.resume() else "new run", f"at {trainer.clock.steps} steps", flush=True)
    trainer.run()


if __name__ == "__main__":
    main()
