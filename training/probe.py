"""Accuracy of a checkpoint on held-out pictures, by the compact model itself: a quick look while training goes on.

    python -m training.probe training/runs/demo/checkpoint.pt --samples 24

The figures that count come from `evaluate`, through the service.
"""

import argparse
import json
import time
from pathlib import Path

import torch

from . import tokenizer as words
from .answering import answers
from .export import load
from .held_out import SEED, trials
from .score import bar, is_right

AT_ONCE = 24


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("checkpoint", type=Path)
    parser.add_argument("--samples", type=int, default=24)
    parser.add_argument("--seed", default=SEED, help="any other word than the default: to choose between checkpoints")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--show", type=int, default=0, help="wrong answers to print for every task")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    model, tokenizer = load(options.checkpoint), words.build()
    clock = torch.load(options.checkpoint, map_location="cpu", weights_only=True)["clock"]
    accuracy, began = {}, time.monotonic()
    for task, asked in trials(options.samples, seed=options.seed).items():
        given = [
            one for n in range(0, len(asked), AT_ONCE) for one in answers(model, tokenizer, asked[n : n + AT_ONCE])
        ]
        right = [is_right(task, trial.expected, answer) for trial, answer in zip(asked, given, strict=True)]
        accuracy[task] = sum(right) / len(right)
        promised = bar(task)
        print(f"{task:20} {accuracy[task]:6.1%}  {f'of {promised:.0%}' if promised else '':8}", flush=True)
        wrong = [(trial, answer) for trial, answer, ok in zip(asked, given, right, strict=True) if not ok]
        for trial, answer in wrong[: options.show]:
            print(f"    {trial.question!r} expected {trial.expected!r} got {answer!r}")
    row = {"minutes": round(clock[0] / 60, 2), "step": clock[1], "samples": options.samples, "accuracy": accuracy}
    with options.checkpoint.with_name("accuracy.jsonl").open("a") as lines:
        lines.write(json.dumps(row) + "\n")
    print(f"mean {sum(accuracy.values()) / len(accuracy):.1%} in {time.monotonic() - began:.0f} s")


if __name__ == "__main__":
    main()
