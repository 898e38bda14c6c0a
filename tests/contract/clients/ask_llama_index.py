"""LlamaIndex's OpenAILike with picture blocks: answers, streams, turns, structured output.

ask_llama_index.py PICTURE, with OPENAI_BASE_URL and OPENAI_API_KEY; prints what was answered as JSON.
"""

# /// script
# dependencies = ["llama-index-llms-openai-like>=0.7"]
# ///

import json
import os
import sys

import openai
from llama_index.core.llms import ChatMessage, ImageBlock, TextBlock
from llama_index.llms.openai_like import OpenAILike
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


model = OpenAILike(
    model="sightline-demo",
    api_base=os.environ["OPENAI_BASE_URL"],
    api_key=os.environ["OPENAI_API_KEY"],
    is_chat_model=True,
    is_function_calling_model=True,
    should_use_structured_outputs=True,
    context_window=4096,
    temperature=0,
    max_tokens=200,
)


def about(text, **picture):
    return ChatMessage(role="user", blocks=[ImageBlock(**picture or {"path": sys.argv[1]}), TextBlock(text=text)])


said = {}
question = about("What is the total amount?")
answer = model.chat([question])
said["answer"] = answer.message.content
pieces = [chunk.delta for chunk in model.stream_chat([question]) if chunk.delta]
said["streamed"], said["in_pieces"] = "".join(pieces), len(pieces) > 1
turns = [question, answer.message, ChatMessage(role="user", content="What is the date?")]
said["next_turn"] = model.chat(turns).message.content
extracted = model.as_structured_llm(Receipt).chat([about("Extract the receipt data as JSON.")])
said["structured"] = extracted.raw.total

try:
    model.chat([about("What is the total amount?", image=b"PGh0bWw+", image_mimetype="image/png")])
except openai.BadRequestError as error:
    said["bad_picture"] = error.code

print(json.dumps(said))
