"""LangChain's ChatOpenAI: answers, streams, turns, structured output, tools.

ask_langchain.py PICTURE, with OPENAI_BASE_URL and OPENAI_API_KEY; prints what was answered as JSON.
"""

# /// script
# dependencies = ["langchain-openai>=1"]
# ///

import base64
import json
import sys
from pathlib import Path

import openai
from langchain_core.messages import AIMessage, HumanMessage
from langchain_core.tools import tool
from langchain_openai import ChatOpenAI
from pydantic import BaseModel, ConfigDict


class Item(BaseModel):
    model_config = ConfigDict(extra="forbid")

    name: str
    price: float


class Receipt(BaseModel):
    """What a receipt says."""

    model_config = ConfigDict(extra="forbid")

    merchant: str
    date: str
    items: list[Item]
    total: float


@tool(args_schema=Receipt)
def save_receipt(**receipt):
    """Save the receipt."""
    return receipt["total"]


model = ChatOpenAI(model="sightline-demo", temperature=0, max_tokens=200)
encoded = base64.b64encode(Path(sys.argv[1]).read_bytes()).decode()


def about(text, picture=encoded):
    block = {"type": "image", "base64": picture, "mime_type": "image/png"}
    return HumanMessage([block, {"type": "text", "text": text}])


said = {}
question, extract = about("What is the total amount?"), about("Extract the receipt data as JSON.")
answer = model.invoke([question])
said["answer"] = answer.content
said["counted"] = answer.usage_metadata["input_tokens"] > 50
pieces = [chunk.content for chunk in model.stream([question]) if chunk.content]
said["streamed"], said["in_pieces"] = "".join(pieces), len(pieces) > 1
turns = [question, AIMessage(answer.content), HumanMessage("What is the date?")]
said["next_turn"] = model.invoke(turns).content
said["batch"] = [each.content for each in model.batch([[question], [question]])]

said["structured"] = model.with_structured_output(Receipt, method="json_schema").invoke([extract]).total
said["by_function"] = model.with_structured_output(Receipt, method="function_calling").invoke([extract]).total > 0
called = model.bind_tools([save_receipt], tool_choice="any").invoke([extract])
said["tool"] = [save_receipt.invoke(call["args"]) > 0 for call in called.tool_calls]
said["tool_refused"] = called.invalid_tool_calls

try:
    model.invoke([about("What is the total amount?", "PGh0bWw+")])
except openai.BadRequestError as error:
    said["bad_picture"] = error.code

print(json.dumps(said))
