"""Mixes the weights of two checkpoints of one run, an earlier and a later one. Trains nothing.

    python -m training.blend earlier.pt later.pt runs/demo/checkpoint.pt --vision 0.5 --language 0.8

A model that was taught something new at a high learning rate has lost some of what it knew, and lies near enough to
where it came from that the weights between the two know both. Clock, label heads and optimiser state are the later
one's.
"""

import argparse
from pathlib import Path

import torch
from torch import Tensor

from .keep import averaged


def blend(earlier: dict[str, Tensor], later: dict[str, Tensor], vision: float, language: float) -> dict[str, Tensor]:
    """Tensor by tensor, with the share of the later model in the vision tower and in the rest."""
    shares = {name: vision if ".visual." in name else language for name in later}
    return {name: torch.lerp(earlier[name], tensor, shares[name]) for name, tensor in later.items()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("earlier", type=Path)
    parser.add_argument("later", type=Path)
    parser.add_argument("out", type=Path)
    parser.add_argument("--vision", type=float, default=0.5, help="share of the later model, 0-1")
    parser.add_argument("--language", type=float, default=0.8)
    options = parser.parse_args()
    earlier, state = (
        torch.load(path, map_location="cpu", weights_only=True) for path in (options.earlier, options.later)
    )
    state["average"] = blend(averaged(earlier), averaged(state), options.vision, options.language)
    state["model"] = {name: tensor.clone() for name, tensor in state["average"].items()}
    torch.save(state, options.out)


if __name__ == "__main__":
    main()
