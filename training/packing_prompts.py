"""Writes the prompts that ship with the package for packing weights to 4 bits: drawn pictures, questions, answers.

    python -m training.packing_prompts src/sightline/model/packing_prompts.npz

Raise int4's `RECIPE` in `quantize.py` when the file changes. The seeds are used by neither training nor `held_out`.
Texts without a picture are in `TEXTS`. Knows no model.
"""

import argparse
import json
from pathlib import Path
from random import Random

import numpy as np

from .pictures.draw import example

SEED = "packing"
# Kind of picture -> how many, and their canvas (width, height).
PICTURES = {
    "receipt": (3, 256, 320),
    "chart": (3, 320, 256),
    "scene": (2, 256, 256),
    "form": (2, 256, 256),
    "text": (2, 256, 256),
}
LEVEL = 32  # colours are rounded down to steps of this: a quarter of the file
MOST_CHARACTERS = 240  # of questions and answers about one picture
TEXTS = (
    "The harbour was quiet that morning. Two boats had come back early, and their crews were mending nets on the "
    "quay while a child counted the gulls on the roof of the old customs house. Nobody asked what had happened to "
    "the third boat, because everybody had seen the clouds over the western hills.",
    "Water boils at a lower temperature on a mountain than at the sea, because the air above presses on it with less "
    "weight. At 3000 metres it is about 90 degrees Celsius. So potatoes need longer there, although the pot looks "
    "just as busy; a lid that holds the steam back brings the pressure up again.",
    "清晨的市场里,卖菜的人已经摆好了摊位。西红柿每斤四元,黄瓜每斤三元五角,老人挑了两根黄瓜,又问豆腐是不是今天早上做的。"
    "摊主笑着点头,把找回的零钱和一把香菜一起放进了他的布袋。",
    "图中是一张发票:开票日期为2024年3月18日,购买方是一家文具店,共有三项商品,税额为57.20元,价税合计497.20元。"
    "右上角盖着红色的印章,备注栏没有填写任何内容。",
    'def median(values: list[float]) -> float:\n    """The middle value, or the mean of the two middle ones."""\n'
    "    ordered = sorted(values)\n    half, odd = divmod(len(ordered), 2)\n    if not ordered:\n"
    '        raise ValueError("no values")\n'
    "    return ordered[half] if odd else (ordered[half - 1] + ordered[half]) / 2\n",
    '{"order": 48213, "customer": {"name": "Marta Lind", "city": "Uppsala"}, "lines": [{"item": "lamp, brass", '
    '"count": 2, "price": 39.5}, {"item": "bulb E27", "count": 6, "price": 3.2}], "total": 98.2, "paid": true, '
    '"note": null}\n\n| month | sold | returned |\n|---|---|---|\n| May | 118 | 4 |\n| June | 97 | 2 |\n',
)


def turns(kind: str, number: int, width: int, height: int) -> tuple[np.ndarray, list[tuple[str, str]]]:
    """A picture [height, width, 3] and as many questions with their answers as fit."""
    rng = Random(f"{SEED}/{kind}/{number}")
    drawn = example(rng, kind, width, height)
    asked, left = [], MOST_CHARACTERS
    for question in rng.sample(drawn.questions, len(drawn.questions)):
        pair = question.wording.text, question.answer.text
        if sum(map(len, pair)) <= left:
            asked.append(pair)
            left -= sum(map(len, pair))
    return drawn.pictures[0].pixels // LEVEL * LEVEL, asked


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", type=Path)
    out = parser.parse_args().out
    arrays, prompts = {}, []
    for kind, (count, width, height) in PICTURES.items():
        for number in range(count):
            name = f"{kind}.{number}"
            arrays[name], asked = turns(kind, number, width, height)
            prompts.append({"picture": name, "turns": asked})
    prompts += [{"text": text} for text in TEXTS]
    np.savez_compressed(out, prompts=np.array(json.dumps(prompts, ensure_ascii=False)), **arrays)


if __name__ == "__main__":
    main()
