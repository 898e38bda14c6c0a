// The official `openai` package for Node.js: answers, streams, turns, structured output, tools, errors.
//
// node ask_openai.mjs PICTURE, with OPENAI_BASE_URL and OPENAI_API_KEY; prints what was answered as JSON.

import { readFileSync } from "node:fs";
import OpenAI from "openai";

const client = new OpenAI();
const model = "sightline-demo";
const url = `data:image/png;base64,${readFileSync(process.argv[2]).toString("base64")}`;
const RECEIPT = {
  type: "object",
  properties: {
    merchant: { type: "string" },
    date: { type: "string" },
    items: {
      type: "array",
      items: {
        type: "object",
        properties: { name: { type: "string" }, price: { type: "number" } },
        required: ["name", "price"],
        additionalProperties: false,
      },
    },
    total: { type: "number" },
  },
  required: ["merchant", "date", "items", "total"],
  additionalProperties: false,
};

function about(text, picture = url) {
  const content = [
    { type: "image_url", image_url: { url: picture } },
    { type: "text", text },
  ];
  return [{ role: "user", content }];
}

async function refusal(asked) {
  try {
    await client.chat.completions.create(asked);
  } catch (error) {
    return [error.constructor.name, error.status, error.code, error.requestID?.startsWith("req_")];
  }
}

const said = {};
const question = about("What is the total amount?");
const extract = about("Extract the receipt data as JSON.");

said.models = [];
for await (const each of client.models.list()) said.models.push(each.id);

const answer = await client.chat.completions.create({ model, messages: question });
said.answer = answer.choices[0].message.content;
said.took_time = answer.usage.total_time_ms > 0;

const pieces = [];
const chunks = await client.chat.completions.create({ model, messages: question, stream: true });
for await (const chunk of chunks) if (chunk.choices[0]?.delta.content) pieces.push(chunk.choices[0].delta.content);
said.streamed = pieces.join("");
said.in_pieces = pieces.length > 1;

const turns = [...question, answer.choices[0].message, { role: "user", content: "What is the date?" }];
said.next_turn = (await client.chat.completions.create({ model, messages: turns })).choices[0].message.content;

const response_format = { type: "json_schema", json_schema: { name: "receipt", strict: true, schema: RECEIPT } };
const parsed = await client.chat.completions.parse({ model, messages: extract, response_format, temperature: 0 });
said.structured = JSON.parse(parsed.choices[0].message.content).total;

const tools = [{ type: "function", function: { name: "save_receipt", parameters: RECEIPT } }];
const asked = { model, messages: extract, tools, tool_choice: "required", temperature: 0 };
const call = (await client.chat.completions.create(asked)).choices[0].message.tool_calls[0].function;
said.tool = [call.name, JSON.parse(call.arguments).total > 0];
const streamed = await client.chat.completions.stream(asked).finalChatCompletion();
said.tool_streamed = JSON.parse(streamed.choices[0].message.tool_calls[0].function.arguments).total > 0;

said.bad_picture = await refusal({ model, messages: about("What is the total amount?", "data:image/png;base64,PGh0bWw+") });
said.bad_model = await refusal({ model: "gpt-4o", messages: question });

console.log(JSON.stringify(said));
