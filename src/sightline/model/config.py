"""The shape of a Qwen3-VL checkpoint, read from its JSON files in both dialects (4.57 and 5.x). Knows no tensors."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sightline.errors import CheckpointError

_KINDS = {"qwen3_vl": False, "qwen3_vl_moe": True}


@dataclass(frozen=True, slots=True)
class TextConfig:
    """The language model. `experts` is 0 for dense models; `kv_heads` divides `heads`."""

    hidden: int
    layers: int
    heads: int
    kv_heads: int
    head_dim: int
    intermediate: int
    vocab: int
    eps: float
    rope_theta: float
    mrope_section: tuple[int, int, int]
    max_positions: int
    experts: int = 0
    experts_per_token: int = 0
    expert_intermediate: int = 0
    sparse_step: int = 1
    dense_layers: frozenset[int] = frozenset()

    def is_moe_layer(self, layer: int) -> bool:
        return self.experts > 0 and layer not in self.dense_layers and (layer + 1) % self.sparse_step == 0


@dataclass(frozen=True, slots=True)
class VisionConfig:
    """The vision tower. `positions` is the side of the square table of learned position embeddings."""

    depth: int
    hidden: int
    heads: int
    intermediate: int
    positions: int
    out_hidden: int
    deepstack: tuple[int, ...]
    patch: int = 16
    merge: int = 2
    temporal_patch: int = 2
    channels: int = 3

    @property
    def head_dim(self) -> int:
        return self.hidden // self.heads

    @property
    def patch_values(self) -> int:
        """Numbers in one patch row: channels x temporal x patch x patch."""
        return self.channels * self.temporal_patch * self.patch * self.patch


@dataclass(frozen=True, slots=True)
class PixelConfig:
    """How pictures are resized and normalised: pixel counts (height x width), mean and deviation per channel."""

    min_pixels: int
    max_pixels: int
    mean: tuple[float, float, float]
    std: tuple[float, float, float]


@dataclass(frozen=True, slots=True)
class VideoConfig:
    """How clips are sampled and sized: pixel counts (frames x height x width) and frames per second.

    The values are those that Qwen publishes with every size of the model.
    """

    min_pixels: int = 4096
    max_pixels: int = 25_165_824
    fps: float = 2.0
    min_frames: int = 4
    max_frames: int = 768


@dataclass(frozen=True, slots=True)
class GenerationConfig:
    """The model's own sampling advice; None where its file is silent."""

    eos: tuple[int, ...]
    temperature: float | None = None
    top_p: float | None = None
    top_k: int | None = None
    min_p: float | None = None
    repetition_penalty: float | None = None
    greedy: bool = False


@dataclass(frozen=True, slots=True)
class ModelConfig:
    """All a checkpoint's JSON files say about its shape."""

    text: TextConfig
    vision: VisionConfig
    pixels: PixelConfig
    generation: GenerationConfig
    tied: bool
    image_token: int
    video_token: int
    vision_start_token: int
    vision_end_token: int
    video: VideoConfig = VideoConfig()

    @classmethod
    def load(cls, folder: Path) -> ModelConfig:
        """Read `folder`'s config.json, generation and processor files.

        Raises CheckpointError naming the file and the key when one is missing or cannot be served.
        """
        main = _Section.read(folder / "config.json")
        kind = main.get("model_type")
        if not isinstance(kind, str) or kind not in _KINDS:
            raise CheckpointError(f"{main.where}: model_type is {kind!r}; Sightline serves qwen3_vl and qwen3_vl_moe")
        text = _text(main.section("text_config"), moe=_KINDS[kind])
        vision = _vision(main.section("vision_config"))
        if vision.out_hidden != text.hidden:
            raise CheckpointError(
                f"{main.where}: vision_config.out_hidden_size is {vision.out_hidden}, "
                f"but text_config.hidden_size is {text.hidden}; they must be equal"
            )
        return cls(
            text=text,
            vision=vision,
            pixels=_pixels(folder, vision),
            generation=_generation(folder, main),
            tied=bool(main.get("tie_word_embeddings", False)),  # the top level decides, whatever text_config says
            image_token=main.integer("image_token_id"),
            video_token=main.integer("video_token_id"),
            vision_start_token=main.integer("vision_start_token_id"),
            vision_end_token=main.integer("vision_end_token_id"),
            video=_video(folder),
        )


@dataclass(frozen=True, slots=True)
class _Section:
    """A JSON object and where it stands, so that every complaint can name its place."""

    values: Mapping[str, Any]
    where: str

    @classmethod
    def read(cls, path: Path) -> _Section:
        try:
            values = json.loads(path.read_text(encoding="utf-8"))
        except FileNotFoundError:
            raise CheckpointError(f"{path}: file is missing; a Qwen3-VL checkpoint folder needs it") from None
        except (OSError, UnicodeDecodeError, json.JSONDecodeError, RecursionError) as error:
            raise CheckpointError(f"{path}: cannot be read as JSON ({error})") from None
        if not isinstance(values, dict):
            raise CheckpointError(f"{path}: holds {type(values).__name__}, expected a JSON object")
        return cls(values, str(path))

    def get(self, key: str, default: object = None) -> Any:
        value = self.values.get(key)
        return default if value is None else value

    def section(self, key: str) -> _Section:
        value = self.values.get(key)
        if not isinstance(value, dict):
            raise CheckpointError(f"{self.where}: {key!r} is {value!r}, expected an object")
        return _Section(value, f"{self.where}: {key}")

    def integer(self, key: str, default: int | None = None, least: int = 0) -> int:
        value = self.get(key, default)
        if not isinstance(value, int) or isinstance(value, bool) or value < least:
            raise CheckpointError(f"{self.where}: {key!r} is {value!r}, expected a whole number of at least {least}")
        return value

    def number(self, key: str, default: float) -> float:
        value = self.get(key, default)
        if not isinstance(value, int | float) or isinstance(value, bool) or not 0 < value < math.inf:
            raise CheckpointError(f"{self.where}: {key!r} is {value!r}, expected a number above 0")
        return float(value)

    def advice(self, key: str) -> float | None:
        value = self.get(key)
        if value is not None and (type(value) not in (int, float) or not 0 <= value < math.inf):
            raise CheckpointError(f"{self.where}: {key!r} is {value!r}, expected a number of at least 0")
        return None if value is None else float(value)

    def integers(self, key: str, default: tuple[int, ...] = ()) -> tuple[int, ...]:
        value = self.get(key, default)
        if not isinstance(value, list | tuple) or not all(type(n) is int for n in value):
            raise CheckpointError(f"{self.where}: {key!r} is {value!r}, expected a list of whole numbers")
        return tuple(value)

    def per_channel(self, key: str) -> tuple[float, float, float]:
        value = self.get(key, [0.5] * 3)
        if not isinstance(value, list) or len(value) != 3 or not all(type(n) in (int, float) for n in value):
            raise CheckpointError(f"{self.where}: {key!r} is {value!r}, expected three numbers, one per channel")
        return value[0], value[1], value[2]

    def only(self, key: str, served: object) -> None:
        """Refuse any other value of `key` than the one this model family is published with."""
        if (value := self.get(key, served)) != served:
            raise CheckpointError(f"{self.where}: {key!r} is {value!r}; only {served!r} is served")


def _text(t: _Section, moe: bool) -> TextConfig:
    t.only("hidden_act", "silu")
    t.only("attention_bias", False)
    heads = t.integer("num_attention_heads", least=1)
    hidden = t.integer("hidden_size", least=1)
    head_dim = t.integer("head_dim", hidden // heads, least=2)
    rope = next((t.section(key) for key in ("rope_parameters", "rope_scaling") if t.get(key)), _Section({}, t.where))
    rope.only("rope_type", "default")
    section = rope.integers("mrope_section", (24, 20, 20))
    if len(section) != 3 or min(section) < 0 or sum(section) != head_dim // 2:
        raise CheckpointError(
            f"{rope.where}: 'mrope_section' is {list(section)}, expected three whole numbers "
            f"that add up to head_dim / 2 = {head_dim // 2}"
        )
    kv_heads = t.integer("num_key_value_heads", heads, least=1)
    if heads % kv_heads:
        raise CheckpointError(f"{t.where}: {heads} attention heads cannot share {kv_heads} key/value heads evenly")
    experts = t.integer("num_experts", t.get("num_local_experts"), least=1) if moe else 0
    chosen = t.integer("num_experts_per_tok", least=1) if moe else 0
    if chosen > experts:
        raise CheckpointError(f"{t.where}: a token cannot choose {chosen} of {experts} experts")
    return TextConfig(
        hidden=hidden,
        layers=t.integer("num_hidden_layers", least=1),
        heads=heads,
        kv_heads=kv_heads,
        head_dim=head_dim,
        intermediate=t.integer("intermediate_size", least=1),
        vocab=t.integer("vocab_size", least=1),
        eps=t.number("rms_norm_eps", 1e-6),
        rope_theta=rope.number("rope_theta", t.number("rope_theta", 5_000_000)),
        mrope_section=(section[0], section[1], section[2]),
        max_positions=t.integer("max_position_embeddings", 262144, least=1),
        experts=experts,
        experts_per_token=chosen,
        expert_intermediate=t.integer("moe_intermediate_size", least=1) if moe else 0,
        sparse_step=t.integer("decoder_sparse_step", 1, least=1) if moe else 1,
        dense_layers=frozenset(t.integers("mlp_only_layers")) if moe else frozenset(),
    )


def _vision(v: _Section) -> VisionConfig:
    table = v.integer("num_position_embeddings", least=1)
    side = round(table**0.5)
    if side * side != table:
        raise CheckpointError(f"{v.where}: num_position_embeddings is {table}, expected a square number")
    v.only("hidden_act", "gelu_pytorch_tanh")
    depth = v.integer("depth", least=1)
    deepstack = v.integers("deepstack_visual_indexes")
    if list(deepstack) != sorted(set(deepstack)) or any(not 0 <= i < depth for i in deepstack):
        raise CheckpointError(f"{v.where}: deepstack_visual_indexes {deepstack} must ascend within 0..{depth - 1}")
    config = VisionConfig(
        depth=depth,
        hidden=v.integer("hidden_size", least=1),
        heads=v.integer("num_heads", least=1),
        intermediate=v.integer("intermediate_size", least=1),
        positions=side,
        out_hidden=v.integer("out_hidden_size", least=1),
        deepstack=deepstack,
        patch=v.integer("patch_size", 16, least=1),
        merge=v.integer("spatial_merge_size", 2, least=1),
        temporal_patch=v.integer("temporal_patch_size", 2, least=1),
        channels=v.integer("in_channels", 3, least=1),
    )
    if config.hidden % config.heads or config.head_dim % 4:
        raise CheckpointError(
            f"{v.where}: hidden_size {config.hidden} over {config.heads} heads must be a multiple of 4"
        )
    return config


def _pixels(folder: Path, vision: VisionConfig) -> PixelConfig:
    """5.x writes one nested processor_config.json; it has priority over 4.57's preprocessor_config.json.

    A missing file is an error: the class defaults behind it are another model's and would be silently wrong.
    """
    p = _nested(folder, "image_processor") or _Section.read(folder / "preprocessor_config.json")
    low, high = _pixel_limits(p)
    for key, want in (("patch_size", vision.patch), ("merge_size", vision.merge)):
        if p.integer(key, want) != want:
            raise CheckpointError(f"{p.where}: {key} is {p.get(key)}, but config.json says {want}")
    return PixelConfig(
        min_pixels=low, max_pixels=high, mean=p.per_channel("image_mean"), std=p.per_channel("image_std")
    )


def _video(folder: Path) -> VideoConfig:
    """From the same two places as for pictures; where neither says anything, what Qwen publishes."""
    path = folder / "video_preprocessor_config.json"
    v = _nested(folder, "video_processor") or (_Section.read(path) if path.exists() else None)
    published = VideoConfig()
    if v is None:
        return published
    low, high = _pixel_limits(v)
    return VideoConfig(
        min_pixels=low,
        max_pixels=high,
        fps=v.number("fps", published.fps),
        min_frames=v.integer("min_frames", published.min_frames, least=1),
        max_frames=v.integer("max_frames", published.max_frames, least=1),
    )


def _nested(folder: Path, name: str) -> _Section | None:
    """One part of 5.x's processor_config.json; None when there is none."""
    path = folder / "processor_config.json"
    both = _Section.read(path) if path.exists() else None
    return both.section(name) if both and name in both.values else None


def _pixel_limits(p: _Section) -> tuple[int, int]:
    """Least and most pixels, by either name they have."""
    size = p.get("size")
    size = size if isinstance(size, dict) else {}
    low, high = size.get("shortest_edge", p.get("min_pixels")), size.get("longest_edge", p.get("max_pixels"))
    if not isinstance(low, int) or not isinstance(high, int) or not 0 < low <= high:
        raise CheckpointError(
            f"{p.where}: 'size' is {p.get('size')!r}, expected shortest_edge and longest_edge as pixel counts"
        )
    return low, high


def _generation(folder: Path, main: _Section) -> GenerationConfig:
    path = folder / "generation_config.json"
    g = _Section.read(path) if path.exists() else _Section({}, str(path))
    eos = g.get("eos_token_id", main.section("text_config").get("eos_token_id"))
    ids = tuple(eos) if isinstance(eos, list) else (eos,)
    if not ids or not all(isinstance(i, int) for i in ids):
        raise CheckpointError(f"{g.where}: eos_token_id is {eos!r}, expected a token id or a list of them")
    return GenerationConfig(
        eos=ids,
        temperature=g.advice("temperature"),
        top_p=g.advice("top_p"),
        top_k=None if g.get("top_k") is None else g.integer("top_k"),
        min_p=g.advice("min_p"),
        repetition_penalty=g.advice("repetition_penalty"),
        greedy=g.get("do_sample") is False,
    )
