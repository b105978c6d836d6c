"""Groq."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from gateway.errors import UpstreamBroken, UpstreamBusy, UpstreamOverloaded
from gateway.providers.base import ENGINE, Traits
from gateway.providers.openai_compatible import OpenAICompatible
from gateway.providers.refusals import Meanings


@dataclass(frozen=True)
class Groq(OpenAICompatible):
    URL: ClassVar[str | None] = "https://api.groq.com/openai/v1"
    traits: ClassVar[Traits] = Traits(
        features=ENGINE - {"n", "logprobs", "embeddings"}, tells_cached=True, stops_billing=False
    )
    max_tokens_as: ClassVar[str | None] = "max_completion_tokens"
    reasoning_as: ClassVar[str] = "reasoning"
    meanings: ClassVar[Meanings] = {
        498: UpstreamOverloaded,  # of its flex tier
        503: UpstreamOverloaded,
        "tool_use_failed": UpstreamBroken,  # the model's mistake: another may do better
        "rate_limit_exceeded": UpstreamBusy,  # also with 413: more tokens than in a minute
    }
