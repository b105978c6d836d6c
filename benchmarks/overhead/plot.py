"""A bar for each contestant, in an SVG: figures that differ by a thousand stand on a logarithm."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from html import escape

ROW, GAP, NAMES, BARS, NUMBERS = 22, 34, 130, 420, 70  # pixels
COLOURS = {"ours": "#2563eb"}
OTHERS = "#9ca3af"


def svg(charts: Mapping[str, Mapping[str, float]]) -> str:
    """Of each title, a bar for each name. Read lengths as ratios: a third of the width is tenfold
    where the largest is a thousand times the smallest."""
    parts: list[str] = []
    at = GAP
    for title, values in charts.items():
        parts.append(f'<text x="0" y="{at - 10}" font-weight="bold">{escape(title)}</text>')
        parts += _bars(values, at)
        at += ROW * len(values) + GAP
    size = f'width="{NAMES + BARS + NUMBERS}" height="{at}"'
    style = 'font-family="sans-serif" font-size="13"'
    lines = "\n".join(parts)
    return f'<svg xmlns="http://www.w3.org/2000/svg" {size} {style}>\n{lines}\n</svg>\n'


def _bars(values: Mapping[str, float], top: int) -> Sequence[str]:
    lowest = math.log(min(values.values()) / 2)
    whole = math.log(max(values.values())) - lowest
    parts = []
    for index, (name, value) in enumerate(sorted(values.items(), key=lambda kv: kv[1])):
        y = top + index * ROW
        width = BARS * (math.log(value) - lowest) / whole
        colour = COLOURS.get(name, OTHERS)
        parts += [
            f'<text x="0" y="{y + 14}">{escape(name)}</text>',
            f'<rect x="{NAMES}" y="{y}" width="{width:.1f}" height="{ROW - 4}" fill="{colour}"/>',
            f'<text x="{NAMES + width + 6:.1f}" y="{y + 14}">{value:,.0f}</text>',
        ]
    return parts
