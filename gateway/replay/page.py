"""One HTML page for a comparison: a table, and two charts as inline SVG. Loads nothing."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from html import escape

from gateway.replay.metrics import Summary, percentile

COLOURS = (
    "#1b6ca8",
    "#d1495b",
    "#3a7d44",
    "#b5651d",
    "#6c4ab6",
    "#0f8b8d",
    "#8a8d91",
    "#c2185b",
    "#7a6c00",
    "#24292f",
)

STYLE = """
body { font: 15px/1.5 system-ui, sans-serif; margin: 2rem auto; max-width: 60rem; padding: 0 1rem;
       color: #1f2328; background: #fff }
table { border-collapse: collapse; width: 100% }
th, td { padding: .3rem .6rem; text-align: right; border-bottom: 1px solid #d0d7de }
th:first-child, td:first-child { text-align: left }
svg { width: 100%; height: auto }
text { font: 12px system-ui, sans-serif; fill: currentColor }
.grid { stroke: #d0d7de }
@media (prefers-color-scheme: dark) {
  body { color: #e6edf3; background: #0d1117 }
  th, td { border-color: #30363d }
  .grid { stroke: #30363d }
}
"""

WIDTH, LEFT, RIGHT = 860, 170, 70


@dataclass(frozen=True, slots=True)
class Result:
    """What one policy came to."""

    summary: Summary
    ttft_s: Sequence[float]  # of one run, in order


def page(title: str, results: Mapping[str, Result]) -> str:
    colours = {name: COLOURS[i % len(COLOURS)] for i, name in enumerate(results)}
    return (
        '<!DOCTYPE html>\n<html lang="en"><head><meta charset="utf-8"/>'
        '<meta name="viewport" content="width=device-width, initial-scale=1"/>'
        f"<title>{escape(title)}</title><style>{STYLE}</style></head><body>"
        f"<h1>gateway replay</h1><p>{escape(title)}</p>"
        f"{_table(results)}"
        f"<h2>Requests within the limits</h2>{_bars(results, colours)}"
        f"<h2>Time to the first token</h2>{_distribution(results, colours)}"
        "</body></html>\n"
    )


def _table(results: Mapping[str, Result]) -> str:
    head = "".join(f"<th>{f.name.replace('_', ' ')}</th>" for f in fields(Summary))
    rows = "".join(
        f"<tr><td>{escape(name)}</td>{_cells(result.summary)}</tr>"
        for name, result in results.items()
    )
    return f"<table><thead><tr><th>policy</th>{head}</tr></thead><tbody>{rows}</tbody></table>"


def _cells(summary: Summary) -> str:
    return "".join(f"<td>{getattr(summary, f.name):.3f}</td>" for f in fields(Summary))


def _bars(results: Mapping[str, Result], colours: Mapping[str, str]) -> str:
    row = 28
    parts = []
    for i, (name, result) in enumerate(results.items()):
        share, y = result.summary.goodput, i * row
        width = share * (WIDTH - LEFT - RIGHT)
        parts.append(
            f'<text x="{LEFT - 8}" y="{y + 18}" text-anchor="end">{escape(name)}</text>'
            f'<rect x="{LEFT}" y="{y + 4}" width="{width:.1f}" height="{row - 8}" '
            f'fill="{colours[name]}"/>'
            f'<text x="{LEFT + width + 6:.1f}" y="{y + 18}">{share:.1%}</text>'
        )
    return _svg(row * len(results), "Share of requests within the limits", parts)


def _distribution(results: Mapping[str, Result], colours: Mapping[str, str]) -> str:
    """Seconds on a logarithmic axis against the share of requests that waited no longer."""
    height, bottom = 360, 320
    decades = range(-2, 3)

    def x(seconds: float) -> float:
        at = (math.log10(max(seconds, 10.0 ** decades[0])) - decades[0]) / (len(decades) - 1)
        return LEFT + min(1.0, at) * (WIDTH - LEFT - RIGHT)

    parts = [
        f'<line class="grid" x1="{x(10.0**d):.1f}" x2="{x(10.0**d):.1f}" y1="10" y2="{bottom}"/>'
        f'<text x="{x(10.0**d):.1f}" y="{bottom + 18}" text-anchor="middle">{10.0**d:g} s</text>'
        for d in decades
    ]
    for i, (name, result) in enumerate(results.items()):
        shares = [share / 200 for share in range(1, 201)]
        points = " ".join(
            f"{x(percentile(result.ttft_s, share)):.1f},{bottom - share * (bottom - 10):.1f}"
            for share in shares
        )
        y = 20 + 18 * i
        parts.append(
            f'<polyline fill="none" stroke="{colours[name]}" stroke-width="2" points="{points}"/>'
            f'<rect x="8" y="{y - 10}" width="10" height="10" fill="{colours[name]}"/>'
            f'<text x="24" y="{y}">{escape(name)}</text>'
        )
    return _svg(max(height, 40 + 18 * len(results)), "Distribution of first-token times", parts)


def _svg(height: int, label: str, parts: Sequence[str]) -> str:
    return (
        f'<svg role="img" aria-label="{label}" viewBox="0 0 {WIDTH} {height}" '
        f'xmlns="http://www.w3.org/2000/svg">{"".join(parts)}</svg>'
    )
