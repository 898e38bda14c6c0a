"""litellm with its `openai/` prefix: answers, streams, structured output, tools, its own error classes.

ask_litellm.py PICTURE, with OPENAI_BASE_URL and OPENAI_API_KEY; prints what was answered as JSON.
"""

# /// script
# dependencies = ["litellm>=1.80", "mcp"]  # litellm 1.106 imports mcp for every call with tools
# ///

import base64
import json
import os
import sys
from pathlib import Path

import litellm
from pydantic import BaseModel


class Item(BaseModel):
    name: str
    price: float


class Receipt(BaseModel):
    merchant: str
    date: str
    items: list[Item]
    total: float


url = "data:image/png;base64," + base64.b64encode(Path(sys.argv[1]).read_bytes()).decode()
server = {"model": "openai/sightline-demo", "api_base": os.environ["OPENAI_BASE_URL"], "temperature": 0}


def about(text, picture=url):
    content = [{"type": "image_url", "image_url": {"url": picture}}, {"type": "text", "text": text}]
    return [{"role": "user", "content": content}]


said = {}
question, extract = about("What is the total amount?"), about("Extract the receipt data as JSON.")
said["answer"] = litellm.completion(**server, messages=question).choices[0].message.content
chunks = litellm.completion(**server, messages=question, stream=True)
pieces = [chunk.choices[0].delta.content for chunk in chunks if chunk.choices[0].delta.content]
said["streamed"], said["in_pieces"] = "".join(pieces), len(pieces) > 1

parsed = litellm.completion(**server, messages=extract, response_format=Receipt).choices[0].message.content
said["structured"] = Receipt.model_validate_json(parsed).total
function = {"name": "save_receipt", "parameters": Receipt.model_json_schema()}
called = litellm.completion(
    **server, messages=extract, tools=[{"type": "function", "function": function}], tool_choice="required"
)
call = called.choices[0].message.tool_calls[0].function
said["tool"] = [call.name, Receipt.model_validate_json(call.arguments).total > 0]

try:
    litellm.completion(**server, messages=about("What is the total amount?", "data:image/png;base64,PGh0bWw+"))
except litellm.BadRequestError as error:
    said["bad_picture"] = [error.status_code, "cannot decode image" in str(error)]
try:
    litellm.completion(**server | {"model": "openai/gpt-4o"}, messages=question)
except litellm.NotFoundError as error:
    said["bad_model"] = error.status_code

print(json.dumps(said))
