"""Asks Hugging Face transformers, the way a service written on it does. Runs where torch and transformers are."""

from __future__ import annotations

import time
from pathlib import Path

from cases import Answer, System, parser, run

IMAGE_PAD = "<|image_pad|>"


class Clock:
    """A streamer that notes when each token comes; the first thing it is given is the prompt."""

    def __init__(self, answer: Answer):
        self.answer = answer
        self.seen_prompt = False

    def put(self, _tokens: object) -> None:
        if self.seen_prompt:
            self.answer.arrive()
        self.seen_prompt = True

    def end(self) -> None:
        pass


class Transformers(System):
    packages = ("transformers", "torch")
    batches = False  # a picture prompt costs it tens of seconds; eight of them would measure patience
    remembers = False  # the same picture again takes what a new one took

    def __init__(self, checkpoint: str, dtype: str):
        self.checkpoint, self.dtype_name = checkpoint, dtype

    def load(self) -> None:
        import torch
        from transformers import AutoTokenizer, Qwen3VLForConditionalGeneration
        from transformers.models.qwen2_vl.image_processing_pil_qwen2_vl import Qwen2VLImageProcessorPil

        self.torch, self.dtype = torch, getattr(torch, self.dtype_name)
        self.tokenizer = AutoTokenizer.from_pretrained(self.checkpoint)
        self.processor = Qwen2VLImageProcessorPil.from_pretrained(self.checkpoint)
        self.model = Qwen3VLForConditionalGeneration.from_pretrained(self.checkpoint, dtype=self.dtype).eval()

    def ask(self, question: str, picture: Path | None, tokens: int) -> Answer:
        from PIL import Image

        answer, vision, extra = Answer(time.perf_counter()), "", {}
        if picture:
            pixels = self.processor(images=[Image.open(picture).convert("RGB")], return_tensors="pt")
            grid = pixels["image_grid_thw"]
            vision = f"<|vision_start|>{IMAGE_PAD * (int(grid[0].prod()) // 4)}<|vision_end|>"
            extra = {"pixel_values": pixels["pixel_values"].to(self.dtype), "image_grid_thw": grid}
        text = f"<|im_start|>user\n{vision}{question}<|im_end|>\n<|im_start|>assistant\n"
        ids = self.tokenizer(text, return_tensors="pt").input_ids
        if picture:
            extra["mm_token_type_ids"] = (ids == self.tokenizer.convert_tokens_to_ids(IMAGE_PAD)).int()
        answer.prompt_tokens = ids.shape[1]
        with self.torch.inference_mode():
            self.model.generate(
                input_ids=ids,
                attention_mask=self.torch.ones_like(ids),
                min_new_tokens=tokens,
                max_new_tokens=tokens,
                do_sample=False,
                streamer=Clock(answer),
                **extra,
            )
        return answer


if __name__ == "__main__":
    options = parser(__doc__)
    options.add_argument("--dtype", default="float32", choices=["float32", "bfloat16"])
    given = options.parse_args()
    run(Transformers(given.model, given.dtype), given)
