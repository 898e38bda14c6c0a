"""Shrinks a training checkpoint to what is worth committing: the weights, without averages and optimiser state.

    python -m training.keep training/runs/demo/checkpoint.pt kept/checkpoint.pt

Put it into a run folder and `train` goes on from it, with fresh momentum.
"""

import argparse
from pathlib import Path

import torch
from torch import Tensor


def averaged(state: dict[str, dict[str, Tensor]]) -> dict[str, Tensor]:
    """The averaged weights of a checkpoint; a kept one has no others."""
    return state.get("average") or state["model"]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("checkpoint", type=Path)
    parser.add_argument("kept", type=Path)
    options = parser.parse_args()
    state = torch.load(options.checkpoint, map_location="cpu", weights_only=True)
    options.kept.parent.mkdir(parents=True, exist_ok=True)
    # The averaged weights are the better start: training on from them needs no average of its own.
    kept = {"model": averaged(state)} | {name: state[name] for name in ("heads", "clock", "vocabulary")}
    torch.save(kept, options.kept)


if __name__ == "__main__":
    main()
