"""Expected latency times the requests that would share it: `ttft·(n + 1)`.

The load balancer of Finagle and linkerd, whose latency is a moving average of round trips. A round
trip of a language model is mostly the length of its answer, so here it is the time to the first
token, from what the endpoint's answers have taught.
"""

from __future__ import annotations

from dataclasses import dataclass

from routing_policies.base import Candidate, Estimate, RouteRequest


@dataclass(frozen=True)
class PeakEwma:
    def cost(self, request: RouteRequest, candidate: Candidate, estimate: Estimate) -> float:
        return estimate.ttft_s * (candidate.in_flight + 1)
