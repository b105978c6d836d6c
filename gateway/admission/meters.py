"""
What is counted against a limit, and the arithmetic of it.

Three kinds of meter, each with one number as its whole state, so that a store can hold it and a
script can move it at once:

- RATE, so much per window: a token bucket that holds `limit` and refills evenly. Its number is the
  time at which it will be full again (GCRA's theoretical arrival time, ITU-T I.371). A charge
  larger than the bucket passes on a full one alone; the debt is paid off before anything else is.
- SPEND, so much per calendar window: a sum, under a key that names the day or month (UTC).
- HELD, so much at a time: a sum that goes down again.

Times are seconds of one clock that all who share a meter agree on.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import NamedTuple, Protocol

HELD_RETRY_S = 1.0
"""When something held will be free nobody knows: what a client is told instead."""


class Kind(StrEnum):
    RATE = "rate"
    SPEND = "spend"
    HELD = "held"


@dataclass(frozen=True, slots=True)
class Meter:
    key: str
    kind: Kind
    limit: float
    window_s: float = 0.0  # of a RATE
    ends: float = 0.0  # of a SPEND: when its calendar window is over


class Charge(NamedTuple):
    meter: Meter
    amount: float
    at_most: bool = False  # less is taken where less is left, down to nothing


class Verdict(NamedTuple):
    """All charges were made, or none was."""

    granted: tuple[float, ...]  # of each charge; less than its amount only where it is `at_most`
    left: tuple[float, ...]  # on each meter, after it
    now: float
    refused_by: int | None = None  # the first charge that did not fit
    retry_after_s: float | None = None
    alone: bool = False  # decided without the store that the meters are in
    closed: bool = False  # refused because that could not be asked


class Meters(Protocol):
    """Where the numbers are. Nothing here raises for a store that is away."""

    async def take(self, charges: Sequence[Charge], deadline_s: float | None = None) -> Verdict:
        """`deadline_s`: for whoever has more time than a request has."""
        ...

    def peek(self, charges: Sequence[Charge]) -> Verdict:
        """What `take` would answer by what is known here. Takes nothing, and never waits."""
        ...

    def give(self, charges: Sequence[Charge]) -> None:
        """Correct what was taken: negative amounts give back. Never waits."""
        ...

    def now(self) -> float: ...


def used(meter: Meter, number: float, now: float) -> float:
    """Units of the limit that are not to be had now."""
    if meter.kind is not Kind.RATE:
        return number
    return (number - now) * meter.limit / meter.window_s if number > now else 0.0


def moved(meter: Meter, number: float, amount: float, now: float) -> float:
    """The meter's number after `amount` more, or less."""
    if meter.kind is not Kind.RATE:
        return max(0.0, number + amount)
    return max(now, number) + amount * meter.window_s / meter.limit


def reset_s(meter: Meter, left: float, now: float) -> float:
    """Until the meter is as new, if nothing more comes."""
    if meter.kind is Kind.RATE:
        return max(0.0, meter.limit - left) * meter.window_s / meter.limit
    return max(0.0, meter.ends - now) if meter.kind is Kind.SPEND else 0.0


def judge(charges: Sequence[Charge], numbers: Mapping[str, float], now: float) -> Verdict:
    """What `take` answers; `numbers` as they are before it."""
    granted, left = [], []
    for index, charge in enumerate(charges):
        meter, amount, at_most = charge
        room = meter.limit - used(meter, numbers.get(meter.key, 0.0), now)
        if amount > room:
            if at_most:
                amount = max(0.0, room)
            elif room < _needed(charge):
                return _refused(charges, numbers, now, index, _wait(charge, room, now))
        granted.append(amount)
        left.append(room - amount)
    return Verdict(tuple(granted), tuple(left), now)


def _refused(
    charges: Sequence[Charge], numbers: Mapping[str, float], now: float, by: int, wait_s: float
) -> Verdict:
    meters = [charge.meter for charge in charges]
    left = tuple(m.limit - used(m, numbers.get(m.key, 0.0), now) for m in meters)
    return Verdict((0.0,) * len(charges), left, now, by, wait_s)


def _needed(charge: Charge) -> float:
    # A hair less: sums of floats must not refuse the last whole unit.
    wanted = min(charge.amount, charge.meter.limit)
    return wanted - 1e-6 * max(1.0, wanted)


def _wait(charge: Charge, room: float, now: float) -> float:
    meter = charge.meter
    if meter.kind is Kind.RATE:
        return (min(charge.amount, meter.limit) - room) * meter.window_s / meter.limit
    return max(0.0, meter.ends - now) if meter.kind is Kind.SPEND else HELD_RETRY_S
