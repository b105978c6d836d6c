"""Requests in flight: the plainest measure of how busy an endpoint is."""

from __future__ import annotations

from dataclasses import dataclass

from routing_policies.base import Candidate, Estimate, RouteRequest


@dataclass(frozen=True)
class InFlight:
    def cost(self, request: RouteRequest, candidate: Candidate, estimate: Estimate) -> float:
        return float(candidate.in_flight)
