"""llama.cpp's server; what waits is in its metrics, which want `--metrics`."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import ClassVar

from gateway.domain import EndpointStats
from gateway.errors import UpstreamCold
from gateway.providers.base import Traits
from gateway.providers.engine import Engine, positive
from gateway.providers.refusals import Meanings


@dataclass(frozen=True)
class LlamaCpp(Engine):
    running: ClassVar[tuple[str, ...]] = ("llamacpp:requests_processing",)
    waiting: ClassVar[tuple[str, ...]] = ("llamacpp:requests_deferred",)
    kv_usage: ClassVar[tuple[str, ...]] = ("llamacpp:kv_cache_usage_ratio",)  # in older ones
    traits: ClassVar[Traits] = Traits(data_policy="zero_retention", stops_billing=True)
    meanings: ClassVar[Meanings] = {503: UpstreamCold}  # it loads the model

    async def stats(self) -> EndpointStats:
        told = await super().stats()
        return told if told.running is not None else replace(told, running=await self._busy())

    async def context_length(self) -> int | None:
        """Of one slot, which is what a request gets."""
        match await self.json_page(f"{self.server}/props"):
            case {"default_generation_settings": {"n_ctx": length}}:
                return positive(length)
        return None

    async def _busy(self) -> int | None:
        """Slots, which it shows without its metrics too."""
        match await self.json_page(f"{self.server}/slots"):
            case [_, *_] as slots if all(
                isinstance(s, dict) and isinstance(s.get("is_processing"), bool) for s in slots
            ):
                return [slot["is_processing"] for slot in slots].count(True)
        return None
