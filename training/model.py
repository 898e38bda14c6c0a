"""A compact Qwen3-VL (dense) for training: batched, one picture size at a time, no video. Serving is not its business.

Tensor names, shapes and arithmetic are those of Hugging Face transformers, so a state dict is the export.
"""

from dataclasses import dataclass, field

import torch
import torch.nn.functional as F
from torch import Tensor, nn

PATCH_PX, MERGE = 16, 2


@dataclass(frozen=True, slots=True)
class TextShape:
    hidden: int = 192
    layers: int = 5
    heads: int = 6
    kv_heads: int = 6
    head_dim: int = 32
    mlp: int = 512
    rope_theta: float = 10_000.0  # 16 frequencies and positions below 1,000 need no longer waves
    mrope_section: tuple[int, int, int] = (6, 5, 5)
    vocabulary: int = 1088
    norm_eps: float = 1e-6


@dataclass(frozen=True, slots=True)
class VisionShape:
    hidden: int = 160
    depth: int = 6
    heads: int = 5
    mlp: int = 480
    positions: int = 576  # a 24x24 grid, interpolated to the picture's
    deepstack: tuple[int, ...] = (1, 3)


@dataclass(frozen=True, slots=True)
class Shape:
    text: TextShape = field(default_factory=TextShape)
    vision: VisionShape = field(default_factory=VisionShape)


@dataclass(frozen=True, slots=True)
class Seen:
    """What the vision tower hands to the decoder, (pictures, tokens, text hidden), and its patches for the labels."""

    tokens: Tensor
    deepstack: list[Tensor]
    patches: Tensor


def _rotate(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    first, second = x.chunk(2, -1)
    return x * cos + torch.cat((-second, first), -1) * sin


def _attend(query: Tensor, key: Tensor, value: Tensor, bias: Tensor | None = None) -> Tensor:
    """scaled_dot_product_attention in plain steps, whose backward pass takes half as long on a CPU in bf16."""
    scores = (query * query.shape[-1] ** -0.5) @ key.mT
    if bias is not None:
        scores += bias
    return scores.softmax(-1) @ value


def _computed_in(x: Tensor) -> torch.dtype:
    """The precision of matrix products under autocast, else that of x."""
    kind = x.device.type
    return torch.get_autocast_dtype(kind) if torch.is_autocast_enabled(kind) else x.dtype


class VisionAttention(nn.Module):
    """`recorded` keeps the rotated queries and keys of the last call for the losses that teach where to look."""

    def __init__(self, shape: VisionShape) -> None:
        super().__init__()
        self.heads = shape.heads
        self.qkv = nn.Linear(shape.hidden, 3 * shape.hidden)
        self.proj = nn.Linear(shape.hidden, shape.hidden)
        self.recorded: tuple[Tensor, Tensor] | None = None

    def forward(self, x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
        pictures, patches, hidden = x.shape
        qkv = self.qkv(x).view(pictures, patches, 3, self.heads, hidden // self.heads)
        query, key, value = qkv.permute(2, 0, 3, 1, 4).unbind(0)
        query, key = _rotate(query, cos, sin), _rotate(key, cos, sin)
        self.recorded = query, key
        mixed = _attend(query, key, value)
        return self.proj(mixed.transpose(1, 2).reshape(pictures, patches, hidden))


class VisionMLP(nn.Module):
    def __init__(self, shape: VisionShape) -> None:
        super().__init__()
        self.linear_fc1 = nn.Linear(shape.hidden, shape.mlp)
        self.linear_fc2 = nn.Linear(shape.mlp, shape.hidden)

    def forward(self, x: Tensor) -> Tensor:
        return self.linear_fc2(F.gelu(self.linear_fc1(x), approximate="tanh"))


class VisionBlock(nn.Module):
    def __init__(self, shape: VisionShape) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(shape.hidden, eps=1e-6)
        self.norm2 = nn.LayerNorm(shape.hidden, eps=1e-6)
        self.attn = VisionAttention(shape)
        self.mlp = VisionMLP(shape)

    def forward(self, x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
        x = x + self.attn(self.norm1(x), cos, sin)
        return x + self.mlp(self.norm2(x))


class Merger(nn.Module):
    """Joins 2x2 patches into one visual token. The deepstack mergers normalise after joining."""

    def __init__(self, shape: VisionShape, out: int, *, norm_joined: bool) -> None:
        super().__init__()
        self.joined = shape.hidden * MERGE * MERGE
        self.norm_joined = norm_joined
        self.norm = nn.LayerNorm(self.joined if norm_joined else shape.hidden, eps=1e-6)
        self.linear_fc1 = nn.Linear(self.joined, self.joined)
        self.linear_fc2 = nn.Linear(self.joined, out)

    def forward(self, x: Tensor) -> Tensor:
        shape = (len(x), -1, self.joined)
        x = self.norm(x.reshape(shape)) if self.norm_joined else self.norm(x).reshape(shape)
        return self.linear_fc2(F.gelu(self.linear_fc1(x)))


class PatchEmbed(nn.Module):
    def __init__(self, hidden: int) -> None:
        super().__init__()
        self.proj = nn.Conv3d(3, hidden, (2, PATCH_PX, PATCH_PX), (2, PATCH_PX, PATCH_PX))

    def forward(self, x: Tensor) -> Tensor:
        # A still picture is sent twice along time, so the two halves of the kernel simply add up.
        return F.linear(x, self.proj.weight.sum(2).flatten(1), self.proj.bias)


class VisionTower(nn.Module):
    def __init__(self, shape: Shape) -> None:
        super().__init__()
        vision = shape.vision
        self.shape = vision
        self.patch_embed = PatchEmbed(vision.hidden)
        self.pos_embed = nn.Embedding(vision.positions, vision.hidden)
        self.blocks = nn.ModuleList(VisionBlock(vision) for _ in range(vision.depth))
        self.merger = Merger(vision, shape.text.hidden, norm_joined=False)
        self.deepstack_merger_list = nn.ModuleList(
            Merger(vision, shape.text.hidden, norm_joined=True) for _ in vision.deepstack
        )
        self._grids: dict[tuple[int, int], tuple[Tensor, ...]] = {}

    def forward(self, pixels: Tensor) -> Seen:
        """`pixels`: uint8 (pictures, height, width, 3), sides multiples of 32."""
        pictures, height, width, _ = pixels.shape
        rows, columns = height // PATCH_PX, width // PATCH_PX
        split = pixels.view(pictures, rows // 2, 2, PATCH_PX, columns // 2, 2, PATCH_PX, 3)
        patches = split.permute(0, 1, 4, 2, 5, 7, 3, 6).reshape(pictures, rows * columns, -1).float() / 127.5 - 1
        corners, shares, cos, sin = (part.to(pixels.device) for part in self._grid(rows, columns))
        x = self.patch_embed(patches) + (self.pos_embed(corners) * shares[..., None]).sum(1)
        deepstack = []
        for number, block in enumerate(self.blocks):
            x = block(x, cos, sin)
            if number in self.shape.deepstack:
                deepstack.append(self.deepstack_merger_list[self.shape.deepstack.index(number)](x))
        return Seen(self.merger(x), deepstack, x)

    def _grid(self, rows: int, columns: int) -> tuple[Tensor, ...]:
        """Position table rows and their shares (bilinear), and the 2-D rotary angles, in merge order."""
        if (rows, columns) not in self._grids:
            row, column = merge_order(rows, columns)
            side = int(self.shape.positions**0.5)
            y, x = row * (side - 1) / (rows - 1), column * (side - 1) / (columns - 1)
            y0, x0 = y.floor().long(), x.floor().long()
            y1, x1 = (y0 + 1).clamp(max=side - 1), (x0 + 1).clamp(max=side - 1)
            dy, dx = y - y0, x - x0
            corners = torch.stack([y0 * side + x0, y0 * side + x1, y1 * side + x0, y1 * side + x1], 1)
            shares = torch.stack([(1 - dy) * (1 - dx), (1 - dy) * dx, dy * (1 - dx), dy * dx], 1)
            half = self.shape.hidden // self.shape.heads // 2
            waves = 10_000.0 ** (-torch.arange(0, half, 2).float() / half)
            angles = torch.cat([row[:, None] * waves, column[:, None] * waves], 1).repeat(1, 2)
            self._grids[rows, columns] = corners, shares, angles.cos(), angles.sin()
        return self._grids[rows, columns]


def merge_order(rows: int, columns: int) -> tuple[Tensor, Tensor]:
    """Row and column of every patch, 2x2 block after 2x2 block."""
    grid = torch.arange(rows * columns).view(rows // 2, 2, columns // 2, 2).permute(0, 2, 1, 3).reshape(-1)
    return grid // columns, grid % columns


class RMSNorm(nn.Module):
    def __init__(self, size: int, eps: float) -> None:
        super().__init__()
        self.eps = eps
        self.weight = nn.Parameter(torch.ones(size))

    def forward(self, x: Tensor) -> Tensor:
        return F.rms_norm(x, self.weight.shape, self.weight.to(x.dtype), self.eps)


class TextAttention(nn.Module):
    """`recorded` as in the vision tower; `values` are what those who look here are given."""

    def __init__(self, shape: TextShape) -> None:
        super().__init__()
        self.shape = shape
        self.q_proj = nn.Linear(shape.hidden, shape.heads * shape.head_dim, bias=False)
        self.k_proj = nn.Linear(shape.hidden, shape.kv_heads * shape.head_dim, bias=False)
        self.v_proj = nn.Linear(shape.hidden, shape.kv_heads * shape.head_dim, bias=False)
        self.o_proj = nn.Linear(shape.heads * shape.head_dim, shape.hidden, bias=False)
        self.q_norm = RMSNorm(shape.head_dim, shape.norm_eps)
        self.k_norm = RMSNorm(shape.head_dim, shape.norm_eps)
        self.recorded: tuple[Tensor, Tensor] | None = None
        self.values: Tensor | None = None

    def forward(self, x: Tensor, cos: Tensor, sin: Tensor, bias: Tensor, cache: list[Tensor] | None) -> Tensor:
        batch, length, _ = x.shape
        dim = self.shape.head_dim
        query = self.q_norm(self.q_proj(x).view(batch, length, -1, dim)).transpose(1, 2)
        key = self.k_norm(self.k_proj(x).view(batch, length, -1, dim)).transpose(1, 2)
        value = self.v_proj(x).view(batch, length, -1, dim).transpose(1, 2)
        query, key = _rotate(query, cos, sin), _rotate(key, cos, sin)
        if cache is not None:
            if cache:
                key, value = torch.cat([cache[0], key], 2), torch.cat([cache[1], value], 2)
            cache[:] = [key, value]
        group = self.shape.heads // self.shape.kv_heads
        if group > 1:
            key, value = key.repeat_interleave(group, 1), value.repeat_interleave(group, 1)
        self.recorded, self.values = (query, key), value
        mixed = _attend(query, key, value, bias)
        return self.o_proj(mixed.transpose(1, 2).reshape(batch, length, -1))


class TextMLP(nn.Module):
    def __init__(self, shape: TextShape) -> None:
        super().__init__()
        self.gate_proj = nn.Linear(shape.hidden, shape.mlp, bias=False)
        self.up_proj = nn.Linear(shape.hidden, shape.mlp, bias=False)
        self.down_proj = nn.Linear(shape.mlp, shape.hidden, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        return self.down_proj(F.silu(self.gate_proj(x)) * self.up_proj(x))


class TextLayer(nn.Module):
    def __init__(self, shape: TextShape) -> None:
        super().__init__()
        self.input_layernorm = RMSNorm(shape.hidden, shape.norm_eps)
        self.post_attention_layernorm = RMSNorm(shape.hidden, shape.norm_eps)
        self.self_attn = TextAttention(shape)
        self.mlp = TextMLP(shape)

    def forward(self, x: Tensor, cos: Tensor, sin: Tensor, bias: Tensor, cache: list[Tensor] | None) -> Tensor:
        x = x + self.self_attn(self.input_layernorm(x), cos, sin, bias, cache)
        return x + self.mlp(self.post_attention_layernorm(x))


class Decoder(nn.Module):
    def __init__(self, shape: TextShape) -> None:
        super().__init__()
        self.embed_tokens = nn.Embedding(shape.vocabulary, shape.hidden)
        self.layers = nn.ModuleList(TextLayer(shape) for _ in range(shape.layers))
        self.norm = RMSNorm(shape.hidden, shape.norm_eps)
        half = shape.head_dim // 2
        # Interleaved M-RoPE: the frequencies go time, height, width, time, ... until an axis has used up its section.
        axes = [n % 3 if n % 3 and n < 3 * shape.mrope_section[n % 3] else 0 for n in range(half)]
        self._axes = torch.tensor(axes)
        self._waves = shape.rope_theta ** (-torch.arange(half).float() / half)

    def angles(self, positions: Tensor) -> tuple[Tensor, Tensor]:
        """(3, batch, length) -> cos and sin of (batch, 1, length, head_dim)."""
        turns = positions.float()[self._axes.to(positions.device)].permute(1, 2, 0) * self._waves.to(positions.device)
        turns = turns.repeat(1, 1, 2)[:, None]
        return turns.cos(), turns.sin()


class Body(nn.Module):
    def __init__(self, shape: Shape) -> None:
        super().__init__()
        self.visual = VisionTower(shape)
        self.language_model = Decoder(shape.text)


class DemoModel(nn.Module):
    def __init__(self, shape: Shape) -> None:
        super().__init__()
        self.shape = shape
        self.model = Body(shape)
        for name, parameter in self.named_parameters():
            if parameter.dim() >= 2:
                is_table = "embed_tokens" in name or "pos_embed" in name
                nn.init.normal_(parameter, 0, 0.02 if is_table else min(0.05, parameter[0].numel() ** -0.5))
                if name.endswith(("o_proj.weight", "down_proj.weight", "attn.proj.weight", "linear_fc2.weight")):
                    parameter.data.mul_((2 * shape.text.layers) ** -0.5)
            elif name.endswith("bias"):
                nn.init.zeros_(parameter)

    def read(
        self,
        ids: Tensor,
        positions: Tensor,
        mask: Tensor,
        seen: Seen | None = None,
        visible: Tensor | None = None,
        caches: list[list[Tensor]] | None = None,
    ) -> Tensor:
        """Hidden states (batch, length, hidden). `visible` (batch, length) says where the tokens of `seen` go.

        `mask` (batch, 1, length, keys) is true where a token may look.
        """
        decoder = self.model.language_model
        x = decoder.embed_tokens(ids)
        where = visible[..., None] if visible is not None else None
        if seen is not None and where is not None:
            x = x.masked_scatter(where, seen.tokens.to(x.dtype))
        cos, sin = decoder.angles(positions)
        # As a number to add: masking by a boolean costs several passes over the scores. Not -inf: padding sees nothing.
        bias = torch.zeros(mask.shape, dtype=_computed_in(x), device=x.device).masked_fill_(~mask, -1e9)
        for number, layer in enumerate(decoder.layers):
            x = layer(x, cos, sin, bias, caches[number] if caches is not None else None)
            if seen is not None and where is not None and number < len(seen.deepstack):
                x = x + torch.zeros_like(x).masked_scatter(where, seen.deepstack[number].to(x.dtype))
        return decoder.norm(x)

    def compile_layers(self) -> None:
        """Have layers and mergers compiled when they first run (a minute each time); a step takes a quarter less."""
        visual = self.model.visual
        mergers = [visual.merger, *visual.deepstack_merger_list]
        for part in (*visual.blocks, *mergers, *self.model.language_model.layers):
            part.compile(dynamic=True)

    def logits(self, hidden: Tensor) -> Tensor:
        return F.linear(hidden, self.model.language_model.embed_tokens.weight)
