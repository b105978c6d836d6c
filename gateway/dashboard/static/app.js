// Reads the gateway's state every two seconds while the page is looked at. The key, where there are
// keys, lives in this tab's session storage and goes to this gateway only.

import { drawCharts } from "./charts.js";
import { $ } from "./dom.js";
import { showPlayground, startPlayground } from "./playground.js";
import { showDecisions, showModels, showPolicies, showTotals } from "./views.js";

const PERIOD_MS = 2000;
const KEY = "gateway-admin-key";

const headers = () => {
  const key = sessionStorage.getItem(KEY);
  return key ? { authorization: `Bearer ${key}` } : {};
};

class Refused extends Error {}

async function read(path) {
  const response = await fetch(path, { headers: headers() });
  const body = await response.json();
  if (response.status === 401 || response.status === 403) throw new Refused(body.error.message);
  if (!response.ok) throw new Error(body.error.message);
  return body;
}

let timer = null;
let generation = null;

async function refresh() {
  clearTimeout(timer);
  try {
    const state = await read("/dashboard/api/state");
    $("door").hidden = true;
    $("content").hidden = false;
    showTotals(state);
    showModels(state);
    drawCharts(state.series);
    showDecisions(state.decisions);
    showPlayground(state.models);
    const current = `${state.config.generation} ${state.config.reload}`;
    if (generation !== current || Math.random() < 0.1) {
      showPolicies(await read("/dashboard/api/policies"), state.config);
      generation = current;
    }
    const workers = state.workers > 1 ? ` · ${state.workers} workers` : "";
    say(`${state.version}${workers} · up ${age(state.now - state.started)}`);
  } catch (error) {
    if (error instanceof Refused) return ask(error.message);
    say("the gateway does not answer", "bad");
  }
  timer = setTimeout(refresh, PERIOD_MS);
}

function ask(reason) {
  $("refused").textContent = sessionStorage.getItem(KEY) ? reason : "";
  sessionStorage.removeItem(KEY);
  $("content").hidden = true;
  $("door").hidden = false;
  $("key").focus();
}

function say(text, how = "") {
  $("status").className = how;
  if ($("status").textContent !== text) $("status").textContent = text;
}

function age(seconds) {
  if (seconds < 60) return `${Math.round(seconds)} s`;
  if (seconds < 3600) return `${Math.floor(seconds / 60)} min`;
  return `${Math.floor(seconds / 3600)} h ${Math.floor((seconds % 3600) / 60)} min`;
}

$("door").addEventListener("submit", (event) => {
  event.preventDefault();
  sessionStorage.setItem(KEY, $("key").value.trim());
  $("key").value = "";
  refresh();
});
document.addEventListener("visibilitychange", () => (document.hidden ? clearTimeout(timer) : refresh()));
startPlayground(headers, refresh);
refresh();
