"""By how much an endpoint's answers miss what was expected of them: quantiles that forget."""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import pairwise

from routing_policies.base import LATENESS_SIGMAS
from routing_policies.estimate import sigmas

WIDEST = 3.0
"""`ln(actual / expected)` counts as at most so much, in both directions: one answer in a cold start
must not make every limit look lost."""

BINS = 60
WIDTH = 2 * WIDEST / BINS

PRIOR_ANSWERS = 3.0

HEAVIEST = 1e12

NARROWEST = 0.01
"""Between two neighbouring quantiles, at least: no endpoint is that regular."""


def share_below(deviations: float) -> float:
    """Of a normal distribution."""
    return 0.5 * math.erfc(-deviations / math.sqrt(2))


LEVELS = tuple(map(share_below, LATENESS_SIGMAS))


class Lateness:
    """A histogram of `ln(actual / expected)` on a prior, given by its quantiles."""

    def __init__(self, prior: Sequence[float]) -> None:
        self._prior = [PRIOR_ANSWERS * share for share in _shares(prior)]
        self._seen = [0.0] * BINS
        self._weight = 1.0  # of a new answer: it grows, where the old ones' would have to shrink

    def learn(self, surprised: float, keep: float) -> None:
        """`keep`: the share of their weight that older answers keep."""
        self._weight /= max(keep, 1e-9)
        if self._weight > HEAVIEST:
            self._seen = [count / self._weight for count in self._seen]
            self._weight = 1.0
        self._seen[_bin(surprised)] += self._weight

    def quantiles(self) -> tuple[float, ...]:
        """At `LATENESS_SIGMAS`, strictly rising."""
        each = 1 / self._weight
        counts = [prior + seen * each for prior, seen in zip(self._prior, self._seen, strict=True)]
        whole = sum(counts)
        wanted = [level * whole for level in LEVELS]
        found: list[float] = []
        below, index = 0.0, 0
        for want in wanted:
            while index < BINS - 1 and below + counts[index] < want:
                below += counts[index]
                index += 1
            inside = (want - below) / counts[index] if counts[index] else 0.5
            value = -WIDEST + WIDTH * (index + min(1.0, max(0.0, inside)))
            found.append(max(value, found[-1] + NARROWEST) if found else value)
        return tuple(found)


def surprise(actual: float, expected: float) -> float:
    """`ln(actual / expected)`, at most `WIDEST`."""
    value = math.log(max(actual, 1e-4) / max(expected, 1e-4))
    return min(WIDEST, max(-WIDEST, value))


def _bin(value: float) -> int:
    return min(BINS - 1, int((value + WIDEST) / WIDTH))


def _shares(quantiles: Sequence[float]) -> list[float]:
    """Of each bin, where the sigmas between two quantiles lie on a line, and beyond them too."""
    edges = [share_below(sigmas(-WIDEST + WIDTH * edge, quantiles)) for edge in range(1, BINS)]
    return [high - low for low, high in pairwise((0.0, *edges, 1.0))]
