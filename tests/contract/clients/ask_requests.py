"""Plain `requests`, as scripts post to a service: base64 in JSON, a form, a task, fields read by name.

ask_requests.py PICTURE, with OPENAI_BASE_URL; prints what was answered as JSON.
"""

# /// script
# dependencies = ["requests>=2.32"]
# ///

import base64
import json
import os
import sys
from pathlib import Path

import requests

picture = Path(sys.argv[1])
base = os.environ["OPENAI_BASE_URL"]
session = requests.Session()
session.headers["Authorization"] = f"Bearer {os.environ['OPENAI_API_KEY']}"
encoded = base64.b64encode(picture.read_bytes()).decode()
question = "What is the total amount?"


def chat(url):
    content = [{"type": "text", "text": question}, {"type": "image_url", "image_url": {"url": url}}]
    return session.post(f"{base}/chat/completions", json={"messages": [{"role": "user", "content": content}]})


def events(response):
    """(event, data) for each of a task's events."""
    name = ""
    for line in response.iter_lines(decode_unicode=True):
        if line.startswith("event: "):
            name = line.removeprefix("event: ")
        if line.startswith("data: "):
            yield name, json.loads(line.removeprefix("data: "))


said = {}

answer = chat(f"data:image/png;base64,{encoded}").json()
said["base64"] = answer["choices"][0]["message"]["content"]
said["took_time"] = answer["usage"]["total_time_ms"] > 0
said["without_prefix"] = chat(encoded).json()["choices"][0]["message"]["content"]

with picture.open("rb") as file:
    form = session.post(f"{base}/chat/completions", files={"image": file, "prompt": (None, question)}).json()
said["form"] = form["choices"][0]["message"]["content"]

task = {"task": "vqa", "images": [encoded], "text": question, "options": {"max_tokens": 20}}
reply = session.post(f"{base}/infer", json=task).json()
said["task"] = reply["result"]["answer"]
said["task_is_sure"] = reply["code"] == 0 and reply["result"]["confidence"] > 0.9

with session.post(f"{base}/infer_stream", json=task, stream=True) as response:
    streamed = list(events(response))
said["task_streamed"] = "".join(data["token"] for name, data in streamed if name == "token")
said["task_final"] = next(data["answer"] for name, data in streamed if name == "final")

refused = chat("data:image/png;base64,PGh0bWw+")
said["refused"] = [refused.status_code, refused.json()["error"]["code"]]
said["refused_task"] = session.post(f"{base}/infer", json={"task": "vqa", "images": ["PGh0bWw+"], "text": "?"}).json()[
    "code"
]

print(json.dumps(said))
