"""A replica of our own: OpenAI's API and the additions of docs/replica-protocol.md."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field

import httpx

from gateway.domain import EndpointStats, InferenceRequest, Json
from gateway.errors import UpstreamRefused
from gateway.providers.openai_compatible import OpenAICompatible, read_body, translated
from gateway.wire.openai import parse_stats

CAPABILITIES = frozenset({"logprobs", "n", "isolates_tenants"})
"""Our engine's: the other fields that need one it refuses."""

STATS_TIMEOUT_S = 5.0


@dataclass(frozen=True)
class Replica(OpenAICompatible):
    secret: str = field(default="", repr=False)

    def headers(self, request_id: str) -> dict[str, str]:
        return {**super().headers(request_id), "x-replica-secret": self.secret}

    def fields(self, request: InferenceRequest) -> Json:
        session = {"session_id": request.session_id} if request.session_id else {}
        return {"cache_salt": request.cache_salt, **session}

    async def stats(self) -> EndpointStats:
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
