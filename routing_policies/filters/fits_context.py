"""Drop endpoints whose context the prompt overflows beyond doubt.

The count of prompt tokens is an estimate, and the endpoint counts exactly and answers
`context_length_exceeded` itself. So a candidate is only dropped when `certainty` of the estimated
tokens would already be too many: a wrong guess must not refuse a prompt that fits.
"""

from __future__ import annotations

from dataclasses import dataclass

from routing_policies.base import Candidate, RouteRequest


@dataclass(frozen=True)
class FitsContext:
    certainty: float = 0.5

    def __post_init__(self) -> None:
        if not 0 < self.certainty <= 1:
            raise ValueError("certainty must be above 0, and at most 1")

    def keep(self, request: RouteRequest, candidate: Candidate) -> bool:
        if candidate.context_length is None:
            return True
        return request.prompt_tokens * self.certainty < candidate.context_length
