"""Writes a checkpoint as a Hugging Face folder, and checks that transformers gives the same answers from it.

    python -m training.export training/runs/demo/checkpoint.pt demo-model --table table.md --check 4

Label heads and optimiser state stay behind. The averaged weights are exported, rounded to bfloat16.
"""

import argparse
import json
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from tokenizers import Tokenizer
from torch import Tensor

from . import tokenizer as words
from .answering import answers
from .held_out import Trial, trials
from .keep import averaged
from .model import MERGE, PATCH_PX, DemoModel, Shape, TextShape

# A picture becomes 64 to 88 visual tokens, the range seen in training.
MIN_PIXELS, MAX_PIXELS = 64 * 1024, 88 * 1024
MAX_POSITIONS = 4096

CHAT_TEMPLATE = """\
{%- macro parts(content) -%}
  {%- if content is string -%}{{- content -}}
  {%- else -%}
    {%- for part in content or [] -%}
      {%- if part.type == 'image' or 'image' in part or 'image_url' in part -%}
        {{- '<|vision_start|><|image_pad|><|vision_end|>' -}}
      {%- elif part.type == 'video' or 'video' in part -%}
        {{- '<|vision_start|><|video_pad|><|vision_end|>' -}}
      {%- elif 'text' in part -%}
        {{- part.text -}}
      {%- endif -%}
    {%- endfor -%}
  {%- endif -%}
{%- endmacro -%}
{%- for message in messages -%}
  {{- '<|im_start|>' + message.role + '\\n' + parts(message.content) + '<|im_end|>\\n' -}}
{%- endfor -%}
{%- if add_generation_prompt -%}
  {{- '<|im_start|>assistant\\n' -}}
{%- endif -%}
"""


def load(checkpoint: Path) -> DemoModel:
    """The averaged weights of a training checkpoint, rounded as they will be shipped, in float32."""
    saved = torch.load(checkpoint, map_location="cpu", weights_only=True)
    state = averaged(saved)
    vocabulary = state["model.language_model.embed_tokens.weight"].shape[0]
    model = DemoModel(Shape(text=TextShape(vocabulary=vocabulary)))
    model.load_state_dict({name: tensor.bfloat16().float() for name, tensor in state.items()})
    return model.eval()


def export(model: DemoModel, folder: Path, card: str) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    tokenizer = words.build()
    tensors = {name: tensor.to(torch.bfloat16).contiguous() for name, tensor in model.state_dict().items()}
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    tokenizer.save(str(folder / "tokenizer.json"))
    (folder / "chat_template.jinja").write_text(CHAT_TEMPLATE)
    (folder / "README.md").write_text(card)
    end, pad = tokenizer.token_to_id("<|im_end|>"), tokenizer.token_to_id("<|endoftext|>")
    documents: dict[str, dict[str, Any]] = {
        "config.json": _config(model.shape, tokenizer),
        "generation_config.json": {
            "bos_token_id": pad,
            "pad_token_id": pad,
            "eos_token_id": [end, pad],
            "do_sample": False,
        },
        "chat_template.json": {"chat_template": CHAT_TEMPLATE},
        "tokenizer_config.json": {
            "tokenizer_class": "Qwen2Tokenizer",
            "bos_token": None,
            "eos_token": "<|im_end|>",
            "pad_token": "<|endoftext|>",
            "unk_token": None,
            "add_prefix_space": False,
            "add_bos_token": False,
            "clean_up_tokenization_spaces": False,
            "model_max_length": MAX_POSITIONS,
            "errors": "replace",
            "split_special_tokens": False,
            "chat_template": CHAT_TEMPLATE,
        },
        "preprocessor_config.json": {
            **_picture_rules(MIN_PIXELS, MAX_PIXELS),
            "image_processor_type": "Qwen2VLImageProcessorFast",
            "processor_class": "Qwen3VLProcessor",
        },
        "video_preprocessor_config.json": {
            **_picture_rules(4096, 786432),
            "video_processor_type": "Qwen3VLVideoProcessor",
            "processor_class": "Qwen3VLProcessor",
        },
    }
    for name, document in documents.items():
        (folder / name).write_text(json.dumps(document, indent=2, ensure_ascii=False) + "\n")


def _picture_rules(min_pixels: int, max_pixels: int) -> dict[str, Any]:
    return {
        "size": {"shortest_edge": min_pixels, "longest_edge": max_pixels},
        "patch_size": PATCH_PX,
        "temporal_patch_size": 2,
        "merge_size": MERGE,
        "image_mean": [0.5] * 3,
        "image_std": [0.5] * 3,
    }


def _config(shape: Shape, tokenizer: Tokenizer) -> dict[str, Any]:
    text, vision = shape.text, shape.vision
    number = tokenizer.token_to_id
    return {
        "architectures": ["Qwen3VLForConditionalGeneration"],
        "model_type": "qwen3_vl",
        "image_token_id": number("<|image_pad|>"),
        "video_token_id": number("<|video_pad|>"),
        "vision_start_token_id": number("<|vision_start|>"),
        "vision_end_token_id": number("<|vision_end|>"),
        "tie_word_embeddings": True,
        "dtype": "bfloat16",
        "transformers_version": "4.57.1",
        "text_config": {
            "model_type": "qwen3_vl_text",
            "attention_bias": False,
            "attention_dropout": 0.0,
            "bos_token_id": number("<|endoftext|>"),
            "eos_token_id": number("<|im_end|>"),
            "dtype": "bfloat16",
            "head_dim": text.head_dim,
            "hidden_act": "silu",
            "hidden_size": text.hidden,
            "initializer_range": 0.02,
            "intermediate_size": text.mlp,
            "max_position_embeddings": MAX_POSITIONS,
            "num_attention_heads": text.heads,
            "num_hidden_layers": text.layers,
            "num_key_value_heads": text.kv_heads,
            "rms_norm_eps": text.norm_eps,
            "rope_theta": text.rope_theta,
            "rope_scaling": {
                "rope_type": "default",
                "mrope_section": list(text.mrope_section),
                "mrope_interleaved": True,
            },
            "tie_word_embeddings": True,
            "use_cache": True,
            "vocab_size": text.vocabulary,
        },
        "vision_config": {
            "model_type": "qwen3_vl",
            "deepstack_visual_indexes": list(vision.deepstack),
            "depth": vision.depth,
            "hidden_act": "gelu_pytorch_tanh",
            "hidden_size": vision.hidden,
            "in_channels": 3,
            "initializer_range": 0.02,
            "intermediate_size": vision.mlp,
            "num_heads": vision.heads,
            "num_position_embeddings": vision.positions,
            "out_hidden_size": text.hidden,
            "patch_size": PATCH_PX,
            "spatial_merge_size": MERGE,
            "temporal_patch_size": 2,
        },
    }


def check(model: DemoModel, folder: Path, per_task: int) -> tuple[int, int]:
    """Compare greedy answers with transformers: (equal, all). A missing or unexpected tensor raises ValueError."""
    from transformers import Qwen3VLForConditionalGeneration

    reference, report = Qwen3VLForConditionalGeneration.from_pretrained(
        folder, dtype=torch.float32, output_loading_info=True
    )
    faults = {name: found for name, found in report.items() if found}
    if faults:
        raise ValueError(f"transformers does not load {folder} cleanly: {faults}")
    asked = [trial for found in trials(per_task).values() for trial in found]
    tokenizer = words.build()
    equal = 0
    for trial in asked:
        theirs, ours = _reference_answer(reference.eval(), folder, trial), answers(model, tokenizer, [trial])[0]
        equal += ours == theirs
        if ours != theirs:
            print(f"{trial.task}: {trial.question!r}: ours {ours!r}, transformers {theirs!r}")
    return equal, len(asked)


def _reference_answer(reference: Any, folder: Path, trial: Trial) -> str:
    """Everything by transformers' own parts: template, tokenizer, image processor, generate."""
    from PIL import Image
    from transformers import PreTrainedTokenizerFast
    from transformers.models.qwen2_vl.image_processing_pil_qwen2_vl import Qwen2VLImageProcessorPil

    tokenizer = PreTrainedTokenizerFast(tokenizer_file=str(folder / "tokenizer.json"))
    rules = json.loads((folder / "preprocessor_config.json").read_text())
    wanted = {name: rules[name] for name in _picture_rules(0, 0)}
    pixels = Qwen2VLImageProcessorPil(**wanted)([Image.fromarray(p) for p in trial.pictures], return_tensors="pt")
    questions = [question for question, _ in trial.turns] + [trial.question]
    messages: list[dict[str, Any]] = []
    for number, question in enumerate(questions):
        pictures = [{"type": "image"}] * len(trial.pictures) if number == 0 else []
        messages.append({"role": "user", "content": [*pictures, {"type": "text", "text": question}]})
        if number < len(trial.turns):
            messages.append({"role": "assistant", "content": trial.turns[number][1]})
    prompt = tokenizer.apply_chat_template(
        messages, chat_template=CHAT_TEMPLATE, tokenize=False, add_generation_prompt=True
    )
    for grid in pixels["image_grid_thw"]:
        tokens = int(grid.prod()) // MERGE**2
        prompt = prompt.replace("<|image_pad|>", "<|visual|>" * tokens, 1)
    ids = torch.tensor([tokenizer.encode(prompt.replace("<|visual|>", "<|image_pad|>"), add_special_tokens=False)])
    kinds: Tensor = (ids == reference.config.image_token_id).int()
    output = reference.generate(
        input_ids=ids,
        attention_mask=torch.ones_like(ids),
        mm_token_type_ids=kinds,
        **pixels,
        max_new_tokens=320,
        do_sample=False,
    )
    return str(tokenizer.decode(output[0, ids.shape[1] :], skip_special_tokens=True))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("checkpoint", type=Path)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--card", type=Path, default=Path(__file__).with_name("model_card.md"))
    parser.add_argument("--table", type=Path, help="measured accuracy, put where the card says {table}")
    parser.add_argument("--check", type=int, default=0, help="trials per task to compare with transformers")
    options = parser.parse_args()
    model = load(options.checkpoint)
    table = options.table.read_text() if options.table else "Not measured."
    export(model, options.folder, options.card.read_text().replace("{table}", table))
    if options.check:
        equal, asked = check(model, options.folder, options.check)
        print(f"{equal} of {asked} answers equal transformers'")


if __name__ == "__main__":
    main()
