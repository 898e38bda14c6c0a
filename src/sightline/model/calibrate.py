"""Sends the package's own prompts through a checkpoint, layer by layer, to see what its matrices multiply.

One matrix at a time is in memory as float32. Knows the language model's arithmetic, in numpy; knows no packing.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sightline.model import kernels
from sightline.model.checkpoint import Checkpoint, to_float32
from sightline.model.positions import TextRotary, token_positions
from sightline.model.prompt import Tokenizer, encode_pieces, read_template, render, style_of
from sightline.model.vision import Features, VisionTower, grid_of
from sightline.model.weights import Weight, Weights
from sightline.types import Conversation, Image, Message, Part, Text

F32 = NDArray[np.float32]
I32 = NDArray[np.int32]
# By a matrix's name, the rows [n, in] it multiplies: one array for each of its experts, or one that all of them share.
Inputs = Mapping[str, Sequence[F32]]

PROMPTS = Path(__file__).with_name("packing_prompts.npz")  # written by training/packing_prompts.py
_PREFIX = "model.language_model."
_EMBEDDING = _PREFIX + "embed_tokens.weight"


@dataclass(frozen=True, slots=True)
class Read:
    """A prompt as the first layer reads it: ids [n], positions [3, n], and where a picture's features begin."""

    ids: I32
    positions: I32
    start: int = 0
    picture: Features | None = None


def layer_inputs(checkpoint: Checkpoint, threads: int) -> Iterator[Inputs]:
    """For each layer in turn, what its matrices multiply. Computes the layer when it is asked for it."""
    walk = Walk(Weights(checkpoint), _prompts(checkpoint, threads))
    for layer in range(checkpoint.config.text.layers):
        yield walk.layer(layer)


def _prompts(checkpoint: Checkpoint, threads: int) -> list[Read]:
    """The shipped conversations as this checkpoint reads them, their pictures seen by its own vision tower."""
    config, tokenizer = checkpoint.config, Tokenizer.load(checkpoint.folder)
    style = style_of(read_template(checkpoint.folder) or "")
    tower = VisionTower(config, Weights(checkpoint), kernels.choose("exact", threads, config))
    read = []
    with np.load(PROMPTS) as file:
        for prompt in json.loads(str(file["prompts"])):
            pixels = file[prompt["picture"]][None] if "picture" in prompt else None
            features = None if pixels is None else tower.encode(pixels)
            grid = None if pixels is None else grid_of(1, pixels.shape[1], pixels.shape[2], config.vision)
            pieces = render(_conversation(prompt), style=style, generation_prompt=False)
            encoded = encode_pieces(pieces, tokenizer, [] if features is None else [len(features.main)])
            start = encoded.spans[0].start if encoded.spans else 0
            spans = [] if grid is None else [(start, grid)]
            positions, _ = token_positions(len(encoded.token_ids), spans, config.vision.merge)
            read.append(Read(encoded.token_ids, positions, start, features))
    return read


def _conversation(prompt: Mapping[str, Any]) -> Conversation:
    """A picture with questions and their answers, or a text that is one message."""
    if "text" in prompt:
        return Conversation((Message("user", (Text(prompt["text"]),)),))
    messages: list[Message] = []
    lead: tuple[Part, ...] = (Image(b""),)
    for question, answer in prompt["turns"]:
        messages += [Message("user", (*lead, Text(question))), Message("assistant", (Text(answer),))]
        lead = ()
    return Conversation(tuple(messages))


class Walk:
    """All tokens of all prompts on their way through the layers: [tokens, hidden], prompt after prompt."""

    def __init__(self, weights: Weights, prompts: Sequence[Read]):
        self._weights, self._text = weights, weights.checkpoint.config.text
        text = self._text
        self._ends = np.cumsum([len(prompt.ids) for prompt in prompts])[:-1]
        self._states = weights.rows(_EMBEDDING, np.concatenate([prompt.ids for prompt in prompts]), text.hidden)
        rotary = TextRotary(text.head_dim, text.rope_theta, text.mrope_section)
        self._cos, self._sin = rotary(np.concatenate([prompt.positions for prompt in prompts], 1))
        begins = (0, *self._ends)
        seen = [(b + p.start, p.picture) for b, p in zip(begins, prompts, strict=True) if p.picture is not None]
        self._visual = np.concatenate([np.arange(at, at + len(picture.main)) for at, picture in seen])
        self._deep = np.concatenate([picture.deep for _, picture in seen], 1)
        self._states[self._visual] = np.concatenate([picture.main for _, picture in seen])

    def layer(self, layer: int) -> Inputs:
        """Take all tokens through this layer, the one behind the last; what its matrices multiplied on the way.

        Rows whose product is added to the states are divided by the states' size: the next norm does that, too, and
        the first tokens of a prompt, often a thousand times larger than all others, would else be all that counts.
        """
        text, prefix = self._text, f"{_PREFIX}layers.{layer}."
        x = _normal(self._states, self._gain(prefix + "input_layernorm.weight"), text.eps)
        seen: dict[str, Sequence[F32]] = {f"{prefix}self_attn.{name}_proj.weight": [x] for name in "qkv"}
        x = self._attention(x, prefix)
        name = prefix + "self_attn.o_proj.weight"
        self._states = self._states + self._product(x, name, text.hidden)
        seen[name] = [x / _size(self._states, text.eps)]
        x = _normal(self._states, self._gain(prefix + "post_attention_layernorm.weight"), text.eps)
        if text.is_moe_layer(layer):
            seen |= self._experts(x, prefix + "mlp.")
        else:
            seen |= self._mlp(x, prefix + "mlp.")
        if layer < len(self._deep):
            self._states[self._visual] += self._deep[layer]
        return seen

    def _attention(self, x: F32, prefix: str) -> F32:
        text = self._text

        def heads(kind: str, count: int) -> F32:
            name = f"{prefix}self_attn.{kind}_proj.weight"
            return self._product(x, name, count * text.head_dim).reshape(-1, count, text.head_dim)

        def turned(y: F32, kind: str) -> F32:
            y = _normal(y, self._gain(f"{prefix}self_attn.{kind}_norm.weight"), text.eps)
            first, second = np.split(y, 2, -1)
            both = y * self._cos[:, None] + np.concatenate([-second, first], -1) * self._sin[:, None]
            return both.astype(np.float32, copy=False)

        query, key = turned(heads("q", text.heads), "q"), turned(heads("k", text.kv_heads), "k")
        value = heads("v", text.kv_heads)
        parts = zip(*(np.split(each, self._ends) for each in (query, key, value)), strict=True)
        return np.concatenate([_attend(*part) for part in parts])

    def _mlp(self, x: F32, prefix: str) -> dict[str, Sequence[F32]]:
        text, names = self._text, [f"{prefix}{kind}_proj.weight" for kind in ("gate", "up", "down")]
        inner = _silu(self._product(x, names[0], text.intermediate)) * self._product(x, names[1], text.intermediate)
        self._states = self._states + self._product(inner, names[2], text.hidden)
        return {names[0]: [x], names[1]: [x], names[2]: [inner / _size(self._states, text.eps)]}

    def _experts(self, x: F32, prefix: str) -> dict[str, Sequence[F32]]:
        """As in `experts.py`. What an expert's first matrix multiplies is taken to be what all of them do."""
        text, names = self._text, [f"{prefix}experts.{kind}" for kind in ("gate_up_proj", "down_proj")]
        scores = x @ self._weights.values(prefix + "gate.weight", text.experts, text.hidden).T
        shares = np.exp(scores - scores.max(-1, keepdims=True))
        best = np.argsort(-shares, -1, kind="stable")[:, : text.experts_per_token]
        best_shares = np.take_along_axis(shares, best, -1)
        best_shares /= best_shares.sum(-1, keepdims=True)
        states, inputs = self._states.copy(), []
        for expert in range(text.experts):
            tokens, place = np.nonzero(best == expert)
            wide = self._weights.expert(names[0], expert, 2 * text.expert_intermediate, text.hidden)
            gate, up = np.split(x[tokens] @ _floats(wide).T, 2, -1)
            inner = _silu(gate) * up * best_shares[tokens, place, None]
            states[tokens] += (
                inner @ _floats(self._weights.expert(names[1], expert, text.hidden, text.expert_intermediate)).T
            )
            inputs.append(inner / _size(self._states[tokens], text.eps))
        self._states = states
        return {names[0]: [x], names[1]: inputs}

    def _gain(self, name: str) -> F32:
        return self._weights.checkpoint.tensors[name].float32()

    def _product(self, x: F32, name: str, out: int) -> F32:
        product: F32 = x @ _floats(self._weights.matrix(name, out, x.shape[-1])).T
        return product


def _floats(weight: Weight) -> F32:
    values = to_float32(weight.data, weight.dtype)
    return np.ascontiguousarray(values.T) if weight.transposed else values


def _size(x: F32, eps: float) -> F32:
    """Root of the mean square of the last axis, which is kept."""
    size: F32 = np.sqrt(np.square(x).mean(-1, keepdims=True) + np.float32(eps))
    return size


def _normal(x: F32, gain: F32, eps: float) -> F32:
    return x / _size(x, eps) * gain


def _silu(x: F32) -> F32:
    gated: F32 = x / (1 + np.exp(np.minimum(-x, 80)))  # e**89 is no float32
    return gated


def _attend(query: F32, key: F32, value: F32) -> F32:
    """Causal attention of one prompt: [n, heads, d] and 2 x [n, kv_heads, d] -> [n, heads * d]."""
    n, heads, d = query.shape
    key, value = (np.repeat(each, heads // each.shape[1], 1).transpose(1, 0, 2) for each in (key, value))
    scores = query.transpose(1, 0, 2) @ key.transpose(0, 2, 1) * np.float32(d**-0.5)
    scores += np.triu(np.full((n, n), -np.inf, np.float32), 1)
    shares = np.exp(scores - scores.max(-1, keepdims=True))
    shares /= shares.sum(-1, keepdims=True)
    joined: F32 = (shares @ value).transpose(1, 0, 2).reshape(n, heads * d)
    return joined
