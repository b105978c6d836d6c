"""Dynamo's KV router: blocks to prefill and blocks under decode, added one to one.

The cost of `lib/kv-router/src/scheduling/selector/default.rs`, in blocks, its parameters named and
defaulted as there:

    prefill_load_scale · max(0, active prefill + prompt − overlap_score_credit · overlap)
    + decode blocks + decode_active_request_weight · active requests

A candidate carries no blocks under decode: `request_tokens` for each request in flight stands for
them, by default the mean length in Mooncake's conversation trace. Its default temperature of 0 is
the lowest cost.
"""

from __future__ import annotations

from dataclasses import dataclass

from routing_policies.base import Candidate, Estimate, RouteRequest


@dataclass(frozen=True)
class PeerDynamo:
    prefill_load_scale: float = 1.0
    overlap_score_credit: float = 1.0
    decode_active_request_weight: float = 0.0
    block_size: int = 16
    request_tokens: float = 12_000.0

    def cost(self, request: RouteRequest, candidate: Candidate, estimate: Estimate) -> float:
        prompt = estimate.cached_tokens + estimate.uncached_tokens
        credit = self.overlap_score_credit * estimate.cached_tokens
        prefill = max(0.0, candidate.queued_tokens + prompt - credit)
        decode = candidate.in_flight * self.request_tokens
        return (
            self.prefill_load_scale * prefill / self.block_size
            + decode / self.block_size
            + self.decode_active_request_weight * candidate.in_flight
        )
