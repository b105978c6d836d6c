"""DeepSeek, which queues: with comments in a stream, with empty lines before a plain answer."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from gateway.errors import UpstreamOverloaded
from gateway.providers.base import ENGINE, Traits
from gateway.providers.openai_compatible import OpenAICompatible
from gateway.providers.refusals import Meanings


@dataclass(frozen=True)
class Deepseek(OpenAICompatible):
    URL: ClassVar[str | None] = "https://api.deepseek.com"
    traits: ClassVar[Traits] = Traits(
        features=ENGINE - {"json_schema", "n", "embeddings"}, tells_cached=True, stops_billing=True
    )
    max_tokens_as: ClassVar[str | None] = "max_tokens"
    meanings: ClassVar[Meanings] = {503: UpstreamOverloaded}
