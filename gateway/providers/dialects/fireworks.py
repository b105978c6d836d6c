"""Fireworks AI, serverless."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

from gateway.domain import Json
from gateway.errors import UpstreamOverloaded, UpstreamUnpaid
from gateway.providers.base import Traits
from gateway.providers.openai_compatible import OpenAICompatible
from gateway.providers.refusals import Meanings
from gateway.wire.shapes import count


@dataclass(frozen=True)
class Fireworks(OpenAICompatible):
    URL: ClassVar[str | None] = "https://api.fireworks.ai/inference/v1"
    traits: ClassVar[Traits] = Traits(
        isolates_tenants=True,
        tells_cached=True,
        data_policy="zero_retention",
        stops_billing=True,
    )
    defaults: ClassVar[Json] = {"context_length_exceeded_behavior": "error"}  # its own: truncate
    max_tokens_as: ClassVar[str | None] = "max_tokens"
    session_fields: ClassVar[tuple[str, ...]] = ("prompt_cache_key",)
    session_headers: ClassVar[tuple[str, ...]] = ("x-session-affinity",)
    tenant_fields: ClassVar[tuple[str, ...]] = ("prompt_cache_isolation_key",)
    meanings: ClassVar[Meanings] = {412: UpstreamUnpaid, 503: UpstreamOverloaded}

    def cached_in_headers(self, headers: Mapping[str, str]) -> int | None:
        return count(headers.get("fireworks-cached-prompt-tokens"))
