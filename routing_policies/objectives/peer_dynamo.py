"""Dynamo's KV router: blocks to prefill and blocks under decode, added one to one.

The cost of `lib/kv-router/src/scheduling/selector/default.rs`, in blocks, its parameters named and
defaulted as there:

    prefill_load_scale · max(0, active prefill + prompt − overlap_score_credit · overlap)
    + decode blocks + decode_active_request_weight · active requests

Active prefill is what of the prompts there still waits to be computed; decode blocks are those of
every active request, prompt and answer so far. Dynamo counts a block that two of them share once,
here it counts twice. Its default temperature of 0 is the lowest cost.
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

    def cost(self, request: RouteRequest, candidate: Candidate, estimate: Estimate) -> float:
        prompt = estimate.cached_tokens + estimate.uncached_tokens
        credit = self.overlap_score_credit * estimate.cached_tokens
        prefill = max(0.0, candidate.queued_tokens + prompt - credit)
        return (
            self.prefill_load_scale * prefill / self.block_size
            + candidate.active_tokens / self.block_size
            + self.decode_active_request_weight * candidate.in_flight
        )
