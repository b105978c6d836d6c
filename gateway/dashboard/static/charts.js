// Four charts over the last quarter of an hour, one line for each endpoint.

import { $, dollars, el, number, seconds } from "./dom.js";

const CHARTS = [
  { key: "requests_per_s", title: "Requests per second", show: (v) => number(v, 1) },
  { key: "first_p95_s", title: "First token, 95th percentile", show: seconds },
  { key: "tokens_per_s", title: "Output tokens per second", show: (v) => number(v) },
  { key: "usd_per_hour", title: "Dollars per hour", show: dollars },
];
const HEIGHT = 150;
const COLOURS = 6;
const LEAST = 24; // buckets
const inner = (box) => box.clientWidth - 36;

const style = (name) => getComputedStyle(document.documentElement).getPropertyValue(name).trim();

let drawn = [];
let endpoints = "";

export function drawCharts(series) {
  const names = Object.keys(series.endpoints);
  if (names.join() !== endpoints || drawn.length === 0) {
    endpoints = names.join();
    make(names);
  }
  const [from, to] = span(series);
  for (const chart of drawn) {
    const lines = names.map((name) => series.endpoints[name][chart.key].slice(from, to));
    chart.plot.setData([series.at.slice(from, to), ...lines]);
    const last = lines.map((line) => line[line.length - 1]).filter((v) => v !== null);
    const sum = chart.key === "first_p95_s" ? Math.max(...last) : last.reduce((a, b) => a + b, 0);
    chart.value.textContent = last.length ? chart.show(sum) : "";
  }
}

// From shortly before the first request to the last bucket that is over, two minutes at least.
function span(series) {
  const to = series.at.length - 1;
  const busy = Object.values(series.endpoints).map((s) => s.requests_per_s.findIndex((v) => v > 0));
  const first = Math.min(to, ...busy.filter((index) => index >= 0));
  return [Math.max(0, Math.min(first - 2, to - LEAST)), to];
}

function make(names) {
  drawn.forEach((chart) => chart.plot.destroy());
  $("legend").replaceChildren(
    ...names.map((name, i) => el("li", {}, el("span", { class: `swatch s${i % COLOURS}` }), name)),
  );
  $("chart-list").replaceChildren();
  const boxes = CHARTS.map((chart) => {
    const value = el("span", { class: "value" });
    const box = el("div", { class: "card chart" }, el("h3", {}, chart.title, value));
    $("chart-list").append(box);
    return { ...chart, box, value };
  });
  // Only when all stand in the grid is it known how wide each is.
  drawn = boxes.map((chart) => ({
    ...chart,
    plot: new uPlot(options(chart, names, inner(chart.box)), [[], ...names.map(() => [])], chart.box),
  }));
}

function options(chart, names, width) {
  const axis = {
    stroke: style("--quiet"),
    grid: { stroke: style("--line"), width: 1 },
    ticks: { show: false },
    font: "12px system-ui, sans-serif",
  };
  return {
    width,
    height: HEIGHT,
    legend: { show: false },
    cursor: { y: false, points: { size: 6 } },
    padding: [8, 8, 0, 0],
    scales: { y: { range: (_, min, max) => [0, max > 0 ? max * 1.15 : 1] } },
    axes: [
      { ...axis, size: 28, grid: { show: false }, values: (_, ticks) => ticks.map(hours) },
      { ...axis, size: 62, values: (_, ticks) => ticks.map(chart.show) },
    ],
    series: [
      {},
      ...names.map((name, i) => ({
        label: name,
        stroke: style(`--s${i % COLOURS}`),
        width: 1.8,
        fill: chart.key === "first_p95_s" ? undefined : `${style(`--s${i % COLOURS}`)}22`,
        points: { show: chart.key === "first_p95_s", size: 4 },
        spanGaps: false,
      })),
    ],
  };
}

const hours = (unix) =>
  unix % 60 ? "" : new Date(unix * 1000).toLocaleTimeString("en-GB", { hour: "2-digit", minute: "2-digit" });

const fit = () =>
  drawn.forEach(({ plot, box }) => plot.setSize({ width: inner(box), height: HEIGHT }));
addEventListener("resize", fit);
matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => {
  endpoints = "";
  drawn.forEach((chart) => chart.plot.destroy());
  drawn = [];
});
