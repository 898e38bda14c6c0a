"""Asks the same question about many pictures in one batch, which is answered when the server has nothing better to do.

python examples/batch.py "What is the total?" receipts/*.png
"""

import base64
import json
import os
import sys
import time
from pathlib import Path

from openai import OpenAI

question, *pictures = sys.argv[1:]
client = OpenAI(base_url=os.environ.get("OPENAI_BASE_URL", "http://127.0.0.1:8080/v1"), api_key="none")


def line(picture: str) -> str:
    """One request of the batch, as a line of JSON; `custom_id` leads from the answer back to the picture."""
    url = "data:image/png;base64," + base64.b64encode(Path(picture).read_bytes()).decode()
    content = [{"type": "image_url", "image_url": {"url": url}}, {"type": "text", "text": question}]
    body = {"temperature": 0, "messages": [{"role": "user", "content": content}]}
    return json.dumps({"custom_id": picture, "method": "POST", "url": "/v1/chat/completions", "body": body})


lines = "\n".join(map(line, pictures)).encode()
file = client.files.create(file=("questions.jsonl", lines), purpose="batch")
batch = client.batches.create(input_file_id=file.id, endpoint="/v1/chat/completions", completion_window="24h")
while batch.status in ("validating", "in_progress", "finalizing"):
    time.sleep(0.5)
    batch = client.batches.retrieve(batch.id)

if batch.output_file_id:
    for row in client.files.content(batch.output_file_id).text.splitlines():
        result = json.loads(row)
        print(f"{result['custom_id']}: {result['response']['body']['choices'][0]['message']['content']}")
if batch.error_file_id:
    for row in client.files.content(batch.error_file_id).text.splitlines():
        result = json.loads(row)
        error = result["error"] or result["response"]["body"]["error"]
        print(f"{result['custom_id']}: not answered: {error['message']}")
print(f"{batch.status}: {batch.request_counts.completed} of {batch.request_counts.total} answered")
