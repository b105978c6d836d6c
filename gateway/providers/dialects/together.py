"""Together AI, serverless."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from gateway.domain import Json
from gateway.errors import UpstreamOverloaded
from gateway.providers.base import Traits
from gateway.providers.openai_compatible import OpenAICompatible
from gateway.providers.refusals import Meanings


@dataclass(frozen=True)
class Together(OpenAICompatible):
    URL: ClassVar[str | None] = "https://api.together.ai/v1"
    traits: ClassVar[Traits] = Traits(stops_billing=True)
    defaults: ClassVar[Json] = {"context_length_exceeded_behavior": "error"}
    max_tokens_as: ClassVar[str | None] = "max_tokens"
    too_long: ClassVar[tuple[int, ...]] = (403,)
    # Above our rate it says 429; at or below, that the fault is its own.
    meanings: ClassVar[Meanings] = {503: UpstreamOverloaded}
