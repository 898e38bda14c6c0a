"""Writes which frames of a clip Hugging Face transformers takes, when they are, and at what size.

Run `python tests/media/make_clip_fixtures.py` where transformers 5.23, torch and torchvision are installed; nothing
else here needs them. It refuses to know our formulas: every value comes from the Qwen3-VL processors.

fixtures/clips.json has under "frames": total frames, their rate, the wished fps or num_frames, the indexes taken and
the timestamps as the prompt has them; under "sizes": frames, height, width and the height and width the model sees;
under "resized" how far Pillow's resize, which is ours, is from torchvision's, which the reference uses for videos: the
largest difference in levels, and the share of values that differ.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import PIL.Image
import torch
from transformers.image_utils import SizeDict
from transformers.models.qwen3_vl.processing_qwen3_vl import Qwen3VLProcessor
from transformers.models.qwen3_vl.video_processing_qwen3_vl import Qwen3VLVideoProcessor, smart_resize
from transformers.video_utils import VideoMetadata

FIXTURE = Path(__file__).resolve().parent / "fixtures" / "clips.json"
MIN_PIXELS, MAX_PIXELS = 4096, 25_165_824  # the published checkpoints'

# total frames, frames per second
LENGTHS = (
    *((900, 30.0), (1350, 30.0), (899, 30000 / 1001), (720, 24.0), (719, 24000 / 1001), (300, 30.0), (750, 25.0)),
    *((1800, 60.0), (100, 24.0), (45, 30.0), (3, 30.0), (1, 30.0), (7, 12.5), (60, 2.0), (150, 5.0)),
)
WISHES: tuple[dict[str, Any], ...] = ({}, {"fps": 1.0}, {"fps": 5.0}, {"fps": 0.1}, {"num_frames": 7})
SIZES = (
    *((4, 1080, 1920), (20, 1080, 1920), (20, 480, 640), (120, 1080, 1920), (768, 720, 1280), (5, 240, 320)),
    *((60, 720, 1280), (60, 2160, 3840), (2, 16, 16), (3, 20, 700), (6, 64, 64), (7, 1080, 1080), (60, 1920, 1080)),
    *((2, 33, 6000), (768, 2160, 3840), (59, 144, 176), (4, 4000, 3000)),
)
RESIZED = ((240, 320, 128, 192), (480, 640, 224, 288), (64, 64, 96, 96), (720, 1280, 320, 576))


def main() -> None:
    processor = Qwen3VLVideoProcessor(size={"shortest_edge": MIN_PIXELS, "longest_edge": MAX_PIXELS})
    expected = {
        "frames": [sampled(processor, total, fps, wish) for total, fps in LENGTHS for wish in WISHES],
        "sizes": [[*size, *smart_resize(*size, 2, 32, MIN_PIXELS, MAX_PIXELS)] for size in SIZES],
        "resized": [compared(processor, *case) for case in RESIZED],
    }
    text = json.dumps(expected).replace('], ["', '],\n["').replace("}, {", "},\n{")
    FIXTURE.write_text(text + "\n", encoding="utf-8")


def sampled(processor: Qwen3VLVideoProcessor, total: int, fps: float, wish: dict[str, Any]) -> dict[str, Any]:
    wish = {"num_frames": min(wish["num_frames"], total)} if "num_frames" in wish else wish
    indexes = processor.sample_frames(VideoMetadata(total_num_frames=total, fps=fps), **wish).tolist()
    seconds = Qwen3VLProcessor._calculate_timestamps(None, list(indexes), fps)
    return {"total": total, "rate": fps, **wish, "indexes": indexes, "told": [f"<{s:.1f} seconds>" for s in seconds]}


def compared(
    processor: Qwen3VLVideoProcessor, height: int, width: int, to_height: int, to_width: int
) -> dict[str, Any]:
    """How far Pillow's bicubic resize is from the one the reference uses for videos."""
    rng = np.random.default_rng(7)
    smooth = PIL.Image.fromarray(rng.integers(0, 256, (12, 16, 3), np.uint8)).resize((width, height))
    frame = np.clip(np.asarray(smooth).astype(int) + rng.integers(-20, 21, (height, width, 3)), 0, 255).astype(np.uint8)
    batch = torch.from_numpy(frame).permute(2, 0, 1)[None]
    size = SizeDict(height=to_height, width=to_width)
    reference = super(Qwen3VLVideoProcessor, processor).resize(image=batch, size=size, resample=processor.resample)
    ours = np.asarray(PIL.Image.fromarray(frame).resize((to_width, to_height), PIL.Image.Resampling.BICUBIC))
    apart = np.abs(reference[0].permute(1, 2, 0).numpy().astype(int) - ours.astype(int))
    case = {"height": height, "width": width, "to_height": to_height, "to_width": to_width}
    return {**case, "largest": int(apart.max()), "share": round(float((apart > 0).mean()), 4)}


if __name__ == "__main__":
    main()
