"""Tokens of the prompt that are not cached there: nothing of load, nothing of speed."""

from __future__ import annotations

from dataclasses import dataclass

from routing_policies.base import Candidate, Estimate, RouteRequest


@dataclass(frozen=True)
class Uncached:
    def cost(self, request: RouteRequest, candidate: Candidate, estimate: Estimate) -> float:
        return float(estimate.uncached_tokens)
