"""When to come back, and how much is left: what response headers tell, in their many notations."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from email.utils import parsedate_to_datetime

LONGEST_S = 24 * 3600.0
"""Whoever says more has mistaken a unit, or is as good as gone."""


@dataclass(frozen=True, slots=True)
class Limits:
    """What is left of a limit before the endpoint will refuse; None: it does not say."""

    remaining_requests: float | None = None
    remaining_tokens: float | None = None
    reset_s: float | None = None  # until there is more of what there is least of

    @property
    def used_up(self) -> bool:
        left = (self.remaining_requests, self.remaining_tokens)
        return any(amount is not None and amount <= 0 for amount in left)


def parse_retry_after(headers: Mapping[str, str], now: float) -> float | None:
    """Seconds from `now`, a time since 1970: milliseconds, seconds, or a date (RFC 9110 §10.2.3).

    On a refusal for a limit, its reset says the same.
    """
    if (milliseconds := _number(headers.get("retry-after-ms", ""))) is not None:
        return _bounded(milliseconds / 1000)
    text = headers.get("retry-after", "")
    with suppress(ValueError, OverflowError):
        return _bounded(parsedate_to_datetime(text).timestamp() - now)
    if (seconds := parse_reset(text, now)) is not None:
        return seconds
    limits = parse_limits(headers, now)
    return limits.reset_s if limits.used_up else None


_UNITS = {"d": 86400.0, "h": 3600.0, "m": 60.0, "s": 1.0, "ms": 0.001, "us": 1e-6, "µs": 1e-6}
_PART = re.compile(r"([0-9]+(?:\.[0-9]+)?)(ms|us|µs|d|h|m|s)")


def parse_reset(text: str, now: float) -> float | None:
    """Seconds from `now`: `2m59.56s`, seconds, or a time since 1970 in seconds or milliseconds."""
    text = text.strip()
    if _PART.sub("", text) == "" and text:
        return _bounded(sum(float(amount) * _UNITS[unit] for amount, unit in _PART.findall(text)))
    value = _number(text)
    if value is None:
        return None
    if value > 1e11:
        value /= 1000
    return _bounded(value - now if value > 1e9 else value)


def parse_limits(headers: Mapping[str, str], now: float) -> Limits:
    """The tightest of each kind. `x-ratelimit-remaining-tokens-minute`, `x-tokenlimit-remaining`,
    `x-ratelimit-remaining`, … : whoever has the word token in its name counts those."""
    left: dict[str, float] = {}
    for name, value in headers.items():
        name = name.lower()
        if name.startswith(("x-ratelimit-", "x-tokenlimit-")) and "remaining" in name:
            amount = _number(value)
            if amount is not None and amount >= 0:  # some say -1 where there is no limit
                left[name] = amount
    if not left:
        return Limits()
    tokens = [amount for name, amount in left.items() if "token" in name]
    requests = [amount for name, amount in left.items() if "token" not in name]
    used_up = [name for name, amount in left.items() if amount <= 0]
    resets = (
        _reset_of(name, headers, now) for name in used_up or [min(left, key=left.__getitem__)]
    )
    return Limits(
        min(requests, default=None),
        min(tokens, default=None),
        max((reset for reset in resets if reset is not None), default=None),
    )


def _reset_of(name: str, headers: Mapping[str, str], now: float) -> float | None:
    own = name.replace("remaining", "reset")
    general = "x-ratelimit-reset"
    return parse_reset(headers.get(own) or headers.get(general) or "", now)


def _number(text: str) -> float | None:
    with suppress(ValueError):
        value = float(text)
        return value if math.isfinite(value) else None
    return None


def _bounded(seconds: float) -> float:
    return min(max(0.0, seconds), LONGEST_S)
