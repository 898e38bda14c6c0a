"""Writes the golden fixtures: tiny random Qwen3-VL checkpoints and what Hugging Face transformers computes from them.

Run `python tests/golden/make_fixtures.py` where torch and transformers 5.23 are installed; nothing else here
needs them. It refuses to know our engine: every value comes from transformers. README.md explains the files.
"""

import json
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from safetensors.torch import save_file
from tokenizers import Tokenizer
from transformers import (
    AutoModelForImageTextToText,
    PreTrainedModel,
    Qwen3VLConfig,
    Qwen3VLForConditionalGeneration,
    Qwen3VLMoeConfig,
    Qwen3VLMoeForConditionalGeneration,
)
from transformers.models.qwen2_vl.image_processing_pil_qwen2_vl import Qwen2VLImageProcessorPil
from transformers.models.qwen3_vl.processing_qwen3_vl import Qwen3VLProcessor
from transformers.vision_utils import get_vision_interpolation_indices_and_weights

GOLDEN = Path(__file__).resolve().parent
FIXTURES = GOLDEN / "fixtures"
SAMPLES = GOLDEN / "samples"
TOKENIZER = FIXTURES / "tokenizer" / "tokenizer.json"  # small, and the same whatever the demo model becomes
DEMO_MODEL = GOLDEN.parent.parent / "src" / "sightline" / "demo_model"

PICTURE_SEED = 20
GREEDY_TOKENS = 16
CLIP_FPS = 2.0  # as Qwen's tools take frames that come as a list
BLOCK_TOKENS = 32  # size of our key-value blocks: the `long` case lays a picture across a border of these

# Ids of that tokenizer, so that its files fit every checkpoint written here.
IM_START, IM_END, END_OF_TEXT = 980, 981, 979
VISION_START, VISION_END, IMAGE_PAD, VIDEO_PAD = 988, 989, 991, 992
FIRST_SPECIAL = END_OF_TEXT

# An answer closer than this to the runner-up would turn on rounding, not on correctness.
LEAST_LOGIT_MARGIN = 2e-3
LEAST_ROUTER_MARGIN = 1e-3

Arrays = dict[str, np.ndarray]


@dataclass(frozen=True)
class Variant:
    """One checkpoint: which model, which dialect of config.json, which stored type and file layout."""

    name: str
    seed: int  # chosen so that check_margins and check_router pass
    moe: bool
    tied: bool
    dtype: torch.dtype
    by_save_pretrained: bool  # False: the files as Qwen published them (4.57 config, legacy experts, one file)
    shard_bytes: int | None
    every_stage: bool  # False: leave out the inner stages, which would only repeat what the first variant proves
    cases: tuple[str, ...]


@dataclass(frozen=True)
class Picture:
    """A random picture; the same height and width always give the same pixels."""

    height: int
    width: int

    def pixels(self) -> np.ndarray:
        return np.random.default_rng([PICTURE_SEED, self.height, self.width]).integers(
            0, 256, (self.height, self.width, 3), dtype=np.uint8
        )


@dataclass(frozen=True)
class Clip:
    """A random video; two frames make one temporal patch."""

    frames: int
    height: int
    width: int

    def pixels(self) -> np.ndarray:
        return np.random.default_rng([PICTURE_SEED, self.frames, self.height, self.width]).integers(
            0, 256, (self.frames, self.height, self.width, 3), dtype=np.uint8
        )


@dataclass(frozen=True)
class PictureFile:
    """A picture on disk."""

    path: Path

    def pixels(self) -> np.ndarray:
        return np.asarray(Image.open(self.path).convert("RGB"))


Turn = tuple[str | Picture | PictureFile | Clip, ...]

TURNS: dict[str, Turn] = {
    "text": ("What month is highest, and what is its value?",),
    "image_4x6": (Picture(64, 96), "What is the total?"),
    "image_2x6": (Picture(32, 96), "What is the date?"),
    "two_images": (Picture(64, 96), "first, then", Picture(96, 32), "Which total is higher?"),
    "second_turn": (Picture(64, 64), "And the total here?"),  # follows image_4x6 and its greedy answer
    "long": (
        "Read the receipt and then the chart: list each item with its price.",
        Picture(96, 128),
        "How many items are there, and what is the name of the store? Then read the date and the total.",
    ),
    "video": (Clip(6, 64, 64), "What is in the video?"),
}
MAIN_CASES = ("text", "image_4x6", "two_images", "second_turn", "long")

VARIANTS = (
    Variant("dense-tied", 25, False, True, torch.float32, False, None, True, tuple(TURNS)),
    Variant("dense-untied", 4, False, False, torch.bfloat16, True, 150_000, False, MAIN_CASES),
    Variant("moe-legacy", 9, True, False, torch.float32, False, None, False, MAIN_CASES),
    Variant("moe", 1, True, False, torch.float16, True, None, False, MAIN_CASES),
)

TEXT_CONFIG: dict[str, Any] = {
    "attention_bias": False,
    "attention_dropout": 0.0,
    "bos_token_id": END_OF_TEXT,
    "eos_token_id": IM_END,
    "head_dim": 32,
    "hidden_act": "silu",
    "hidden_size": 32,
    "initializer_range": 0.02,
    "intermediate_size": 48,
    "max_position_embeddings": 1024,
    "num_attention_heads": 4,
    "num_hidden_layers": 3,
    "num_key_value_heads": 2,
    "rms_norm_eps": 1e-6,
    "use_cache": True,
    "vocab_size": 1024,
}
# Neither moe_intermediate_size nor its double equals hidden_size, so the two expert layouts differ in shape.
MOE_CONFIG: dict[str, Any] = {
    "decoder_sparse_step": 1,
    "mlp_only_layers": [],
    "moe_intermediate_size": 12,
    "norm_topk_prob": True,
    "num_experts": 8,
    "num_experts_per_tok": 2,
}
ROPE: dict[str, Any] = {"mrope_interleaved": True, "mrope_section": [6, 5, 5], "rope_type": "default"}
VISION_CONFIG: dict[str, Any] = {
    "deepstack_visual_indexes": [0, 2],
    "depth": 4,
    "hidden_act": "gelu_pytorch_tanh",
    "hidden_size": 16,
    "in_channels": 3,
    "initializer_range": 0.02,
    "intermediate_size": 24,
    "num_heads": 2,
    "num_position_embeddings": 36,
    "out_hidden_size": 32,
    "patch_size": 16,
    "spatial_merge_size": 2,
    "temporal_patch_size": 2,
}
SPECIAL_IDS = {
    "image_token_id": IMAGE_PAD,
    "video_token_id": VIDEO_PAD,
    "vision_end_token_id": VISION_END,
    "vision_start_token_id": VISION_START,
}
GENERATION_CONFIG = {
    "bos_token_id": END_OF_TEXT,
    "do_sample": False,
    "eos_token_id": [IM_END, END_OF_TEXT],
    "pad_token_id": END_OF_TEXT,
}
PIXEL_CONFIG: dict[str, Any] = {
    "image_mean": [0.5, 0.5, 0.5],
    "image_std": [0.5, 0.5, 0.5],
    "merge_size": 2,
    "patch_size": 16,
    "size": {"longest_edge": 1048576, "shortest_edge": 1024},
    "temporal_patch_size": 2,
}


def main() -> None:
    torch.set_num_threads(1)  # one order of summation: the same bytes on every run
    torch.set_grad_enabled(False)
    for variant in VARIANTS:
        folder = FIXTURES / variant.name
        shutil.rmtree(folder, ignore_errors=True)
        written = write_checkpoint(variant, folder / "checkpoint")
        model = load_model(folder / "checkpoint")
        check_parameters(model, written)
        write_cases(variant, model, folder)
    record_answers(SAMPLES)


# --- checkpoints ---------------------------------------------------------------------------------------------------


def write_checkpoint(variant: Variant, folder: Path) -> dict[str, torch.Tensor]:
    """Write the checkpoint and return its parameters as stored, in transformers' own (5.x) layout."""
    folder.mkdir(parents=True)
    model = random_model(variant)
    if variant.by_save_pretrained:
        model.save_pretrained(folder, max_shard_size=variant.shard_bytes or "1GB")
    else:
        tensors = {name: as_published(name, tensor) for name, tensor in model.state_dict().items()}
        if variant.tied:
            del tensors["lm_head.weight"]
        save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
        write_json(folder / "config.json", published_config(variant))
    for path in folder.iterdir():
        path.chmod(0o644)  # save_pretrained leaves weights readable by their owner only
    write_json(folder / "generation_config.json", GENERATION_CONFIG)
    write_json(
        folder / "preprocessor_config.json", PIXEL_CONFIG | {"image_processor_type": "Qwen2VLImageProcessorFast"}
    )
    write_json(
        folder / "video_preprocessor_config.json", PIXEL_CONFIG | {"video_processor_type": "Qwen3VLVideoProcessor"}
    )
    return dict(model.named_parameters())


def random_model(variant: Variant) -> PreTrainedModel:
    """A model whose every parameter is random and matters: no zero bias, no unit norm, no tiny weight."""
    rope_parameters = ROPE | {"rope_theta": rope_theta(variant)}
    text = TEXT_CONFIG | {"rope_parameters": rope_parameters} | (MOE_CONFIG if variant.moe else {})
    kind, config = (
        (Qwen3VLMoeForConditionalGeneration, Qwen3VLMoeConfig)
        if variant.moe
        else (Qwen3VLForConditionalGeneration, Qwen3VLConfig)
    )
    model = kind(config(text_config=text, vision_config=VISION_CONFIG, tie_word_embeddings=variant.tied, **SPECIAL_IDS))
    rng = np.random.default_rng(variant.seed)
    for name, parameter in sorted(model.named_parameters()):
        parameter.copy_(torch.from_numpy(random_parameter(name, tuple(parameter.shape), rng)))
    return model.to(variant.dtype)


def random_parameter(name: str, shape: tuple[int, ...], rng: np.random.Generator) -> np.ndarray:
    """Values whose spread keeps every stage near 1, so that an omitted or swapped parameter shows."""
    noise = rng.standard_normal(shape, dtype=np.float32)
    if name.endswith("embed_tokens.weight") or name == "lm_head.weight":
        # Small beside what the layers add, or a model with tied embeddings only repeats its last token.
        noise *= 0.3 if name == "lm_head.weight" else 0.1
        noise[FIRST_SPECIAL:] *= 0.2  # faint rows: no greedy answer leaves ordinary text or stops early
        return noise
    if name.endswith("pos_embed.weight"):
        return noise * 0.5
    if name.endswith("bias"):
        return noise * 0.2
    if len(shape) == 1:
        return 1 + noise * 0.2
    if name.endswith("mlp.gate.weight"):
        return noise
    if "experts" in name:
        return noise / np.float32(shape[2] ** 0.5)
    return noise / np.float32(np.prod(shape[1:]) ** 0.5)


def rope_theta(variant: Variant) -> float:
    """Published value in the published dialect; elsewhere one that is nobody's default, so it must be read."""
    return 1e6 if variant.by_save_pretrained else 5e6


def as_published(name: str, tensor: torch.Tensor) -> torch.Tensor:
    """Experts as Qwen published them, (E, D, 2I) and (E, I, D); all else unchanged."""
    return tensor.transpose(1, 2).contiguous() if "experts" in name else tensor.contiguous()


def published_config(variant: Variant) -> dict[str, Any]:
    """config.json in the dialect of transformers 4.57, which the official checkpoints speak."""
    kind = "qwen3_vl_moe" if variant.moe else "qwen3_vl"
    dtype = str(variant.dtype).removeprefix("torch.")
    rope = {"dtype": dtype, "model_type": f"{kind}_text", "rope_scaling": ROPE, "rope_theta": rope_theta(variant)}
    return SPECIAL_IDS | {
        "architectures": ["Qwen3VLMoeForConditionalGeneration" if variant.moe else "Qwen3VLForConditionalGeneration"],
        "dtype": dtype,
        "model_type": kind,
        "text_config": TEXT_CONFIG | rope | (MOE_CONFIG if variant.moe else {}),
        "tie_word_embeddings": variant.tied,
        "transformers_version": "4.57.1",
        "vision_config": VISION_CONFIG | {"model_type": kind},
    }


def write_json(path: Path, value: object) -> None:
    path.write_text(json.dumps(value, indent=2, sort_keys=True, ensure_ascii=False) + "\n", encoding="utf-8")


def load_model(folder: Path) -> PreTrainedModel:
    """The checkpoint as the oracle runs it: stored weights, float32 arithmetic, plain attention and experts."""
    return AutoModelForImageTextToText.from_pretrained(
        folder, dtype=torch.float32, attn_implementation="eager", experts_implementation="eager"
    ).eval()


def check_parameters(model: PreTrainedModel, written: Mapping[str, torch.Tensor]) -> None:
    """Loading must neither transpose, drop nor invent a parameter."""
    loaded = dict(model.named_parameters())
    assert loaded.keys() == written.keys(), loaded.keys() ^ written.keys()
    for name, tensor in written.items():
        assert torch.equal(loaded[name], tensor.float()), name


# --- cases ---------------------------------------------------------------------------------------------------------


def write_cases(variant: Variant, model: PreTrainedModel, folder: Path) -> None:
    """Run every case of the variant and store it as <case>.npz."""
    processor = Qwen2VLImageProcessorPil.from_pretrained(folder / "checkpoint")
    tokenizer = Tokenizer.from_file(str(TOKENIZER))
    done: dict[str, Arrays] = {}
    for name in variant.cases:
        history = done["image_4x6"] if name == "second_turn" else None
        case = case_inputs(TURNS[name], history, processor, tokenizer)
        case |= forward_stages(model, case, variant.every_stage)
        case |= greedy_answer(model, case)
        if not (variant.every_stage and name == "image_4x6"):
            case["logits"] = case["logits"][-1:]
        check_margins(case, f"{variant.name}/{name}")
        done[name] = case
        stored = case if variant.every_stage else {k: v for k, v in case.items() if k != "pixel_rows"}
        np.savez_compressed(folder / f"{name}.npz", **stored)
    pads = np.flatnonzero(done["long"]["mm_token_type_ids"])
    assert pads[0] < BLOCK_TOKENS <= pads[-1], pads
    assert len(done["long"]["token_ids"]) > 2 * BLOCK_TOKENS


def case_inputs(turn: Turn, history: Arrays | None, processor: Any, tokenizer: Tokenizer) -> Arrays:
    """Token ids, pixels, pixel rows and grids of a prompt: `history` with its answer, if any, then the user's turn."""
    ids: list[int] = []
    pictures: list[np.ndarray] = []
    rows: list[np.ndarray] = []
    grids: list[tuple[int, int, int]] = []
    if history is not None:
        ids += [
            *history["token_ids"].tolist(),
            *history["greedy_token_ids"].tolist(),
            *text_ids(tokenizer, "<|im_end|>\n"),
        ]
        pictures.append(history["picture_0"])
        rows.append(history["pixel_rows"])
        grids += [tuple(grid) for grid in history["grid_thw"].tolist()]
    ids += text_ids(tokenizer, "<|im_start|>user\n")
    arrays: Arrays = {}
    for part in turn:
        if isinstance(part, str):
            ids += text_ids(tokenizer, part)
            continue
        pixels = part.pixels()
        patches, grid = clip_rows(pixels, processor) if isinstance(part, Clip) else picture_rows(pixels, processor)
        rows.append(patches)
        grids.append(grid)
        if isinstance(part, Clip):
            arrays["frames"] = pixels
            ids += clip_ids(grid, tokenizer)
        else:
            pictures.append(pixels)
            pads = "<|image_pad|>" * (grid[1] * grid[2] // 4)
            ids += text_ids(tokenizer, f"<|vision_start|>{pads}<|vision_end|>")
    ids += text_ids(tokenizer, "<|im_end|>\n<|im_start|>assistant\n")
    token_ids = np.array(ids, np.int64)
    arrays |= {f"picture_{number}": pixels for number, pixels in enumerate(pictures)}
    arrays["token_ids"] = token_ids
    image, video = (token_ids == tokenizer.token_to_id(f"<|{kind}_pad|>") for kind in ("image", "video"))
    arrays["mm_token_type_ids"] = image + 2 * video
    if rows:
        arrays["pixel_rows"] = np.concatenate(rows)
        arrays["grid_thw"] = np.array(grids, np.int64)
    return arrays


def text_ids(tokenizer: Tokenizer, text: str) -> list[int]:
    return tokenizer.encode(text).ids


def clip_ids(grid: tuple[int, int, int], tokenizer: Tokenizer) -> list[int]:
    """One timestamp and one vision span per temporal patch, as transformers 4.57 lays a video out."""
    span = text_ids(tokenizer, f"<|vision_start|>{'<|video_pad|>' * (grid[1] * grid[2] // 4)}<|vision_end|>")
    seconds = Qwen3VLProcessor._calculate_timestamps(None, list(range(2 * grid[0])), CLIP_FPS)
    return [token for second in seconds for token in [*text_ids(tokenizer, f"<{second:.1f} seconds>"), *span]]


def picture_rows(pixels: np.ndarray, processor: Any) -> tuple[np.ndarray, tuple[int, int, int]]:
    """(N, 1536) float32 rows and the (1, h, w) grid, from transformers' Pillow processor."""
    batch = processor(images=[Image.fromarray(pixels)], return_tensors="np")
    return batch["pixel_values"], tuple(batch["image_grid_thw"][0].tolist())


def clip_rows(frames: np.ndarray, processor: Any) -> tuple[np.ndarray, tuple[int, int, int]]:
    """Rows of a video, put together from its frames: the picture of a frame fills both temporal halves of its rows,
    so the first half of frame 2k and the second half of frame 2k+1 make temporal patch k."""
    rows = []
    for first, second in zip(frames[0::2], frames[1::2], strict=True):
        early, grid = picture_rows(first, processor)
        late, _ = picture_rows(second, processor)
        halves = early.reshape(-1, 3, 2, 256).copy()
        halves[:, :, 1] = late.reshape(-1, 3, 2, 256)[:, :, 1]
        rows.append(halves.reshape(-1, 1536))
    return np.concatenate(rows), (len(rows), *grid[1:])


# --- the oracle ----------------------------------------------------------------------------------------------------


def run(model: PreTrainedModel, case: Arrays, extra_ids: list[int]) -> torch.Tensor:
    """Logits (T, vocabulary) of the prompt followed by `extra_ids`, computed whole: no cache, no state left behind."""
    ids = torch.tensor([*case["token_ids"].tolist(), *extra_ids])[None]
    types = torch.tensor([*case["mm_token_type_ids"].tolist(), *[0] * len(extra_ids)])[None]
    vision = {}
    if "pixel_rows" in case:
        pixels, grid = (
            ("pixel_values_videos", "video_grid_thw") if "frames" in case else ("pixel_values", "image_grid_thw")
        )
        vision = {pixels: torch.from_numpy(case["pixel_rows"]), grid: torch.from_numpy(case["grid_thw"])}
    model.model.rope_deltas = None
    return model(
        input_ids=ids, mm_token_type_ids=types, attention_mask=torch.ones_like(ids), use_cache=False, **vision
    ).logits[0]


@contextmanager
def recording(model: PreTrainedModel, has_vision: bool) -> Iterator[Arrays]:
    """Collect every stage of the runs made inside the block."""
    seen: Arrays = {}
    hooks = []

    def keep_output(module: torch.nn.Module, *names: str) -> None:
        def store(_module: object, _inputs: object, output: torch.Tensor | tuple[torch.Tensor, ...]) -> None:
            outputs = output if isinstance(output, tuple) else (output,)
            seen.update({name: array(value) for name, value in zip(names, outputs, strict=False)})

        hooks.append(module.register_forward_hook(store))

    def keep_input(module: torch.nn.Module, name: str, position: int = 0) -> None:
        def store(_module: object, inputs: tuple[torch.Tensor, ...]) -> None:
            seen[name] = array(inputs[position])

        hooks.append(module.register_forward_pre_hook(store))

    language, visual = model.model.language_model, model.model.visual
    keep_input(language.rotary_emb, "position_ids", 1)
    keep_output(language.rotary_emb, "text_cos", "text_sin")
    # The state after layer i includes what deepstack adds behind it, so it is taken where the next module reads it.
    for number, reader in enumerate([*language.layers, language.norm]):
        keep_input(reader, f"text_hidden_{number}")
    for number, layer in enumerate(language.layers):
        if hasattr(layer.mlp, "gate"):
            keep_output(layer.mlp.gate, f"router_logits_{number}", f"expert_weights_{number}", f"expert_ids_{number}")
    if has_vision:
        keep_output(visual.patch_embed, "patch_embedding")
        keep_input(visual.blocks[0], "vision_hidden_0")
        keep_output(visual.rotary_pos_emb, "vision_cos", "vision_sin")
        for number, block in enumerate(visual.blocks):
            keep_output(block, f"vision_hidden_{number + 1}")
        for number, merger in enumerate(visual.deepstack_merger_list):
            keep_output(merger, f"deepstack_{number}")
        keep_output(visual.merger, "vision_merged")
    try:
        yield seen
    finally:
        for hook in hooks:
            hook.remove()


def array(tensor: torch.Tensor) -> np.ndarray:
    """A copy without the batch axis of the text model."""
    value = tensor.detach().clone().numpy()
    if value.ndim == 3 and value.shape[0] == 1:
        return value[0]
    return value


INNER_STAGES = ("position_embedding", "vision_hidden", "vision_cos", "vision_sin", "text_cos", "text_sin")


def forward_stages(model: PreTrainedModel, case: Arrays, every_stage: bool) -> Arrays:
    """All stages of one whole run of the prompt; without `every_stage`, not those inside the vision tower."""
    with recording(model, "pixel_rows" in case) as stages:
        logits = run(model, case, [])
    check_router(stages)
    positions = stages.pop("position_ids")
    stages["position_ids"] = positions.reshape(3, -1).astype(np.int64)
    stages["next_position"] = np.int64(positions.max() + 1)
    stages["logits"] = logits.numpy()
    if "pixel_rows" in case:
        stages["position_embedding"] = position_embedding(model, case["grid_thw"])
        patches = stages.pop("patch_embedding")
        assert np.array_equal(patches + stages["position_embedding"], stages["vision_hidden_0"])
    dropped = ("router_logits",) if every_stage else ("router_logits", *INNER_STAGES)
    return {name: value for name, value in stages.items() if not name.startswith(dropped)}


def position_embedding(model: PreTrainedModel, grid_thw: np.ndarray) -> np.ndarray:
    """(N, h) learned positions stretched to the grids, by the same calls as transformers' vision model."""
    visual = model.model.visual
    indices, weights = get_vision_interpolation_indices_and_weights(
        torch.from_numpy(grid_thw),
        num_grid_per_side=visual.num_grid_per_side,
        mode=visual.interpolation_mode,
        align_corners=visual.interpolation_align_corners,
        spatial_merge_size=visual.config.spatial_merge_size,
    )
    return (visual.pos_embed(indices) * weights[:, :, None]).sum(1).numpy()


def greedy_answer(model: PreTrainedModel, case: Arrays) -> Arrays:
    """The sixteen most likely continuations, one after another, and how clearly each one won."""
    answer: list[int] = []
    margins: list[float] = []
    for _ in range(GREEDY_TOKENS):
        best = run(model, case, answer)[-1].topk(2)
        answer.append(int(best.indices[0]))
        margins.append(float(best.values[0] - best.values[1]))
    return {"greedy_token_ids": np.array(answer, np.int64), "greedy_margins": np.array(margins, np.float32)}


def check_margins(case: Arrays, where: str) -> None:
    """A golden answer must be decided by the model, not by rounding, and must stay in ordinary text."""
    assert case["greedy_margins"].min() > LEAST_LOGIT_MARGIN, (where, case["greedy_margins"])
    assert case["greedy_token_ids"].max() < FIRST_SPECIAL, (where, case["greedy_token_ids"])
    assert len(set(case["greedy_token_ids"].tolist())) > GREEDY_TOKENS // 4, (where, case["greedy_token_ids"])


def check_router(stages: Arrays) -> None:
    """No token may sit on the border between its last chosen expert and the first one left out."""
    for name, logits in stages.items():
        if name.startswith("router_logits"):
            ranked = -np.sort(-logits, axis=1)
            chosen = MOE_CONFIG["num_experts_per_tok"]
            assert (ranked[:, chosen - 1] - ranked[:, chosen]).min() > LEAST_ROUTER_MARGIN, name


# --- the demo model ------------------------------------------------------------------------------------------------


def record_answers(folder: Path) -> None:
    """Write into `folder`/answers.json what transformers lets the demo model say, greedily and in float32."""
    model = load_model(DEMO_MODEL)
    processor = Qwen2VLImageProcessorPil.from_pretrained(DEMO_MODEL)
    tokenizer = Tokenizer.from_file(str(DEMO_MODEL / "tokenizer.json"))
    samples = json.loads((folder / "answers.json").read_text(encoding="utf-8"))
    for sample in samples:
        turn = (PictureFile(folder / sample["image"]), sample["question"])
        case = case_inputs(turn, None, processor, tokenizer)
        prompt = torch.from_numpy(case["token_ids"])[None]
        model.model.rope_deltas = None
        output = model.generate(
            input_ids=prompt,
            attention_mask=torch.ones_like(prompt),
            mm_token_type_ids=torch.from_numpy(case["mm_token_type_ids"])[None],
            pixel_values=torch.from_numpy(case["pixel_rows"]),
            image_grid_thw=torch.from_numpy(case["grid_thw"]),
            max_new_tokens=256,
            output_scores=True,
            return_dict_in_generate=True,
        )
        said = tokenizer.decode(output.sequences[0, prompt.shape[1] :].tolist())
        sample |= {"model": said, "ok": said == sample["expected"]}
        best = torch.cat(output.scores).topk(2).values
        assert (best[:, 0] - best[:, 1]).min() > LEAST_LOGIT_MARGIN, sample
    text = json.dumps(samples, indent=1, ensure_ascii=False) + "\n"
    (folder / "answers.json").write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
