"""The risk that the endpoint fails, or misses one of the policy's limits."""

from __future__ import annotations

from dataclasses import dataclass

from routing_policies.base import Candidate, Estimate, RouteRequest


@dataclass(frozen=True)
class Miss:
    def cost(self, request: RouteRequest, candidate: Candidate, estimate: Estimate) -> float:
        return estimate.p_miss
