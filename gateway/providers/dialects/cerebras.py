"""Cerebras."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from gateway.errors import UpstreamOverloaded
from gateway.providers.base import ENGINE, Traits
from gateway.providers.openai_compatible import OpenAICompatible
from gateway.providers.refusals import Meanings


@dataclass(frozen=True)
class Cerebras(OpenAICompatible):
    URL: ClassVar[str | None] = "https://api.cerebras.ai/v1"
    traits: ClassVar[Traits] = Traits(features=ENGINE - {"n", "embeddings"}, tells_cached=True)
    max_tokens_as: ClassVar[str | None] = "max_completion_tokens"
    reasoning_as: ClassVar[str] = "reasoning"
    session_fields: ClassVar[tuple[str, ...]] = ("prompt_cache_key",)
    meanings: ClassVar[Meanings] = {503: UpstreamOverloaded}
