"""A replica of our own: OpenAI's API and the additions of docs/replica-protocol.md."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from gateway.domain import CLASSES, EndpointStats, InferenceRequest, Json
from gateway.errors import UpstreamRefused
from gateway.providers.base import Continuation, Traits
from gateway.providers.openai_compatible import OpenAICompatible
from gateway.wire.openai import countable, encode_json, parse_count, parse_stats


@dataclass(frozen=True)
class Replica(OpenAICompatible):
    continuation: ClassVar[Continuation | None] = Continuation.TOKEN_IDS
    secret_header: ClassVar[str | None] = "x-replica-secret"
    traits: ClassVar[Traits] = Traits(
        features=frozenset({"tools", "json_schema", "logprobs", "n"}),
        isolates_tenants=True,
        tells_cached=True,
        data_policy="zero_retention",
        stops_billing=True,
    )

    def fields(self, request: InferenceRequest) -> Json:
        fields: dict[str, object] = {
            "cache_salt": request.cache_salt,
            "priority": CLASSES.index(request.request_class),
        }
        if request.session_id:
            fields["session_id"] = request.session_id
        if request.stream and request.forwarded.get("n") in (None, 1):
            fields["return_token_ids"] = True
        if request.delivered is not None:
            assert request.delivered.token_ids is not None, "only they make an equal answer"
            fields["continue_token_ids"] = request.delivered.token_ids
        return fields

    async def count(self, request: InferenceRequest) -> int | None:
        fields = countable(request)
        if fields is None:
            return None
        url = self.base_url.removesuffix("/v1") + "/tokenize"
        status, body = await self.page(url, "POST", encode_json(fields))
        return parse_count(body) if status == 200 else None

    async def stats(self) -> EndpointStats:
        status, body = await self.page(self.base_url.removesuffix("/v1") + "/stats")
        stats = parse_stats(body)
        if status != 200 or stats is None:
            raise UpstreamRefused("the replica does not tell its state")
        return stats
