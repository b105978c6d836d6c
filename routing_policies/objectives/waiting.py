"""Seconds of waiting for a first token, the others' delay included: `ttft + external`."""

from __future__ import annotations

from dataclasses import dataclass

from routing_policies.base import Candidate, Estimate, RouteRequest


@dataclass(frozen=True)
class Waiting:
    def cost(self, request: RouteRequest, candidate: Candidate, estimate: Estimate) -> float:
        return estimate.ttft_s + estimate.external_s
