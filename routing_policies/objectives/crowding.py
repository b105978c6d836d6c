"""Requests by which a candidate would be over `in_flight` with this one, and 0 up to it.

With a weight above anything else in the objective it is a border that the other terms cannot
cross. It is no filter: when every candidate is over it, the least crowded answers still.
"""

from __future__ import annotations

from dataclasses import dataclass

from routing_policies.base import Candidate, Estimate, RouteRequest


@dataclass(frozen=True)
class Crowding:
    in_flight: int

    def __post_init__(self) -> None:
        if self.in_flight < 1:
            raise ValueError("in_flight must be at least 1")

    def cost(self, request: RouteRequest, candidate: Candidate, estimate: Estimate) -> float:
        return float(max(0, candidate.in_flight + 1 - self.in_flight))
