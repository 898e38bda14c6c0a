"""Asks a running Sightline about one picture, with the official openai package.

python examples/ask_openai.py tests/golden/samples/receipt_1.png "What is the total?"
"""

import base64
import os
import sys
from pathlib import Path

from openai import OpenAI

picture, question = sys.argv[1:]
client = OpenAI(base_url=os.environ.get("OPENAI_BASE_URL", "http://127.0.0.1:8080/v1"), api_key="none")
url = "data:image/png;base64," + base64.b64encode(Path(picture).read_bytes()).decode()

answer = client.chat.completions.create(
    model=client.models.list().data[0].id,  # the one model that is served
    messages=[
        {
            "role": "user",
            "content": [{"type": "image_url", "image_url": {"url": url}}, {"type": "text", "text": question}],
        }
    ],
    temperature=0,
)
print(answer.choices[0].message.content)
