"""Drop endpoints whose price of this request is more than the budget has left.

A policy's budget has left what an hour may cost, less what was spent ahead of time; this drops the
dear endpoints once that is gone, where the budget alone only makes their dollars dearer.
"""

from __future__ import annotations

from dataclasses import dataclass

from routing_policies.base import Candidate, RouteRequest


@dataclass(frozen=True)
class WithinBudget:
    def keep(self, request: RouteRequest, candidate: Candidate) -> bool:
        if request.budget_usd is None:
            return True
        cached = min(candidate.cached_tokens, request.prompt_tokens)
        dollars = candidate.price.dollars(
            request.prompt_tokens - cached, cached, request.output_tokens
        )
        return dollars + candidate.start_usd <= request.budget_usd
