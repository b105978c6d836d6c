"""What open engines' servers have in common: they tell of themselves, and can go on from text."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

from gateway.domain import EndpointStats
from gateway.providers.base import Continuation
from gateway.providers.openai_compatible import OpenAICompatible
from gateway.wire.exposition import parse_samples

Samples = Mapping[str, Sequence[float]]


@dataclass(frozen=True)
class Engine(OpenAICompatible):
    """Of a gauge all names that it had across versions; the first that is there counts."""

    continuation: ClassVar[Continuation | None] = Continuation.TEXT
    running: ClassVar[tuple[str, ...]] = ()
    waiting: ClassVar[tuple[str, ...]] = ()
    kv_usage: ClassVar[tuple[str, ...]] = ()

    async def stats(self) -> EndpointStats:
        """Of an engine that was started without its metrics: that it is there."""
        status, body = await self.page(f"{self.server}/metrics")
        samples: Samples = parse_samples(body) if status == 200 else {}
        usage = _first(samples, self.kv_usage)
        return EndpointStats(
            running=_whole(_first(samples, self.running)),
            waiting=_whole(_first(samples, self.waiting)),
            kv_usage=max(usage) if usage and 0 <= max(usage) <= 1 else None,
            context_length=await self.context_length(),
        )

    @property
    def server(self) -> str:
        return self.base_url.removesuffix("/v1")

    async def context_length(self) -> int | None:
        """Of the shortest of the models that we use there."""
        told = await self.json_page(f"{self.base_url}/models")
        models = told.get("data") if isinstance(told, dict) else None
        ours = set(self.models.values())
        lengths = [
            positive(model.get("max_model_len"))
            for model in (models if isinstance(models, list) else ())
            if isinstance(model, dict) and model.get("id") in ours
        ]
        return min((length for length in lengths if length), default=None)

    async def json_page(self, url: str) -> Any:
        """None for what is no JSON, or not there."""
        status, body = await self.page(url)
        try:
            return json.loads(body) if status == 200 else None
        except (ValueError, RecursionError):
            return None


def positive(value: Any) -> int | None:
    return value if type(value) is int and 0 < value < 2**53 else None


def _first(samples: Samples, names: Sequence[str]) -> Sequence[float]:
    return next((samples[name] for name in names if name in samples), ())


def _whole(values: Sequence[float]) -> int | None:
    """Summed over ranks and models: they share the machine."""
    total = sum(values)
    return int(total) if values and 0 <= total < 2**53 else None
