"""An endpoint of one's own at Together AI."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from gateway.errors import UpstreamCold
from gateway.providers.dialects.together import Together
from gateway.providers.refusals import Meanings


@dataclass(frozen=True)
class TogetherDedicated(Together):
    """Its models are PROJECT/ENDPOINT."""

    URL: ClassVar[str | None] = "https://api-inference.together.ai/v1"
    session_fields: ClassVar[tuple[str, ...]] = ("prompt_cache_key",)
    # No replica of it is ready, and it stays so until somebody starts one.
    meanings: ClassVar[Meanings] = {**Together.meanings, "routing_error": UpstreamCold}
