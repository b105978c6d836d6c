// An agent of the AI SDK with a tool: node ai_sdk.mjs BASE_URL responses|chat whole|stream|typed.
import { createRequire } from "node:module";

const require = createRequire(process.env.MODULES + "/");
const { createOpenAI } = require("@ai-sdk/openai");
const { generateText, streamText, Output, stepCountIs, tool } = require("ai");
const { z } = require("zod");

const [baseURL, api, how] = process.argv.slice(2);
const provider = createOpenAI({ baseURL, apiKey: "none needed" });
const model = api === "responses" ? provider.responses("m") : provider.chat("m");

let tools = 0;
const weather = tool({
  description: "The weather in a city",
  inputSchema: z.object({ city: z.string() }),
  execute: async () => {
    tools += 1;
    return "rain";
  },
});

async function main() {
  if (how === "typed") {
    const schema = z.object({ name: z.string(), people: z.number() });
    const typed = await generateText({ model, prompt: "A city", output: Output.object({ schema }) });
    return typed.output;
  }
  const asked = {
    model,
    prompt: "What is the weather?",
    tools: { weather },
    stopWhen: stepCountIs(4),
    maxRetries: 0,
  };
  if (how === "whole") {
    const { text, steps } = await generateText(asked);
    return { text, tools, steps: steps.length };
  }
  const result = streamText(asked);
  let text = "";
  for await (const part of result.fullStream) {
    if (part.type === "error") throw part.error;
    if (part.type === "text-delta") text += part.text;
  }
  return { text, tools, steps: (await result.steps).length };
}

main().then((told) => console.log(JSON.stringify(told)));
