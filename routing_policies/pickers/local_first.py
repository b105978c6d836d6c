"""Our own machines first; hosted endpoints while ours would probably miss the policy's limits.

A dedicated candidate is put behind the hosted ones while its P(miss) is above a limit: `spill`
while the last request for this model stayed with us, the lower `come_back` while it went to a
hosted endpoint. Between the two nothing changes sides, so a load near the limit does not make
traffic swing. A policy has no memory: on which side we are is read off the candidates, as the one
that was chosen last.

P(miss) is 50 % where the estimate is just at a limit. At the spread that an endpoint begins with,
25 % is an estimate of about 70 % of the limit; errors count as misses.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from routing_policies.base import Context, Ranked
from routing_policies.pickers.lowest import Lowest
from routing_policies.pickers.round_robin import chosen_at


@dataclass(frozen=True)
class LocalFirst:
    spill: float = 0.5
    come_back: float = 0.25
    tie: float = 0.01  # as in `lowest`, which orders each side by cost

    def __post_init__(self) -> None:
        if not 0 < self.come_back <= self.spill <= 1:
            raise ValueError("come_back must be above 0 and at most spill, which is at most 1")

    def pick(self, ranked: Sequence[Ranked], context: Context) -> Sequence[Ranked]:
        if not ranked:
            return ()
        last = max(ranked, key=lambda r: (chosen_at(r), r.candidate.dedicated)).candidate
        spilt = last.chosen_at is not None and not last.dedicated
        limit = self.come_back if spilt else self.spill
        fit = [r for r in ranked if r.candidate.dedicated and r.estimate.p_miss <= limit]
        hosted = [r for r in ranked if not r.candidate.dedicated]
        late = [r for r in ranked if r.candidate.dedicated and r.estimate.p_miss > limit]
        lowest = Lowest(self.tie)
        return [choice for side in (fit, hosted, late) for choice in lowest.pick(side, context)]
