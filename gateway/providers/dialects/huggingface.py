"""Hugging Face's router in front of its inference providers."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from gateway.errors import UpstreamOverloaded
from gateway.providers.base import Traits
from gateway.providers.openai_compatible import OpenAICompatible
from gateway.providers.refusals import Meanings


@dataclass(frozen=True)
class Huggingface(OpenAICompatible):
    """Its models are MODEL, or MODEL:PROVIDER."""

    URL: ClassVar[str | None] = "https://router.huggingface.co/v1"
    traits: ClassVar[Traits] = Traits(stops_billing=False)
    max_tokens_as: ClassVar[str | None] = "max_tokens"
    meanings: ClassVar[Meanings] = {503: UpstreamOverloaded}
