"""Greedy answers of the compact model, many prompts at a time. For progress figures and for checking an export."""

import numpy as np
import torch
from tokenizers import Tokenizer

from .held_out import Trial
from .model import DemoModel
from .packing import Packer


@torch.no_grad()
def answers(model: DemoModel, tokenizer: Tokenizer, trials: list[Trial], limit: int = 320) -> list[str]:
    """One answer for each trial; all pictures have the same size and every trial the same number of them."""
    packer = Packer(tokenizer)
    prompts = [packer.prompt([p.shape[:2] for p in trial.pictures], trial.turns, trial.question) for trial in trials]
    ids, positions, there = packer.left_padded(prompts)
    length = ids.shape[1]
    mask = torch.ones(length, length, dtype=torch.bool).tril() & there[:, None, :]
    mask = (mask | torch.eye(length, dtype=torch.bool))[:, None]
    seen = model.model.visual(torch.from_numpy(np.stack([p for trial in trials for p in trial.pictures])))
    caches: list[list[torch.Tensor]] = [[] for _ in model.model.language_model.layers]
    hidden = model.read(ids, positions, mask, seen, packer.visible(ids), caches)[:, -1]
    position = torch.tensor([prompt.next_position for prompt in prompts])
    written: list[list[int]] = [[] for _ in trials]
    open_rows = set(range(len(trials)))
    for _ in range(limit):
        token = model.logits(hidden).argmax(-1)
        for row in list(open_rows):
            if token[row] in (packer.end, packer.pad):
                open_rows.discard(row)
            else:
                written[row].append(int(token[row]))
        if not open_rows:
            break
        there = torch.cat([there, torch.ones(len(trials), 1, dtype=torch.bool)], 1)
        step = position.view(1, -1, 1).expand(3, -1, 1)
        hidden = model.read(token[:, None], step, there[:, None, None], caches=caches)[:, -1]
        position = position + 1
    return [tokenizer.decode(row) for row in written]
