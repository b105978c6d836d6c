"""Prometheus's text format, as far as gauges go."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping

_SAMPLE = re.compile(r"([a-zA-Z_:][a-zA-Z0-9_:]*)(?:\{[^\n]*\})?\s+(\S+)(?:\s+-?[0-9]+)?\s*")


def parse_samples(raw: bytes) -> Mapping[str, tuple[float, ...]]:
    """Each metric's values, one for each set of labels. What is no sample is left out."""
    samples: dict[str, list[float]] = {}
    for line in raw.decode(errors="replace").splitlines():
        if match := _SAMPLE.fullmatch(line):
            try:
                value = float(match[2])
            except ValueError:
                continue
            if math.isfinite(value):
                samples.setdefault(match[1], []).append(value)
    return {name: tuple(values) for name, values in samples.items()}
