"""instructor: typed answers through tools and through JSON schemas, whole and as they grow.

ask_instructor.py PICTURE, with OPENAI_BASE_URL and OPENAI_API_KEY; prints what was answered as JSON.
"""

# /// script
# dependencies = ["instructor>=1.12"]
# ///

import json
import sys

import instructor
import openai
from pydantic import BaseModel


class Item(BaseModel):
    name: str
    price: float


class Receipt(BaseModel):
    """What a receipt says."""

    merchant: str
    date: str
    items: list[Item]
    total: float


picture = instructor.Image.from_path(sys.argv[1])
asked = {
    "model": "sightline-demo",
    "messages": [{"role": "user", "content": [picture, "Extract the receipt data as JSON."]}],
    "temperature": 0,
    "max_retries": 0,
}


def client(mode):
    return instructor.from_openai(openai.OpenAI(), mode=mode)


said = {}
said["by_schema"] = client(instructor.Mode.JSON_SCHEMA).create(response_model=Receipt, **asked).total
said["by_tool"] = client(instructor.Mode.TOOLS).create(response_model=Receipt, **asked).total > 0
growing = list(client(instructor.Mode.JSON_SCHEMA).create_partial(response_model=Receipt, **asked))
said["growing"] = [len(growing) > 1, growing[-1].total]

print(json.dumps(said))
