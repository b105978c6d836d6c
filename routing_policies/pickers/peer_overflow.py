"""Threshold overflow: our own machines while they are not too busy on average, else a provider.

The rule that operators of a mixed pool write first. While dedicated candidates have on average at
most `mean_in_flight` requests in flight, they come first, by cost; above that the hosted ones do,
by the dollars that the request would add.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from statistics import fmean

from routing_policies.base import Context, Ranked
from routing_policies.pickers.lowest import Lowest


@dataclass(frozen=True)
class PeerOverflow:
    mean_in_flight: float = 12.0
    tie: float = 0.01  # as in `lowest`, which orders our own

    def pick(self, ranked: Sequence[Ranked], context: Context) -> Sequence[Ranked]:
        ours = [r for r in ranked if r.candidate.dedicated]
        hosted = sorted(
            (r for r in ranked if not r.candidate.dedicated), key=lambda r: r.estimate.cost_usd
        )
        ours_first = Lowest(self.tie).pick(ours, context)
        busy = bool(ours) and fmean(r.candidate.in_flight for r in ours) > self.mean_in_flight
        return (*hosted, *ours_first) if busy else (*ours_first, *hosted)
