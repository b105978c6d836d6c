// What the openai SDK for Node makes of a gateway: one answer, streamed or not, told as JSON.
// node ask.cjs BASE_URL REQUEST, with the request as the SDK takes it.
"use strict";

const OpenAI = require("openai");

async function ask(client, request) {
  if (!request.stream) {
    const answer = await client.chat.completions.create(request);
    const [choice] = answer.choices;
    return { text: choice.message.content, finish_reasons: [choice.finish_reason], ids: 1 };
  }
  const ids = new Set();
  const finish_reasons = [];
  let text = "";
  for await (const chunk of await client.chat.completions.create(request)) {
    ids.add(chunk.id);
    for (const choice of chunk.choices) {
      text += choice.delta.content ?? "";
      if (choice.finish_reason) finish_reasons.push(choice.finish_reason);
    }
  }
  return { text, finish_reasons, ids: ids.size };
}

async function main([baseURL, request]) {
  const client = new OpenAI({ baseURL, apiKey: "unused" });
  try {
    return await ask(client, JSON.parse(request));
  } catch (error) {
    return {
      error: error.constructor.name,
      is_api_error: error instanceof OpenAI.APIError,
      code: error.code ?? null,
      status: error.status ?? null,
    };
  }
}

main(process.argv.slice(2)).then((told) => console.log(JSON.stringify(told)));
