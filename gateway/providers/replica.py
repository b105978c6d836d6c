"""A replica of our own: OpenAI's API and the additions of docs/replica-protocol.md."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field

import httpx

from gateway.domain import InferenceRequest, Json, ReplicaStats
from gateway.errors import UpstreamRefused
from gateway.providers.base import Continuation
from gateway.providers.openai_compatible import OpenAICompatible, read_body, translated
from gateway.wire.openai import parse_stats

STATS_TIMEOUT_S = 5.0

PRIORITIES = {"interactive": 0, "standard": 1, "batch": 2}


@dataclass(frozen=True)
class Replica(OpenAICompatible):
    secret: str = field(default="", repr=False)

    @property
    def continuation(self) -> Continuation | None:
        return Continuation.TOKEN_IDS

    def headers(self, request_id: str) -> dict[str, str]:
        return {**super().headers(request_id), "x-replica-secret": self.secret}

    def fields(self, request: InferenceRequest) -> Json:
        fields: dict[str, object] = {
            "cache_salt": request.cache_salt,
            "priority": PRIORITIES[request.priority],
        }
        if request.session_id:
            fields["session_id"] = request.session_id
        if request.stream and request.forwarded.get("n") in (None, 1):
            fields["return_token_ids"] = True
        if request.delivered is not None:
            assert request.delivered.token_ids is not None, "only they make an equal answer"
            fields["continue_token_ids"] = request.delivered.token_ids
        return fields

    async def stats(self) -> ReplicaStats:
        url = self.base_url.removesuffix("/v1") + "/stats"
        with translated():
            async with asyncio.timeout(STATS_TIMEOUT_S):
                response = await self.transport.handle_async_request(httpx.Request("GET", url))
                try:
                    body = await read_body(response)
                finally:
                    await response.aclose()
        stats = parse_stats(body)
        if response.status_code != 200 or stats is None:
            raise UpstreamRefused("the replica does not tell its state")
        return stats
