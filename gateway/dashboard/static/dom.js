// Elements from plain values: text is always text, so nothing that a caller wrote can be markup.

export function el(tag, attributes = {}, ...children) {
  const node = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) {
    if (value === null || value === undefined || value === false) continue;
    if (name === "class") node.className = value;
    else node.setAttribute(name, value === true ? "" : value);
  }
  node.append(...children.filter((child) => child !== null && child !== undefined));
  return node;
}

export const $ = (id) => document.getElementById(id);

const DASH = "–";

export const number = (value, digits = 0) =>
  value === null || value === undefined
    ? DASH
    : value.toLocaleString("en", { maximumFractionDigits: digits, minimumFractionDigits: 0 });

export function seconds(value) {
  if (value === null || value === undefined) return DASH;
  if (value === 0) return "0";
  if (value < 0.0995) return `${(value * 1000).toFixed(value < 0.00995 ? 1 : 0)} ms`;
  return value < 9.95 ? `${value.toFixed(2)} s` : `${value.toFixed(1)} s`;
}

export function dollars(value) {
  if (value === null || value === undefined) return DASH;
  if (value === 0) return "$0";
  if (value < 0.01) return `$${value.toPrecision(2).replace(/e-(\d+)$/, "e-$1")}`;
  return `$${value.toFixed(value < 10 ? 3 : 2)}`;
}

export const percent = (share) =>
  share === null || share === undefined ? DASH : `${Math.round(share * 100)} %`;

export const clock = (unix) => new Date(unix * 1000).toLocaleTimeString("en-GB");
