"""Any server that speaks OpenAI's API, and of which we know nothing more."""

from __future__ import annotations

from dataclasses import dataclass

from gateway.providers.openai_compatible import OpenAICompatible


@dataclass(frozen=True)
class Openai(OpenAICompatible):
    pass
