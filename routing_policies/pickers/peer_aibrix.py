"""AIBrix's `prefix-cache`: the best match that is not much busier than the others.

The rule of `pkg/plugins/gateway/algorithms/prefix_cache.go`, with its constants
`defaultPodRunningRequestImbalanceAbsCount` and `defaultStandardDeviationFactor`: fewest requests
when max − min exceeds the former; else, of those with any match, sorted by match and then by
requests, the first with n ≤ mean + factor · standard deviation; else fewest requests.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from statistics import fmean, pstdev

from routing_policies.base import Context, Ranked
from routing_policies.pickers.lowest import Lowest

BY_COST = Lowest(tie=0)


@dataclass(frozen=True)
class PeerAibrix:
    """For use with `minimize: {in_flight: 1}`."""

    pod_running_request_imbalance_abs_count: int = 8
    standard_deviation_factor: float = 1.0

    def pick(self, ranked: Sequence[Ranked], context: Context) -> Sequence[Ranked]:
        by_load = BY_COST.pick(ranked, context)
        loads = [r.candidate.in_flight for r in ranked]
        limit = self.pod_running_request_imbalance_abs_count
        if not ranked or max(loads) - min(loads) > limit:
            return by_load
        most = fmean(loads) + self.standard_deviation_factor * pstdev(loads)
        matched = sorted(by_load, key=lambda r: -r.estimate.cached_tokens)  # stable: then by load
        for choice in matched:
            if choice.estimate.cached_tokens and choice.candidate.in_flight <= most:
                return (choice, *(r for r in by_load if r is not choice))
        return by_load
