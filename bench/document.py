"""Asks a running Sightline for the totals of a PDF of drawn receipts, and of the same receipts as single pictures.

    sightline serve &
    python bench/document.py --pages 40

Needs Pillow, httpx2 and this repository's training/pictures. Prints how many totals were right each way, which pages
differ, and how long the document took.
"""

from __future__ import annotations

import argparse
import base64
import io
import json
import sys
import time
from pathlib import Path
from random import Random

import httpx2
import PIL.Image

sys.path.insert(0, str(Path(__file__).parents[1]))

from training.pictures import receipts

SIZE = 256, 320  # what the demo model is measured at, see training/held_out.py
QUESTION = "What is the total amount?"


def draw(count: int, seed: int) -> tuple[list[PIL.Image.Image], list[str]]:
    """Receipts and their totals."""
    drawn = [receipts.draw(Random(f"{seed}/{number}"), *SIZE) for number in range(count)]
    return [PIL.Image.fromarray(receipt.picture.pixels) for receipt in drawn], [
        f"{receipt.total_cents / 100:.2f}" for receipt in drawn
    ]


def url(kind: str, picture: PIL.Image.Image, **options: object) -> str:
    file = io.BytesIO()
    picture.save(file, kind, **options)
    return "data:;base64," + base64.b64encode(file.getvalue()).decode()


def read_pages(client: httpx2.Client, pictures: list[PIL.Image.Image]) -> list[str]:
    """Each page's answer, in the order in which the progress events name the pages."""
    document = url("PDF", pictures[0], save_all=True, append_images=pictures[1:], resolution=144, quality=95)
    body = {"task": "doc_analyze", "documents": [document], "text": QUESTION}
    answers, event = [], ""
    with client.stream("POST", "/infer_stream", json=body) as reply:
        for line in reply.iter_lines():
            if line.startswith("event: "):
                event = line.removeprefix("event: ")
            elif line.startswith("data: ") and event == "progress":
                page = json.loads(line.removeprefix("data: "))
                assert (page["page"], page["done"], page["pages"]) == (
                    len(answers) + 1,
                    len(answers) + 1,
                    len(pictures),
                )
                answers.append(page["answer"].removeprefix("$"))
    assert event == "final", event
    return answers


def read_pictures(client: httpx2.Client, pictures: list[PIL.Image.Image]) -> list[str]:
    answers = []
    for picture in pictures:
        body = {"task": "vqa", "images": [url("PNG", picture)], "text": QUESTION, "options": {"temperature": 0}}
        answers.append(client.post("/infer", json=body).json()["result"]["answer"].removeprefix("$"))
    return answers


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--server", default="http://127.0.0.1:8080")
    parser.add_argument("--pages", type=int, default=40)
    parser.add_argument("--seed", type=int, default=2_000_000_011)
    wanted = parser.parse_args()
    pictures, totals = draw(wanted.pages, wanted.seed)
    with httpx2.Client(base_url=wanted.server, timeout=600) as client:
        began = time.perf_counter()
        pages = read_pages(client, pictures)
        took = time.perf_counter() - began
        alone = read_pictures(client, pictures)
    print(f"pages of the PDF: {sum(map(str.__eq__, pages, totals))} of {len(totals)} totals right, {took:.1f} s")
    print(f"single pictures: {sum(map(str.__eq__, alone, totals))} of {len(totals)}")
    for number, (page, picture, total) in enumerate(zip(pages, alone, totals, strict=True), 1):
        if page != picture:
            print(f"page {number}: {page} on the page, {picture} on the picture, {total} is right")


if __name__ == "__main__":
    main()
