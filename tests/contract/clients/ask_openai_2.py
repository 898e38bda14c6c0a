"""The official `openai` package, release 2: answers, streams, turns, structured output, tools, errors, async.

ask_openai_2.py PICTURE, with OPENAI_BASE_URL and OPENAI_API_KEY; prints what was answered as JSON.
"""

# /// script
# dependencies = ["openai>=2,<3"]
# ///

import asyncio
import base64
import json
import sys
from pathlib import Path

import openai
from pydantic import BaseModel


class Item(BaseModel):
    name: str
    price: float


class Receipt(BaseModel):
    merchant: str
    date: str
    items: list[Item]
    total: float


TOTAL, DATE, EXTRACT = "What is the total amount?", "What is the date?", "Extract the receipt data as JSON."
MODEL = "sightline-demo"
client = openai.OpenAI()
url = "data:image/png;base64," + base64.b64encode(Path(sys.argv[1]).read_bytes()).decode()


def about(text, picture=url):
    content = [{"type": "image_url", "image_url": {"url": picture}}, {"type": "text", "text": text}]
    return [{"role": "user", "content": content}]


def refusal(**asked):
    """The class and the code of the error that a request is answered with."""
    try:
        client.chat.completions.create(**asked)
    except openai.APIStatusError as error:
        return [type(error).__name__, error.code, error.param, (error.request_id or "").startswith("req_")]


async def several():
    """The same question and another, at once."""
    async with openai.AsyncOpenAI() as together:
        asked = [together.chat.completions.create(model=MODEL, messages=about(text)) for text in (TOTAL, DATE)]
        return [answer.choices[0].message.content for answer in await asyncio.gather(*asked)]


said = {"models": [model.id for model in client.models.list()]}

answer = client.chat.completions.create(model=MODEL, messages=about(TOTAL))
said["answer"] = answer.choices[0].message.content
said["cost"] = answer.usage.total_tokens == answer.usage.prompt_tokens + answer.usage.completion_tokens

chunks = list(
    client.chat.completions.create(
        model=MODEL, messages=about(TOTAL), stream=True, stream_options={"include_usage": True}
    )
)
pieces = [chunk.choices[0].delta.content for chunk in chunks if chunk.choices and chunk.choices[0].delta.content]
said["streamed"] = "".join(pieces)
said["in_pieces"] = len(pieces) > 1 and chunks[-1].usage.completion_tokens > 1

turns = [*about(TOTAL), {"role": "assistant", "content": said["answer"]}, {"role": "user", "content": DATE}]
said["next_turn"] = client.chat.completions.create(model=MODEL, messages=turns).choices[0].message.content

parsed = client.chat.completions.parse(model=MODEL, messages=about(EXTRACT), response_format=Receipt, temperature=0)
said["structured"] = [parsed.choices[0].message.parsed.total, parsed.choices[0].message.parsed.merchant]

tool = openai.pydantic_function_tool(Receipt, name="save_receipt", description="Save the receipt.")
asked = {"model": MODEL, "messages": about(EXTRACT), "tools": [tool], "tool_choice": "required", "temperature": 0}
called = client.chat.completions.parse(**asked).choices[0]
call = called.message.tool_calls[0]
said["tool"] = [called.finish_reason, call.function.name, call.function.parsed_arguments.total > 0]
with client.chat.completions.stream(**asked) as stream:
    said["tool_streamed"] = [
        event.parsed_arguments.total > 0 for event in stream if event.type == "tool_calls.function.arguments.done"
    ]
result = {"role": "tool", "tool_call_id": call.id, "content": "saved"}
history = [*about(EXTRACT), called.message.model_dump(exclude_none=True, exclude={"parsed"}), result]
said["after_tool"] = client.chat.completions.create(model=MODEL, messages=history, max_tokens=5).object

said["bad_picture"] = refusal(model=MODEL, messages=about(TOTAL, "data:image/png;base64,PGh0bWw+"))
said["bad_model"] = refusal(model="gpt-4o", messages=about(TOTAL))
said["bad_field"] = refusal(model=MODEL, messages=about(TOTAL), audio={"voice": "alloy", "format": "mp3"})
said["several"] = asyncio.run(several())

print(json.dumps(said))
