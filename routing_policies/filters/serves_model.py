"""Keep endpoints that serve the requested model."""

from __future__ import annotations

from dataclasses import dataclass

from routing_policies.base import Candidate, RouteRequest


@dataclass(frozen=True)
class ServesModel:
    def keep(self, request: RouteRequest, candidate: Candidate) -> bool:
        return request.model in candidate.models
