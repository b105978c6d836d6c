// Asks the gateway as any client would, and shows where the answer came from. Nothing is kept.

import { $, el, number, seconds } from "./dom.js";

let stop = null;

export function showPlayground(models) {
  const select = $("model");
  const names = Object.keys(models);
  if (names.join() === [...select.options].map((o) => o.value).join()) return;
  select.replaceChildren(...names.map((name) => el("option", { value: name }, name)));
}

export function startPlayground(headers, after) {
  $("ask").addEventListener("submit", async (event) => {
    event.preventDefault();
    if (stop === null) await ask(headers(), after);
  });
  $("stop").addEventListener("click", () => stop?.abort());
  $("ask").addEventListener("keydown", (event) => {
    if (event.key === "Enter" && (event.ctrlKey || event.metaKey)) $("ask").requestSubmit();
    if (event.key === "Escape") stop?.abort();
  });
}

async function ask(headers, after) {
  stop = new AbortController();
  const began = performance.now();
  const facts = { first: null, usage: null, error: null, response: null };
  $("answer").hidden = $("routed").hidden = false;
  $("answer").replaceChildren();
  $("answer").className = "";
  $("send").disabled = true;
  $("stop").disabled = false;
  try {
    facts.response = await fetch("/v1/chat/completions", {
      method: "POST",
      signal: stop.signal,
      headers: { "content-type": "application/json", ...headers },
      body: JSON.stringify({
        model: $("model").value,
        messages: [{ role: "user", content: $("prompt").value }],
        max_tokens: Number($("limit").value),
        stream: true,
        stream_options: { include_usage: true },
      }),
    });
    if (!facts.response.ok) throw new Error((await facts.response.json()).error.message);
    for await (const event of events(facts.response.body)) {
      if (event.error) throw new Error(event.error.message);
      const text = event.choices?.[0]?.delta?.content;
      if (text) {
        facts.first ??= (performance.now() - began) / 1000;
        $("answer").append(text);
      }
      facts.usage = event.usage ?? facts.usage;
      routed(facts, began);
    }
  } catch (error) {
    facts.error = error.name === "AbortError" ? "stopped" : error.message;
    $("answer").append(el("p", { class: "bad" }, facts.error));
  } finally {
    stop = null;
    $("send").disabled = false;
    $("stop").disabled = true;
    routed(facts, began);
    after();
  }
}

async function* events(body) {
  const reader = body.pipeThrough(new TextDecoderStream()).getReader();
  let rest = "";
  for (;;) {
    const { done, value } = await reader.read();
    if (done) return;
    const parts = (rest + value).split("\n\n");
    rest = parts.pop();
    for (const part of parts) {
      const data = part.replace(/^data: /, "");
      if (part.startsWith("data: ") && data !== "[DONE]") yield JSON.parse(data);
    }
  }
}

function routed({ first, usage, response }, began) {
  const told = (name) => response?.headers.get(name) ?? "–";
  const cached = usage?.prompt_tokens_details?.cached_tokens;
  const rows = [
    ["Answered by", told("x-gateway-endpoint")],
    ["Policy", told("x-gateway-policy")],
    ["First token", seconds(first)],
    ["So far", seconds((performance.now() - began) / 1000)],
    ["Prompt tokens", usage ? `${number(usage.prompt_tokens)}${cached === undefined ? "" : ` (${number(cached)} cached)`}` : "–"],
    ["Answer tokens", number(usage?.completion_tokens)],
  ];
  $("routed").replaceChildren(...rows.map(([name, value]) => el("div", {}, el("dt", {}, name), el("dd", {}, value))));
}
