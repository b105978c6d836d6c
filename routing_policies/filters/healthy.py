"""Keep endpoints that answer, as far as we know."""

from __future__ import annotations

from dataclasses import dataclass

from routing_policies.base import Candidate, RouteRequest


@dataclass(frozen=True)
class Healthy:
    def keep(self, request: RouteRequest, candidate: Candidate) -> bool:
        return candidate.healthy
