"""By when a client wants its answer, or at least the beginning of it."""

from __future__ import annotations

import math
from collections.abc import Mapping
from contextlib import suppress
from typing import NamedTuple

from gateway.errors import InvalidRequest

TOTAL = "x-request-timeout"
"""Seconds for the whole exchange; ours to define, for SDKs' `extra_headers`."""

SILENCE = "x-stainless-read-timeout"
"""Seconds without a byte after which OpenAI's Python SDK, and those made like it, hang up."""


class Deadline(NamedTuple):
    """Seconds from the request's arrival."""

    first_event_s: float
    whole_s: float


def deadline(headers: Mapping[str, str], longest_s: float) -> Deadline:
    """Raises InvalidRequest."""
    whole = min(longest_s, _seconds(headers.get(TOTAL)))
    silence = math.inf
    with suppress(InvalidRequest):  # the SDK's own business, which no caller has written
        silence = _seconds(headers.get(SILENCE))
    return Deadline(min(whole, silence), whole)


def _seconds(text: str | None) -> float:
    if text is None:
        return math.inf
    try:
        seconds = float(text)
    except ValueError:
        seconds = math.nan
    if not seconds > 0:
        raise InvalidRequest(f"{TOTAL} must be a number of seconds", param=TOTAL)
    return seconds
