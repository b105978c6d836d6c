"""The less busy of two at random (Mitzenmacher, "The Power of Two Choices", IEEE TPDS 2001).

Robust when loads are known late. The one draw of a decision names an ordered pair; the others
follow by load, for when both refuse.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from routing_policies.base import Context, Ranked


@dataclass(frozen=True)
class PeerP2c:
    """For use with `minimize: {in_flight: 1}`."""

    def pick(self, ranked: Sequence[Ranked], context: Context) -> Sequence[Ranked]:
        if len(ranked) < 2:
            return ranked
        first, second = divmod(int(context.draw * len(ranked) * (len(ranked) - 1)), len(ranked) - 1)
        second += second >= first
        pair = sorted((ranked[first], ranked[second]), key=lambda r: r.cost)
        rest = (r for i, r in enumerate(ranked) if i not in (first, second))
        return (*pair, *sorted(rest, key=lambda r: r.cost))
