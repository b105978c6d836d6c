"""DeepInfra."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from gateway.errors import UpstreamOverloaded
from gateway.providers.base import Traits
from gateway.providers.openai_compatible import OpenAICompatible
from gateway.providers.refusals import Meanings


@dataclass(frozen=True)
class Deepinfra(OpenAICompatible):
    URL: ClassVar[str | None] = "https://api.deepinfra.com/v1/openai"
    traits: ClassVar[Traits] = Traits(stops_billing=True)
    max_tokens_as: ClassVar[str | None] = "max_tokens"
    session_fields: ClassVar[tuple[str, ...]] = ("prompt_cache_key",)
    meanings: ClassVar[Meanings] = {503: UpstreamOverloaded}
