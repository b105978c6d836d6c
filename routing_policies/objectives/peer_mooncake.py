"""Mooncake's conductor (FAST '25, Algorithm 1) without the transfer of KV: the least expected TTFT.

T_queue + T_prefill(length, prefix), in seconds. Its prefill times are fitted offline; here they are
a·u + b·u·context, the mean context of a prompt's uncached part, and a alone for what is queued.
The defaults are those of the replay's engine.
"""

from __future__ import annotations

from dataclasses import dataclass

from routing_policies.base import Candidate, Estimate, RouteRequest


@dataclass(frozen=True)
class PeerMooncake:
    token_s: float = 1 / 12_000  # a
    token_context_s: float = 1.4e-9  # b

    def cost(self, request: RouteRequest, candidate: Candidate, estimate: Estimate) -> float:
        uncached = estimate.uncached_tokens
        context = estimate.cached_tokens + uncached / 2
        queue_s = self.token_s * candidate.queued_tokens
        return queue_s + (self.token_s + self.token_context_s * context) * uncached
