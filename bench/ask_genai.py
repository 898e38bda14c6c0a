"""Asks OpenVINO GenAI: one at a time through its VLMPipeline, several at once through continuous batching."""

from __future__ import annotations

import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from cases import Answer, System, parser, run


class GenAI(System):
    packages = ("openvino-genai", "openvino")

    def __init__(self, folder: str):
        self.folder = folder
        self.sees = any(Path(folder).glob("*vision*.xml"))
        self.batching: Any = None

    def load(self) -> None:
        import openvino_genai

        self.genai = openvino_genai
        kind = openvino_genai.VLMPipeline if self.sees else openvino_genai.LLMPipeline
        self.pipeline: Any = kind(self.folder, "CPU")

    def config(self, tokens: int) -> Any:
        return self.genai.GenerationConfig(
            max_new_tokens=tokens, min_new_tokens=tokens, ignore_eos=True, do_sample=False
        )

    @staticmethod
    def tensor(picture: Path) -> Any:
        import numpy as np
        import openvino
        from PIL import Image

        return openvino.Tensor(np.asarray(Image.open(picture).convert("RGB"))[None])

    def ask(self, question: str, picture: Path | None, tokens: int) -> Answer:
        answer = Answer(time.perf_counter())
        running = self.genai.StreamingStatus.RUNNING

        class Clock(self.genai.StreamerBase):  # type: ignore[misc, name-defined]
            def write(self, _token: object) -> object:
                answer.arrive()
                return running

            def end(self) -> None:
                pass

        images = {"images": [self.tensor(picture)]} if picture else {}
        # LLMPipeline tells nothing of times and tokens for a plain string.
        asked = question if self.sees else [question]
        result = self.pipeline.generate(asked, generation_config=self.config(tokens), streamer=Clock(), **images)
        answer.prompt_tokens = result.perf_metrics.get_num_input_tokens()
        return answer

    def ask_at_once(self, asked: Sequence[tuple[str, Path]], tokens: int) -> list[Answer]:
        if self.batching is None:
            self.pipeline = None  # one copy of the weights at a time
            scheduling = self.genai.SchedulerConfig()
            scheduling.enable_prefix_caching = True  # as its VLMPipeline has it
            self.batching = self.genai.ContinuousBatchingPipeline(self.folder, scheduling, "CPU")
        answers, streams = [], []
        for number, (question, picture) in enumerate(asked):
            answers.append(Answer(time.perf_counter()))
            streams.append(self.batching.add_request(number, question, [self.tensor(picture)], self.config(tokens)))
        while self.batching.has_non_finished_requests():
            self.batching.step()
            for answer, stream in zip(answers, streams, strict=True):
                if stream.can_read():
                    answer.arrive(sum(len(output.generated_ids) for output in stream.read().values()))
        return answers


if __name__ == "__main__":
    given = parser(__doc__).parse_args()
    run(GenAI(given.model), given)
