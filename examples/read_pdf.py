"""Asks a running Sightline one question of every page of a PDF, and shows the answers as they come.

python examples/read_pdf.py invoices.pdf "What is the total amount?" 1-3,7
"""

import base64
import json
import os
import sys
from pathlib import Path

import httpx2

document, question, *pages = sys.argv[1:]
server = os.environ.get("SIGHTLINE_URL", "http://127.0.0.1:8080")
body = {
    "task": "doc_analyze",
    "documents": ["data:application/pdf;base64," + base64.b64encode(Path(document).read_bytes()).decode()],
    "text": question,
    "options": {"pages": pages[0]} if pages else {},
}
with httpx2.stream("POST", f"{server}/infer_stream", json=body, timeout=None) as events:
    for line in events.iter_lines():
        name, _, text = line.partition(": ")
        if name == "event":
            event = text
        elif name == "data" and event == "progress":
            page = json.loads(text)
            said = page["error"]["message"] if page["error"] else page["answer"]
            print(f"page {page['page']} ({page['done']} of {page['pages']}): {said}", flush=True)
        elif name == "data" and event in ("final", "error"):
            answer = json.loads(text)
            print(answer.get("answer") or answer["msg"])
