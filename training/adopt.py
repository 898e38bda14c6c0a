"""Starts from an earlier checkpoint in Hugging Face layout whose vocabulary or key/value heads are fewer.

Key and value heads are repeated for the queries that shared them, which leaves the function as it was; an embedding is
found by its token's string, and a new token starts as the mean of the tokens that spelt it before.
"""

import json
from pathlib import Path

import torch
from safetensors.torch import load_file
from tokenizers import Tokenizer
from torch import Tensor

from .model import DemoModel


def adopt(model: DemoModel, tokenizer: Tokenizer, folder: Path) -> None:
    """Overwrite the model's weights; a shape that fits neither as it is nor widened raises from load_state_dict."""
    weights = {name: tensor.float() for name, tensor in load_file(folder / "model.safetensors").items()}
    text = json.loads((folder / "config.json").read_text())["text_config"]
    repeat = model.shape.text.kv_heads // text["num_key_value_heads"]
    for name in list(weights):
        if name.endswith(("k_proj.weight", "v_proj.weight")):
            heads = weights[name].view(text["num_key_value_heads"], text["head_dim"], -1)
            weights[name] = heads.repeat_interleave(repeat, 0).flatten(0, 1)
    table = "model.language_model.embed_tokens.weight"
    weights[table] = _embeddings(model, tokenizer, Tokenizer.from_file(str(folder / "tokenizer.json")), weights[table])
    model.load_state_dict(weights)


def _embeddings(model: DemoModel, new: Tokenizer, old: Tokenizer, rows: Tensor) -> Tensor:
    table = model.model.language_model.embed_tokens.weight.detach().clone()
    known = old.get_vocab()
    for token, number in new.get_vocab().items():
        spelt = [known[token]] if token in known else old.encode(new.decode([number]), add_special_tokens=False).ids
        table[number] = rows[torch.tensor(spelt)].mean(0)
    return table
