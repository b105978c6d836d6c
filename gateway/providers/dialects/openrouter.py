"""OpenRouter, a router in front of many."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from gateway.errors import InvalidRequest, UpstreamOverloaded
from gateway.providers.base import Traits
from gateway.providers.openai_compatible import OpenAICompatible
from gateway.providers.refusals import Meanings


@dataclass(frozen=True)
class Openrouter(OpenAICompatible):
    URL: ClassVar[str | None] = "https://openrouter.ai/api/v1"
    traits: ClassVar[Traits] = Traits(tells_cached=True)
    max_tokens_as: ClassVar[str | None] = "max_tokens"
    reasoning_as: ClassVar[str] = "reasoning"
    session_fields: ClassVar[tuple[str, ...]] = ("session_id",)
    # It refuses a prompt, not our key.
    meanings: ClassVar[Meanings] = {403: InvalidRequest, 503: UpstreamOverloaded}
