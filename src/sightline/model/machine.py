"""What this machine can do and what a model needs of it: processor, cores, memory. Knows no kernels and loads nothing.

Containers count: cores and memory are those the control groups (version 1 or 2) really leave to this process.
"""

from __future__ import annotations

import ctypes
import math
import os
import platform
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from sightline.model.config import GenerationConfig, ModelConfig, PixelConfig, TextConfig, VisionConfig
from sightline.types import Precision

# In the order they are shown. Arm calls its plain 128-bit vectors asimd and its 8-bit products asimddp and i8mm.
FEATURES = (
    "avx2", "avx512f", "avx_vnni", "avx512_vnni", "avx512_bf16", "amx_int8", "amx_bf16",
    "asimd", "asimddp", "i8mm", "bf16", "sve",
)  # fmt: skip
_INT8_PRODUCTS = {"avx_vnni", "avx512_vnni", "amx_int8", "asimddp", "i8mm"}
_BF16_PRODUCTS = {"avx512_bf16", "amx_bf16", "bf16"}

# Python, OpenVINO and the server before any model 115 MiB, and what the first long step adds once 220 MiB; rounded up.
RUNTIME_BYTES = 384 << 20
MAX_PATCHES = 120 * 120  # a picture of 1920 x 1920 pixels, the largest the server lets through by default
STEP_TOKENS = 1024
_INT4_GROUPS = (128, 64, 32)
# An output head of so many rows has a copy in 4 bits in int4's pack. Our own kernels score all tokens with it, and this
# many of the best again in 8 bits.
SCANNED_ROWS, SCORED_AGAIN = 1 << 15, 128
# Rows read here and there in a mapped table before its pages are given back; each keeps so much of the file resident.
MAPPED_ROWS, MAPPED_ROW_BYTES = 1024, 64 << 10
# Measured on the 2B shape with OpenVINO 2026.4.1: the plugin keeps stored vision weights once as float32 and, after a
# second picture size, once more as they are (2.4 GB for 0.8 GB of bf16); the language model's stay 2 bytes each.
_EXACT_VISION_BYTES = 6
# Our own kernels read matrices whose sides are multiples of the first, in 12 bits a bf16 weight rows of the second.
_OWN_TILE, _LOSSLESS_BLOCK = 16, 128
# Also measured there, as multiples of the widest row: 103 KB for each patch, 220 KB for each token of a step.
_VISION_ROWS, _TEXT_ROWS = 2, 4
MEASURED_BYTES = 256 << 20


@dataclass(frozen=True, slots=True)
class Machine:
    """The processor and memory this process may use. `cores` counts logical ones, `physical_cores` real ones."""

    cpu: str
    architecture: str
    features: tuple[str, ...]
    flags: frozenset[str]  # all of the processor's, as the kernel names them
    cores: int
    physical_cores: int
    cgroup_cores: float | None  # the container's quota, where there is one
    memory_total: int  # bytes
    memory_available: int  # bytes, of the machine or of the container, whichever is less
    cgroup_memory: int | None  # the container's limit in bytes, where there is one

    @property
    def multiplies_int8(self) -> bool:
        """Whether it has instructions for sums of 8-bit products (VNNI, AMX, Arm dot product)."""
        return not _INT8_PRODUCTS.isdisjoint(self.features)

    @property
    def multiplies_bf16(self) -> bool:
        return not _BF16_PRODUCTS.isdisjoint(self.features)


@dataclass(frozen=True, slots=True)
class MemoryNeed:
    """Bytes a model needs, by formula: an upper estimate, see `memory_need`."""

    weights: int
    kv: int
    activations: int
    runtime: int = RUNTIME_BYTES

    @property
    def total(self) -> int:
        return self.weights + self.kv + self.activations + self.runtime


def read_machine(root: Path = Path("/"), affinity: set[int] | None = None) -> Machine:
    """The machine as the kernel's files under `root` tell it; `affinity` are the logical cores this process may use."""
    usable = os.sched_getaffinity(0) if affinity is None else affinity
    blocks = _cpuinfo(root / "proc/cpuinfo")
    flags = set((blocks[0].get("flags") or blocks[0].get("Features", "")).split()) if blocks else set()
    groups = _control_groups(root)
    quota = _cpu_quota(groups)
    own = [b for b in blocks if int(b["processor"]) in usable]
    physical = {(b.get("physical id"), b.get("core id", b["processor"])) for b in own}
    cores = max(1, min(len(usable), math.ceil(quota) if quota else len(usable)))
    meminfo = _meminfo(root / "proc/meminfo")
    limit, left = _memory_limit(groups)
    available = meminfo.get("MemAvailable", 0)
    return Machine(
        cpu=next((b["model name"] for b in blocks if "model name" in b), "unknown processor"),
        architecture=platform.machine(),
        features=tuple(name for name in FEATURES if name in flags),
        flags=frozenset(flags),
        cores=cores,
        physical_cores=min(cores, len(physical) or cores),
        cgroup_cores=quota,
        memory_total=meminfo.get("MemTotal", 0),
        memory_available=available if left is None else max(0, min(available, left)),
        cgroup_memory=limit,
    )


def memory_need(
    config: ModelConfig,
    precision: Precision,
    context: int,
    patches: int = MAX_PATCHES,
    *,
    bf16: bool = False,
    own: bool = False,
) -> MemoryNeed:
    """What `config` needs at `precision` with `context` tokens of KV cache and pictures of `patches` 16-pixel patches,
    on a processor that multiplies `bf16` or does not, with our `own` kernels or without.

    weights: every parameter once. exact: 2 bytes each, as stored, but 6 in a vision tower of the plugin's, and 1.5 in
    the matrices of a language model of our own kernels'. int8: 1 byte
    and a 2-byte scale per row, with bf16 2 bytes in a vision tower of the plugin's. int4: in the language layers half a
    byte and a 2-byte scale per group of 128; in the first layer, in value matrices and elsewhere 1 byte and a 2-byte
    scale per row; of a head that our own kernels scan, its copy in 4 bits and what stays of the rows it is read in.
    Our own kernels read copies, or where memory is short the mapped file itself: the system may take that from memory
    and read it again, but slowly, so it counts.
    Norms, biases, position tables, routers and the patch embedding: 4 bytes always. The embedding table counts in full,
    though only rows in use stay resident.
    kv: keys and values, float32 for exact, 16 bits for int8; for int4 a byte, and 8 bytes for each head.
    activations: in float32, the widest rows of a vision block and of a step of 1024 tokens, times what was measured,
    and the picture's features.
    """
    text, vision = config.text, config.vision
    weights = sum(m.count * m.nbytes(precision, bf16, own) for m in _matrices(config))
    weights += 4 * small_parameters(config)
    if any(m.is_scanned(precision, own) for m in _matrices(config)):
        weights += MAPPED_ROWS * MAPPED_ROW_BYTES
    head_bytes = {"exact": 4 * text.head_dim, "int8": 2 * text.head_dim, "int4": text.head_dim + 8}[precision]
    kv = 2 * text.layers * text.kv_heads * head_bytes * context
    vision_row = vision.patch_values + 2 * vision.hidden + max(4 * vision.hidden, 2 * vision.intermediate)
    features = patches // vision.merge**2 * vision.out_hidden * (1 + len(vision.deepstack))
    inner = max(text.intermediate if config.text.experts == 0 else 0, text.experts_per_token * text.expert_intermediate)
    text_row = 2 * text.hidden + max((text.heads + 2 * text.kv_heads) * text.head_dim, 2 * inner)
    activations = 4 * (
        _VISION_ROWS * patches * vision_row + features + _TEXT_ROWS * STEP_TOKENS * text_row + text.vocab
    )
    return MemoryNeed(weights, kv, activations)


def decode_bytes(config: ModelConfig, precision: Precision, own: bool = False) -> int:
    """Bytes of weights read for each generated token, by our `own` kernels or the plugin's: the layers, with the
    experts a token uses, and the head."""
    share = config.text.experts_per_token / config.text.experts if config.text.experts else 1.0
    read = [m for m in _matrices(config) if m.part != "vision" and m.name != "embeddings"]
    again = sum(SCORED_AGAIN * m.width for m in read if m.is_scanned(precision, own))
    return again + sum(
        round(m.count * m.nbytes(precision, own=own) * (share if m.part == "expert" else 1.0)) for m in read
    )


def parameters(config: ModelConfig) -> int:
    """How many numbers the checkpoint's tensors hold."""
    return sum(m.count * m.rows * m.width for m in _matrices(config)) + small_parameters(config)


def small_parameters(config: ModelConfig) -> int:
    """How many parameters are never quantised: norms, biases, routers, the position table, the patch embedding."""
    t, v = config.text, config.vision
    sparse = sum(t.is_moe_layer(i) for i in range(t.layers))
    text = t.layers * (2 * t.hidden + 2 * t.head_dim) + t.hidden + sparse * t.experts * t.hidden
    merged = v.hidden * v.merge**2
    block = 4 * v.hidden + 3 * v.hidden + v.hidden + v.intermediate + v.hidden  # two norms, four biases
    mergers = 2 * v.hidden + (1 + len(v.deepstack)) * (merged + v.out_hidden) + len(v.deepstack) * 2 * merged
    return text + (v.patch_values + 1) * v.hidden + v.positions**2 * v.hidden + v.depth * block + mergers


def measure_read(threads: int) -> float:
    """Memory read speed in GB/s: the best of four sums over 256 MiB, `threads` at once. Takes under a second."""
    import numpy as np

    parts = np.array_split(np.ones(MEASURED_BYTES // 8, np.int64), threads)
    with ThreadPoolExecutor(threads) as pool:
        return MEASURED_BYTES / _best_time(4, lambda: list(pool.map(np.sum, parts))) / 1e9


def measure_product() -> float:
    """float32 matrix product speed in GFLOP/s: the best of four of 1024 x 1024 by numpy, on the cores it takes."""
    import numpy as np

    square = np.ones((1024, 1024), np.float32)
    return 2 * 1024**3 / _best_time(4, lambda: square @ square) / 1e9


@dataclass(frozen=True, slots=True)
class _Matrix:
    """`count` weight matrices [rows, width] of one kind. `part`: layer, expert, vision or table."""

    name: str
    part: str
    rows: int
    width: int
    count: int = 1
    spared: bool = False  # int4 leaves it in 8 bits

    def is_scanned(self, precision: Precision, own: bool) -> bool:
        """Whether our `own` kernels read this in 4 bits, and only some rows in 8."""
        return precision == "int4" and self.name == "head" and self._in_place(own) and self.rows >= SCANNED_ROWS

    def nbytes(self, precision: Precision, bf16: bool = False, own: bool = False) -> int:
        """Bytes of one of them, or of the copy that is scanned."""
        in_place = self._in_place(own)
        if precision == "int8" and bf16 and not own and self.part == "vision":
            return 2 * self.rows * self.width
        if precision == "exact":
            kernels_read = in_place and self.part != "vision" and self.name != "embeddings"
            if kernels_read and self.width % _LOSSLESS_BLOCK == 0:
                return self.rows * (self.width * 3 // 2 + 4)  # exceptions begin somewhere for each row; there are few
            copied = self.part == "vision" and not in_place
            return (_EXACT_VISION_BYTES if copied else 2) * self.rows * self.width
        in_layers = self.part in ("layer", "expert") and not self.spared
        if precision == "int4" and (in_layers or self.is_scanned(precision, own)):
            group = next((g for g in _INT4_GROUPS if self.width % g == 0), None)
            if group:
                return self.rows * (self.width // 2 + 2 * self.width // group)
        return self.rows * (self.width + 2)

    def _in_place(self, own: bool) -> bool:
        return own and self.rows % _OWN_TILE == self.width % _OWN_TILE == 0


def _matrices(config: ModelConfig) -> Iterator[_Matrix]:
    """Every matrix that is quantised, the tied table once, as the head, which is read for each token."""
    t, v = config.text, config.vision
    yield _Matrix("head", "table", t.vocab, t.hidden)
    if not config.tied:
        yield _Matrix("embeddings", "table", t.vocab, t.hidden)
    for layers in (range(1), range(1, t.layers)):
        count, spared = len(layers), 0 in layers
        yield _Matrix("q", "layer", t.heads * t.head_dim, t.hidden, count, spared)
        yield _Matrix("k", "layer", t.kv_heads * t.head_dim, t.hidden, count, spared)
        yield _Matrix("v", "layer", t.kv_heads * t.head_dim, t.hidden, count, spared=True)
        yield _Matrix("o", "layer", t.hidden, t.heads * t.head_dim, count, spared)
        sparse = sum(map(t.is_moe_layer, layers))
        yield _Matrix("gate, up", "layer", t.intermediate, t.hidden, 2 * (count - sparse), spared)
        yield _Matrix("down", "layer", t.hidden, t.intermediate, count - sparse, spared)
        yield _Matrix("expert gate, up", "expert", t.expert_intermediate, t.hidden, 2 * sparse * t.experts, spared)
        yield _Matrix("expert down", "expert", t.hidden, t.expert_intermediate, sparse * t.experts, spared)
    yield _Matrix("vision qkv", "vision", 3 * v.hidden, v.hidden, v.depth)
    yield _Matrix("vision projection", "vision", v.hidden, v.hidden, v.depth)
    yield _Matrix("vision up", "vision", v.intermediate, v.hidden, v.depth)
    yield _Matrix("vision down", "vision", v.hidden, v.intermediate, v.depth)
    merged, mergers = v.hidden * v.merge**2, 1 + len(v.deepstack)
    yield _Matrix("merger up", "vision", merged, merged, mergers)
    yield _Matrix("merger down", "vision", v.out_hidden, merged, mergers)


def _cpuinfo(path: Path) -> list[dict[str, str]]:
    """One mapping per logical core, as the file lists them."""
    try:
        text = path.read_text(errors="replace")
    except OSError:
        return []
    blocks = []
    for block in text.strip().split("\n\n"):
        pairs = (line.partition(":") for line in block.splitlines() if ":" in line)
        fields = {key.strip(): value.strip() for key, _, value in pairs}
        if fields.get("processor", "").isdigit():
            blocks.append(fields)
    return blocks


def _meminfo(path: Path) -> dict[str, int]:
    """The file's entries in bytes."""
    try:
        lines = path.read_text().splitlines()
    except OSError:
        return {}
    fields = (line.split() for line in lines)
    return {f[0].rstrip(":"): int(f[1]) * 1024 for f in fields if len(f) == 3 and f[2] == "kB"}


def _control_groups(root: Path) -> dict[str, list[Path]]:
    """By controller, the folders of this process's group and of those above it. Version 2 has one, called ""."""
    try:
        lines = (root / "proc/self/cgroup").read_text().splitlines()
    except OSError:
        return {}
    found: dict[str, list[Path]] = {}
    for line in lines:
        _, controllers, place = line.split(":", 2)
        for controller in controllers.split(","):
            top = root / "sys/fs/cgroup" / controller
            below = top / place.strip("/")
            # In a container without its own view of the groups, `place` is the host's and does not exist here.
            found[controller] = [folder for folder in (below, *below.parents) if folder.is_relative_to(top)]
    return found


def _cpu_quota(groups: dict[str, list[Path]]) -> float | None:
    """The tightest quota in cores."""
    quotas = []
    for folder in groups.get("", []):
        quota, _, period = (_text(folder / "cpu.max") or "max").partition(" ")
        if quota != "max":
            quotas.append(int(quota) / int(period))
    for folder in groups.get("cpu", []):
        spent, length = _number(folder / "cpu.cfs_quota_us"), _number(folder / "cpu.cfs_period_us")
        if spent and length and spent > 0:
            quotas.append(spent / length)
    return min(quotas, default=None)


def _memory_limit(groups: dict[str, list[Path]]) -> tuple[int | None, int | None]:
    """(the tightest limit, the least that is left), in bytes. Cached files give way, so they count as left."""
    limits, left = [], []
    names = ("", "memory.max", "memory.current", "inactive_file"), (
        "memory", "memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file",
    )  # fmt: skip
    for controller, limit_name, usage_name, cached_name in names:
        for folder in groups.get(controller, []):
            limit, usage = _number(folder / limit_name), _number(folder / usage_name)
            if limit is not None and usage is not None and limit < 1 << 60:  # version 1 writes 2^63 for "none"
                stat = dict(line.split(" ", 1) for line in (_text(folder / "memory.stat") or "").splitlines())
                limits.append(limit)
                left.append(limit - usage + int(stat.get(cached_name, 0)))
    return min(limits, default=None), min(left, default=None)


def _text(path: Path) -> str | None:
    try:
        return path.read_text().strip()
    except OSError:
        return None


def _number(path: Path) -> int | None:
    text = _text(path) or ""
    return int(text) if text.lstrip("-").isdigit() else None


def trim_heap() -> None:
    """Give the heap's unused pages back to the system, where the C library can (glibc); takes 10 ms or so."""
    trim: Callable[[int], int] | None = getattr(ctypes.CDLL(None), "malloc_trim", None)
    if trim:
        trim(0)


def _best_time(times: int, work: Callable[[], object]) -> float:
    """The shortest of several runs in seconds; the others were disturbed."""
    best = math.inf
    for _ in range(times):
        start = time.perf_counter()
        work()
        best = min(best, time.perf_counter() - start)
    return best


def _shape(
    hidden: int,
    layers: int,
    heads: int,
    kv_heads: int,
    intermediate: int,
    *,
    large: bool,
    tied: bool,
    moe: bool = False,
) -> ModelConfig:
    """A published shape. `large` is the tower of 8B and above."""
    depth, width, inner, deep = (27, 1152, 4304, (8, 16, 24)) if large else (24, 1024, 4096, (5, 11, 17))
    vision = VisionConfig(depth, width, 16, inner, 48, hidden, deep)
    text = TextConfig(
        hidden, layers, heads, kv_heads, 128, intermediate, 151936, 1e-6, 5e6, (24, 20, 20), 262144,
        *((128, 8, 768) if moe else ()),
    )  # fmt: skip
    pixels = PixelConfig(65536, 16777216, (0.5, 0.5, 0.5), (0.5, 0.5, 0.5))
    return ModelConfig(text, vision, pixels, GenerationConfig((151645,)), tied, 151655, 151656, 151652, 151653)


# The family's published shapes, for the question "which of them would run here?" before anything is downloaded.
FAMILY = {
    "Qwen3-VL-2B": _shape(2048, 28, 16, 8, 6144, large=False, tied=True),
    "Qwen3-VL-4B": _shape(2560, 36, 32, 8, 9728, large=False, tied=True),
    "Qwen3-VL-8B": _shape(4096, 36, 32, 8, 12288, large=True, tied=False),
    "Qwen3-VL-30B-A3B": _shape(2048, 48, 32, 4, 6144, large=True, tied=False, moe=True),
}
