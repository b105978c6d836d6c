"""What a place asks for: rates that depend on the prompt, the service tier and the hour, and
machines paid by the hour.

A `Tariff` gives the one `Price` that holds for a request at a moment; nothing after it knows of
tiers and windows.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, tzinfo
from typing import Self
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

from routing_policies.base import FREE, Price

DAYS = ("mon", "tue", "wed", "thu", "fri", "sat", "sun")

WINDOW = re.compile(r"([01]\d|2[0-3]):([0-5]\d) *- *(?:([01]\d|2[0-3]):([0-5]\d)|24:00)")


class Days(frozenset[int]):
    """Days of the week, Monday being 0: `mon-fri`, or a list of such. Empty: every day."""

    @classmethod
    def from_yaml(cls, value: object) -> Self:
        days: set[int] = set()
        for text in _texts(value):
            first, _, last = text.partition("-")
            if first not in DAYS or (last or first) not in DAYS:
                raise ValueError(f"must be days like mon-fri, of: {', '.join(DAYS)}")
            start, end = DAYS.index(first), DAYS.index(last or first)
            days.update((start + step) % 7 for step in range((end - start) % 7 + 1))
        return cls(days)


class Hours(tuple[tuple[int, int], ...]):
    """Windows of the day, in minutes after midnight: `10:00-24:00`, or a list of such. One that
    ends before it begins goes over midnight. Empty: the whole day."""

    __slots__ = ()

    @classmethod
    def from_yaml(cls, value: object) -> Self:
        windows = []
        for text in _texts(value):
            match = WINDOW.fullmatch(text)
            if match is None:
                raise ValueError("must be windows like 10:00-24:00")
            begins = 60 * int(match[1]) + int(match[2])
            windows.append((begins, 60 * int(match[3] or 24) + int(match[4] or 0)))
        return cls(windows)

    def hold(self, minute: int) -> bool:
        return any(
            begins <= minute < ends if begins < ends else not ends <= minute < begins
            for begins, ends in self
        )


class Zone(str):
    """`UTC`, or a name of the time zone database: `Asia/Shanghai`."""

    __slots__ = ()

    @classmethod
    def from_yaml(cls, value: object) -> Self:
        try:
            ZoneInfo(str(value))
        except (ZoneInfoNotFoundError, ValueError, OSError):
            if value != "UTC":
                raise ValueError("must be a time zone like UTC or Asia/Shanghai") from None
        return cls(value)

    @property
    def info(self) -> tzinfo:
        return UTC if self == "UTC" else ZoneInfo(self)  # which keeps those that it has read


UTC_ZONE = Zone("UTC")


def _texts(value: object) -> list[str]:
    given: list[object] = value if isinstance(value, list) else [value]
    texts = [text for text in given if isinstance(text, str)]
    if not texts or len(texts) < len(given):
        raise ValueError("must be a text, or a list of texts")
    return texts


@dataclass(frozen=True, slots=True)
class Change:
    """Other rates where everything that is said of the request and the time holds. Of the rates,
    what is left out stays; `times` multiplies what then holds."""

    prompt_above: int | None = None  # tokens of the whole prompt
    service_tier: str | None = None
    days: Days = Days()
    hours: Hours = Hours()
    timezone: Zone = UTC_ZONE
    input: float | None = None
    output: float | None = None
    cached: float | None = None
    cache_write: float | None = None
    times: float = 1.0

    def __post_init__(self) -> None:
        said = (self.prompt_above, self.service_tier, self.days or None, self.hours or None)
        if all(condition is None for condition in said):
            raise ValueError("needs one of: prompt_above, service_tier, days, hours")
        rates = (self.input, self.output, self.cached, self.cache_write, self.times)
        if any(rate is not None and rate < 0 for rate in rates):
            raise ValueError("a price is not negative")

    def holds(self, prompt_tokens: int, service_tier: str | None, now: float) -> bool:
        return (
            (self.prompt_above is None or prompt_tokens > self.prompt_above)
            and self.service_tier in (None, service_tier)
            and (not (self.days or self.hours) or self._is_time(now))
        )

    def _is_time(self, now: float) -> bool:
        at = datetime.fromtimestamp(now, self.timezone.info)
        minute = 60 * at.hour + at.minute
        return (not self.days or at.weekday() in self.days) and (
            not self.hours or self.hours.hold(minute)
        )

    def applied(self, price: Price) -> Price:
        cached = price.cached if self.cached is None else self.cached
        return Price(
            input=_else(self.input, price.input) * self.times,
            output=_else(self.output, price.output) * self.times,
            cached=None if cached is None else cached * self.times,
            cache_write=_else(self.cache_write, price.cache_write) * self.times,
        )


def _else(said: float | None, known: float) -> float:
    return known if said is None else said


@dataclass(frozen=True, slots=True)
class Tariff:
    """What one model costs at one endpoint. Every change that holds is applied, in order."""

    price: Price = FREE
    changes: tuple[Change, ...] = ()

    def at(self, now: float, prompt_tokens: int, service_tier: str | None = None) -> Price:
        """`now`: seconds since 1970."""
        price = self.price
        for change in self.changes:
            if change.holds(prompt_tokens, service_tier, now):
                price = change.applied(price)
        return price


@dataclass(frozen=True, slots=True)
class Machine:
    """What is paid by the hour while it runs. While it does, one request more costs nothing."""

    dollars_per_hour: float
    stops_after_s: float | None = None  # without a request; None: it always runs
    starts_in_s: float = 60.0  # until it answers

    def start_usd(self) -> float:
        """A start's price: it runs at least until it would stop again."""
        return self.dollars_per_hour / 3600 * (self.starts_in_s + (self.stops_after_s or 0.0))


Tariffs = Mapping[str, Tariff]
"""By the clients' name of the model."""
