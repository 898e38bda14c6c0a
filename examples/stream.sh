#!/usr/bin/env bash
# Streams an answer with curl alone; each event holds the next piece of text.
# examples/stream.sh tests/golden/samples/receipt_1.png "What is the total?"
set -euo pipefail

# JSON is quoted by a tool that knows how: a question may hold quotation marks.
question=$(python3 -c 'import json, sys; print(json.dumps(sys.argv[1]))' "$2")

curl --silent --show-error --fail-with-body --no-buffer "${OPENAI_BASE_URL:-http://127.0.0.1:8080/v1}/chat/completions" \
    --header 'Content-Type: application/json' --data @- <<BODY
{"stream": true, "temperature": 0, "messages": [{"role": "user", "content": [
    {"type": "image_url", "image_url": {"url": "data:image/png;base64,$(base64 --wrap=0 "$1")"}},
    {"type": "text", "text": $question}]}]}
BODY
