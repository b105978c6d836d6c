"""LMetric (arXiv 2603.15202; Dynamo's `lmetric`): `(q + u) · (n + 1)`, with no parameter.

q are the uncached prompt tokens queued on the candidate, u those of this prompt, n the requests in
flight there. It multiplies the queue by n too, where `uncached_work` adds it.
"""

from __future__ import annotations

from dataclasses import dataclass

from routing_policies.base import Candidate, Estimate, RouteRequest


@dataclass(frozen=True)
class PeerLmetric:
    def cost(self, request: RouteRequest, candidate: Candidate, estimate: Estimate) -> float:
        work = candidate.queued_tokens + estimate.uncached_tokens
        return float(work * (candidate.in_flight + 1))
