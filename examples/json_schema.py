"""Reads a receipt into a form that is fixed beforehand: the answer always fits the schema (its figures may be misread).

python examples/json_schema.py tests/golden/samples/receipt_1.png
"""

import base64
import json
import os
import sys
from pathlib import Path

from openai import OpenAI

ITEM = {
    "type": "object",
    "properties": {"name": {"type": "string"}, "price": {"type": "number"}},
    "required": ["name", "price"],
    "additionalProperties": False,
}
RECEIPT = {
    "type": "object",
    "properties": {
        "merchant": {"type": "string"},
        "date": {"type": "string", "pattern": "^[0-9]{4}-[0-9]{2}-[0-9]{2}$"},
        "items": {"type": "array", "items": ITEM},
        "total": {"type": "number"},
    },
    "required": ["merchant", "date", "items", "total"],
    "additionalProperties": False,
}

client = OpenAI(base_url=os.environ.get("OPENAI_BASE_URL", "http://127.0.0.1:8080/v1"), api_key="none")
url = "data:image/png;base64," + base64.b64encode(Path(sys.argv[1]).read_bytes()).decode()
question = {"type": "text", "text": "Extract the receipt as JSON."}
answer = client.chat.completions.create(
    model=client.models.list().data[0].id,
    messages=[{"role": "user", "content": [{"type": "image_url", "image_url": {"url": url}}, question]}],
    response_format={"type": "json_schema", "json_schema": {"name": "receipt", "strict": True, "schema": RECEIPT}},
    temperature=0,
)
receipt = json.loads(answer.choices[0].message.content)
for item in receipt["items"]:
    print(f"{item['price']:8.2f}  {item['name']}")
print(f"{receipt['total']:8.2f}  total, {receipt['merchant']}, {receipt['date']}")
