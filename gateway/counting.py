"""
Exact counts of a prompt's tokens, where an estimate would leave in doubt whether it fits.

The config may name a tokenizer of the model; without one, an endpoint of the model is asked, if it
can tell and may have the prompt. Counting takes milliseconds: it runs off the event
loop, for requests that need it only.
"""

from __future__ import annotations

import asyncio
import dataclasses
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from gateway.domain import InferenceRequest, Principal
from gateway.errors import UpstreamError
from gateway.fleet.endpoint import Endpoint
from gateway.fleet.fleet import Fleet
from routing_policies.base import DATA_POLICIES

Counter = Callable[[InferenceRequest], int | None]
"""Tokens of a request's prompt; None where it cannot tell them exactly."""


@dataclass(frozen=True, slots=True)
class Counting:
    fleet: Fleet
    tokenizers: Mapping[str, Counter] = field(default_factory=dict)  # by the clients' model

    async def counted(self, request: InferenceRequest, principal: Principal) -> InferenceRequest:
        """The request with its exact count, where somebody can tell."""
        tokens = await self._count(request, principal)
        return request if tokens is None else dataclasses.replace(request, prompt_tokens=tokens)

    async def tokens(self, request: InferenceRequest, principal: Principal) -> int:
        """Of its prompt: exactly where somebody can tell, else as we expect."""
        exact = await self._count(request, principal)
        return self.fleet.expected(request).prompt_tokens if exact is None else exact

    async def _count(self, request: InferenceRequest, principal: Principal) -> int | None:
        if (counter := self.tokenizers.get(request.model)) is not None:
            return await asyncio.to_thread(counter, request)
        for endpoint in self.fleet.endpoints.values():
            if request.model not in endpoint.models or endpoint.provider is None:
                continue
            if not _may_have(principal, endpoint):
                continue
            try:
                if (tokens := await endpoint.provider.count(request)) is not None:
                    return tokens
            except UpstreamError:
                continue  # the estimate stands
        return None


def _may_have(principal: Principal, endpoint: Endpoint) -> bool:
    """The caller's prompts may go there."""
    demanded = DATA_POLICIES.index(principal.data_policy or DATA_POLICIES[0])
    kept = DATA_POLICIES.index(endpoint.data_policy)
    return principal.may_reach(endpoint.name) and kept >= demanded
