"""Baseten's Model APIs."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from gateway.errors import UpstreamOverloaded
from gateway.providers.base import Traits
from gateway.providers.openai_compatible import OpenAICompatible
from gateway.providers.refusals import Meanings


@dataclass(frozen=True)
class Baseten(OpenAICompatible):
    URL: ClassVar[str | None] = "https://inference.baseten.co/v1"
    traits: ClassVar[Traits] = Traits()
    max_tokens_as: ClassVar[str | None] = "max_tokens"
    session_headers: ClassVar[tuple[str, ...]] = ("x-session-affinity",)
    meanings: ClassVar[Meanings] = {503: UpstreamOverloaded}
