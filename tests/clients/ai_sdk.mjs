// An agent of the AI SDK with a tool: node ai_sdk.mjs BASE_URL responses|chat whole|stream|typed.
import { createRequire } from "node:module";

const require = createRequire(process.env.MODULES + "/");
const { createOpenAI } = require("@ai-sdk/openai");
const { generateText, streamText, Output, stepCountIs, tool } = require("ai");
const { z } = require("zod");

const [baseURL, api, how] = process.argv.slice(2);
const provider = createOpenAI({ baseURL, apiKey: "none needed" });
const model = api === "responses" ? provider.responses("m") : provider.chat("m");

const asked = [];
const weather = tool({
  description: "The weather in a city",
  inputSchema: z.object({ city: z.enum(["Oslo", "Rome"]) }),
  execute: async ({ city }) => {
    asked.push(city);
    return "rain";
  },
});

async function main() {
  if (how === "typed") {
    const schema = z.object({
      name: z.enum(["Oslo", "Rome"]),
      people: z.number().int().min(0).max(50_000_000),
    });
    const output = Output.object({ schema });
    return (await generateText({ model, prompt: "A city", maxOutputTokens: 60, output })).output;
  }
  const request = {
    model,
    prompt: "What is the weather in Oslo?",
    tools: { weather },
    prepareStep: ({ stepNumber }) => ({ toolChoice: stepNumber === 0 ? "required" : "auto" }),
    providerOptions: { openai: { parallelToolCalls: false } },
    maxOutputTokens: 60,
    temperature: 0,
    stopWhen: stepCountIs(4),
    maxRetries: 0,
  };
  if (how === "whole") {
    const { text, steps } = await generateText(request);
    return { text, asked, steps: steps.length };
  }
  const result = streamText(request);
  let text = "";
  for await (const part of result.fullStream) {
    if (part.type === "error") throw part.error;
    if (part.type === "text-delta") text += part.text;
  }
  return { text, asked, steps: (await result.steps).length };
}

main().then((told) => console.log(JSON.stringify(told)));
