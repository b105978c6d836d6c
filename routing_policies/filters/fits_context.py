"""Drop endpoints whose context the prompt overflows beyond doubt.

The count of prompt tokens is an estimate, and the endpoint counts exactly and answers
`context_length_exceeded` itself. So a candidate is only dropped when even the fewest tokens that so
many bytes can be are too many: a wrong guess must not refuse a prompt that fits.
"""

from __future__ import annotations

from dataclasses import dataclass

from routing_policies.base import Candidate, RouteRequest


@dataclass(frozen=True)
class FitsContext:
    def keep(self, request: RouteRequest, candidate: Candidate) -> bool:
        length = candidate.context_length
        return length is None or request.fewest_prompt_tokens < length
