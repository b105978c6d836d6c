"""Keep endpoints that can do what the request needs: tools, JSON by a schema, pictures, …

An endpoint whose capabilities nobody has stated is kept: it judges itself, and a refusal only costs
the next try. `also` asks of every endpoint what no request can say, `isolates_tenants` above all;
there, not stated is not good enough.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from routing_policies.base import Candidate, RouteRequest


@dataclass(frozen=True)
class HasCapabilities:
    also: list[str] = field(default_factory=list)

    def keep(self, request: RouteRequest, candidate: Candidate) -> bool:
        known = candidate.capabilities
        if known is None:
            return not self.also
        return request.needs <= known and known.issuperset(self.also)
