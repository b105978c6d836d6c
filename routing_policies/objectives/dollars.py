"""Dollars that the choice adds to the bill, dearer while a budget runs short: `(1 + λ)·dollars`."""

from __future__ import annotations

from dataclasses import dataclass

from routing_policies.base import Candidate, Estimate, RouteRequest


@dataclass(frozen=True)
class Dollars:
    def cost(self, request: RouteRequest, candidate: Candidate, estimate: Estimate) -> float:
        return estimate.effective_usd
