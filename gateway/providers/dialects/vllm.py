"""vLLM's own server."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from gateway.domain import InferenceRequest, Json
from gateway.providers.base import Traits
from gateway.providers.engine import Engine


@dataclass(frozen=True)
class Vllm(Engine):
    running: ClassVar[tuple[str, ...]] = ("vllm:num_requests_running",)
    waiting: ClassVar[tuple[str, ...]] = ("vllm:num_requests_waiting",)
    kv_usage: ClassVar[tuple[str, ...]] = ("vllm:kv_cache_usage_perc", "vllm:gpu_cache_usage_perc")
    traits: ClassVar[Traits] = Traits(
        isolates_tenants=True, data_policy="zero_retention", stops_billing=True
    )

    def fields(self, request: InferenceRequest) -> Json:
        """Its prefix cache is divided by a salt."""
        return {**super().fields(request), "cache_salt": self._hint(request.cache_salt)}
