// What the state is shown as: endpoints, decisions, policies.

import { $, clock, dollars, el, number, percent, seconds } from "./dom.js";

// How an endpoint's state looks: red until it has answered again, yellow where it said when to come back.
const LOOK = { down: "down", ejected: "down", half_open: "down", resting: "warn", drained: "off", up: "up" };

export function showTotals(state) {
  const all = Object.values(state.endpoints);
  const sum = (key) => all.reduce((total, endpoint) => total + (endpoint[key] ?? 0), 0);
  const up = all.filter((endpoint) => LOOK[endpoint.state] !== "down").length;
  const answered = sum("answered");
  const tiles = [
    ["Endpoints up", number(up), `of ${all.length}`, up < all.length ? "bad" : ""],
    ["In flight", number(sum("in_flight")), ""],
    ["Answered", number(answered), "in 15 min"],
    ["Failed attempts", number(sum("failed")), "in 15 min", sum("failed") ? "bad" : ""],
    ["Spending per hour", dollars(sum("usd_per_hour")), ""],
  ];
  $("totals").replaceChildren(
    ...tiles.map(([name, value, unit, how]) =>
      el("dl", { class: "card" }, el("dt", {}, name), el("dd", { class: how }, value, " ", el("small", {}, unit))),
    ),
  );
}

const COLUMNS = [
  ["In flight", (e) => number(e.in_flight)],
  ["Queued tokens", (e) => number(e.queued_tokens)],
  ["Answered", (e) => number(e.answered)],
  ["Failed", (e) => number(e.failed)],
  ["Cache hits", (e) => percent(e.hit_rate)],
  ["First token p50", (e) => seconds(e.first_p50_s)],
  ["First token p95", (e) => seconds(e.first_p95_s)],
  ["$ per hour", (e) => dollars(e.usd_per_hour)],
];

export function showModels(state) {
  $("model-list").replaceChildren(
    ...Object.entries(state.models).map(([model, names]) =>
      el(
        "article",
        { class: "card model" },
        el("h3", {}, model),
        el(
          "div",
          { class: "scroll" },
          el(
            "table",
            {},
            el(
              "thead",
              {},
              el("tr", {}, ...["Endpoint", ...COLUMNS.map(([name]) => name)].map((n) => el("th", { scope: "col" }, n))),
            ),
            el("tbody", {}, ...names.map((name) => endpointRow(name, state.endpoints[name]))),
          ),
        ),
      ),
    ),
  );
}

function endpointRow(name, endpoint) {
  return el(
    "tr",
    { class: LOOK[endpoint.state], "data-endpoint": name },
    el(
      "td",
      {},
      el("span", { class: "dot", role: "img", "aria-label": endpoint.state.replace("_", " ") }),
      name,
      endpoint.why === null ? null : el("span", { class: "why" }, endpoint.why),
    ),
    ...COLUMNS.map(([label, show]) => el("td", { "data-label": label }, show(endpoint))),
  );
}

const CANDIDATE = [
  ["Cost", (c) => c.cost.toPrecision(3)],
  ["First token", (c) => seconds(c.ttft_s)],
  ["Per token", (c) => seconds(c.tpot_s)],
  ["Dollars", (c) => dollars(c.cost_usd)],
  ["Cached", (c) => number(c.cached_tokens)],
  ["To compute", (c) => number(c.uncached_tokens)],
  ["Risk", (c) => percent(c.p_miss)],
  ["In flight", (c) => number(c.in_flight)],
];

const shown = new Map(); // id of a decision -> its element: what is open stays open
const FEW = 12;
let all = false;

export function showDecisions(latest) {
  // What somebody has opened stays, for as long as the gateway remembers it.
  const decisions = latest.filter((d, i) => all || i < FEW || shown.get(d.id)?.open);
  const list = $("decision-list");
  $("all").hidden = latest.length <= FEW;
  $("all").textContent = all ? "Show fewer" : `Show all ${latest.length}`;
  $("all").onclick = () => {
    all = !all;
    showDecisions(latest);
  };
  const wanted = new Set(decisions.map((decision) => decision.id));
  for (const [key, node] of shown) {
    if (!wanted.has(key)) {
      node.remove();
      shown.delete(key);
    }
  }
  if (decisions.length === 0) {
    list.replaceChildren(el("p", { class: "card empty" }, "No request yet. The playground below sends one."));
    return;
  }
  list.querySelector(".empty")?.remove();
  decisions.forEach((decision, index) => {
    if (!shown.has(decision.id)) shown.set(decision.id, decisionRow(decision));
    const node = shown.get(decision.id);
    if (list.children[index] !== node) list.insertBefore(node, list.children[index] ?? null);
  });
}

const FORM = { finished: "good", failed: "bad", hung_up: "" };
const REASONS = {
  only_candidate: "the only candidate",
  cached_prefix: "prefix is cached",
  lowest_cost: "lowest cost",
  had_room: "cheaper ones were full",
  picker: "the policy's picker",
  no_candidate: "no candidate",
};

function decisionRow(decision) {
  const last = decision.tried[decision.tried.length - 1];
  const found = decision.cache === "hit" ? "cache" : "nowhere";
  const where = last ? decision.tried.map((attempt) => attempt.endpoint).join(" → ") : found;
  return el(
    "details",
    { class: "decision", "data-request": decision.request_id },
    el(
      "summary",
      {},
      el("span", { class: "quiet" }, clock(decision.at)),
      el("span", {}, where),
      el("span", { class: "quiet" }, decision.error ?? REASONS[decision.reason] ?? (found === "cache" ? "answered before" : "")),
      el("span", { class: "quiet" }, decision.model ?? ""),
      el("span", {}, seconds(decision.first_s)),
      el("span", {}, el("span", { class: `tag ${FORM[decision.ended] ?? ""}` }, decision.ended.replace("_", " "))),
    ),
    details(decision),
  );
}

function details(decision) {
  const ranked = decision.candidates.filter((c) => c.dropped_by === null);
  const dropped = decision.candidates.filter((c) => c.dropped_by !== null);
  const answered = decision.tried.length ? decision.tried[decision.tried.length - 1].endpoint : null;
  const facts = [
    ["policy", decision.policy],
    ["tenant", decision.tenant],
    ["tokens", decision.prompt_tokens === null ? null : tokens(decision)],
    ["cost", dollars(decision.cost_usd)],
    ["waited for room", decision.queued_s > 0 ? seconds(decision.queued_s) : null],
    ["total", seconds(decision.total_s)],
    ["request", decision.request_id],
    ["trace", decision.trace_id],
  ].filter(([, value]) => value !== null);
  return el(
    "div",
    { class: "more" },
    el("p", { class: "facts" }, ...facts.map(([name, value]) => el("span", {}, `${name} ${value}`))),
    decision.candidates.length === 0
      ? null
      : el(
          "div",
          { class: "scroll" },
          el(
            "table",
            {},
            el("thead", {}, el("tr", {}, ...["Candidate", ...CANDIDATE.map(([n]) => n)].map((n) => el("th", { scope: "col" }, n)))),
            el(
              "tbody",
              {},
              ...ranked.flatMap((c) => (c.endpoint === answered ? [expected(c), actual(decision)] : [row(c)])),
              ...dropped.map((c) =>
                el("tr", { class: "dropped" }, el("td", {}, c.endpoint), el("td", { colspan: CANDIDATE.length }, `dropped by the filter ${c.dropped_by}`)),
              ),
            ),
          ),
        ),
  );
}

const tokens = (d) => `${number(d.prompt_tokens)} (${number(d.cached_tokens)} cached) + ${number(d.completion_tokens)}`;

const row = (c) => el("tr", {}, el("td", {}, c.endpoint, c.full ? el("span", { class: "tag full" }, "full") : null), ...CANDIDATE.map(([, show]) => el("td", {}, show(c))));

function expected(c) {
  const node = row(c);
  node.className = "winner";
  return node;
}

function actual(decision) {
  const real = (name) => decision.forecast[name]?.[1] ?? null;
  const cells = ["", seconds(real("ttft_s")), "", dollars(real("cost_usd")), number(real("cached_tokens")), "", "", ""];
  return el("tr", { class: "actual" }, el("td", {}, "what came"), ...cells.map((text) => el("td", {}, text)));
}

export function showPolicies(policies, config) {
  $("reload").textContent =
    `generation ${config.generation}, ` + (config.reload === "ok" ? "as the files say" : "the last edit was refused: see the log");
  $("reload").className = config.reload === "ok" ? "" : "bad";
  $("policy-list").replaceChildren(
    ...policies.map((policy) => {
      const match = Object.entries(policy.match).filter(([, value]) => value !== null && value.length);
      const when = match.length ? `when ${match.map(([k, v]) => `${k} is ${v}`).join(", ")}` : "for everything else";
      const budget = policy.dollars_per_hour === null ? "" : `; ${dollars(policy.dollars_per_hour)} an hour, a dollar counts ${(1 + policy.multiplier).toFixed(2)}`;
      return el(
        "article",
        { class: "card policy" },
        el("h3", {}, policy.name, el("span", { class: "tag" }, policy.version)),
        el("p", {}, `${policies.length > 1 ? when : "for every request"}, from ${policy.file}${budget}`),
        el("pre", { tabindex: "0", "aria-label": policy.file }, policy.text.trim()),
      );
    }),
  );
}
