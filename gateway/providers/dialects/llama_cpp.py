"""llama.cpp's server; its metrics want `--metrics`."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import ClassVar

from gateway.errors import UpstreamCold
from gateway.providers.base import ENGINE, Traits
from gateway.providers.engine import Engine, positive
from gateway.providers.refusals import Meanings


@dataclass(frozen=True)
class LlamaCpp(Engine):
    running: ClassVar[tuple[str, ...]] = ("llamacpp:requests_processing",)
    waiting: ClassVar[tuple[str, ...]] = ("llamacpp:requests_deferred",)
    kv_usage: ClassVar[tuple[str, ...]] = ("llamacpp:kv_cache_usage_ratio",)  # in older ones
    traits: ClassVar[Traits] = Traits(
        features=ENGINE | {"vision"}, keeps_data=False, stops_billing=True
    )
    meanings: ClassVar[Meanings] = {503: UpstreamCold}  # it loads the model

    async def context_length(self) -> int | None:
        """Of one slot, which is what a request gets."""
        status, body = await self.get(f"{self.server}/props")
        try:
            match json.loads(body):
                case {"default_generation_settings": {"n_ctx": length}} if status == 200:
                    return positive(length)
        except (ValueError, RecursionError):
            pass
        return None
