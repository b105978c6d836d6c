"""
What one gateway knows of shared meters by itself: the numbers that the server had when it was last
heard, what this gateway took since without it, and what it holds now. From these it decides alone,
by its share: as if every living gateway took as much as this one.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass, field

from gateway.admission.meters import Charge, Kind, Meter, Verdict, judge, moved, used

CLOSED_RETRY_S = 0.2
"""What is refused because nobody can be asked may be asked again so soon."""


@dataclass(eq=False)
class Book:
    gateways: int = 1  # that were alive when the server was last heard
    held: dict[str, float] = field(default_factory=dict)  # by meter, here
    seen: dict[str, float] = field(default_factory=dict)  # the server's numbers
    _own: dict[str, float] = field(default_factory=dict)  # taken alone, times the gateways
    _meters: dict[str, Meter] = field(default_factory=dict)

    def alone(self, charges: Sequence[Charge], closed: Collection[Kind], now: float) -> Verdict:
        """Decided here, and noted. Of `closed` kinds nothing is granted."""
        for index, charge in enumerate(charges):
            if charge.meter.kind in closed and not charge.at_most:
                none = (0.0,) * len(charges)
                return Verdict(none, none, now, index, CLOSED_RETRY_S, alone=True, closed=True)
        share = self.gateways
        scaled = [c._replace(amount=c.amount * share) for c in charges]
        numbers = {c.meter.key: self._combined(c.meter, now) for c in charges}
        verdict = judge(scaled, numbers, now)
        granted = tuple(
            0.0 if c.meter.kind in closed else amount / share
            for c, amount in zip(charges, verdict.granted, strict=True)
        )
        if verdict.refused_by is None:
            self.hold(charges, granted)
            self.keep(amounting(charges, granted), now)
        left = tuple(room / share for room in verdict.left)
        return verdict._replace(granted=granted, left=left, alone=True)

    def peek(self, charges: Sequence[Charge], now: float) -> Verdict:
        return judge(charges, {c.meter.key: self._combined(c.meter, now) for c in charges}, now)

    def told(self, charges: Sequence[Charge], before: Sequence[float], now: float) -> Verdict:
        """The server has decided, with these numbers `before` it."""
        numbers = {c.meter.key: n for c, n in zip(charges, before, strict=True)}
        verdict = judge(charges, numbers, now)
        for charge, number, granted in zip(charges, before, verdict.granted, strict=True):
            meter = charge.meter
            self._meters[meter.key] = meter
            if meter.kind is not Kind.HELD:
                self.seen[meter.key] = moved(meter, number, granted, now) if granted else number
        return verdict

    def keep(self, charges: Sequence[Charge], now: float, sign: int = 1) -> None:
        """Taken, and not told to the server yet; -1: told after all."""
        for charge in charges:
            meter = charge.meter
            if meter.kind is not Kind.HELD:
                self._meters[meter.key] = meter
                amount = sign * charge.amount * self.gateways
                number = self._own.get(meter.key, 0.0)
                self._own[meter.key] = (
                    number + amount
                    if meter.kind is Kind.SPEND  # below zero: more was given back than taken
                    else moved(meter, number, amount, now)
                )

    def hold(self, charges: Sequence[Charge], amounts: Sequence[float]) -> None:
        """So much more of what is HELD, or less."""
        for charge, amount in zip(charges, amounts, strict=True):
            key = charge.meter.key
            if charge.meter.kind is Kind.HELD:
                self._meters[key] = charge.meter
                self.held[key] = max(0.0, self.held.get(key, 0.0) + amount)

    def untold(self, now: float) -> list[Charge]:
        """Of each meter, what the server does not know; of what is HELD, all of it."""
        return [Charge(meter, self._untold(meter, now)) for meter in self._meters.values()]

    def told_all(self, charges: Sequence[Charge], now: float) -> None:
        """The server knows these now."""
        self.keep(charges, now, sign=-1)
        for charge in charges:
            if charge.meter.kind is Kind.HELD and not self.held.get(charge.meter.key):
                self._drop(charge.meter.key)

    def forget(self, now: float, after_s: float) -> None:
        """Numbers that say nothing any more; of a calendar window, so long after its end."""
        for key, meter in list(self._meters.items()):
            newest = max(self.seen.get(key, 0.0), self._own.get(key, 0.0))
            if (meter.kind is Kind.SPEND and meter.ends + after_s < now) or (
                meter.kind is Kind.RATE and newest < now
            ):
                self._drop(key)

    def _combined(self, meter: Meter, now: float) -> float:
        """The number as this gateway must take it to be: what was last seen, and its own since."""
        if meter.kind is Kind.HELD:
            return self.held.get(meter.key, 0.0) * self.gateways
        seen, own = self.seen.get(meter.key, 0.0), self._own.get(meter.key, 0.0)
        if meter.kind is Kind.SPEND:
            return seen + own
        return max(seen, now) + max(0.0, own - now)

    def _untold(self, meter: Meter, now: float) -> float:
        if meter.kind is Kind.HELD:
            return self.held.get(meter.key, 0.0)
        own = self._own.get(meter.key, 0.0)
        amount = own if meter.kind is Kind.SPEND else used(meter, own, now)
        return amount / self.gateways

    def _drop(self, key: str) -> None:
        del self._meters[key]
        for numbers in (self.seen, self._own, self.held):
            numbers.pop(key, None)


def amounting(charges: Sequence[Charge], amounts: Sequence[float]) -> list[Charge]:
    return [c._replace(amount=a) for c, a in zip(charges, amounts, strict=True)]


def summed(charges: Sequence[Charge]) -> list[Charge]:
    """One charge for each meter."""
    sums: dict[str, Charge] = {}
    for charge in charges:
        key = charge.meter.key
        before = sums[key].amount if key in sums else 0.0
        sums[key] = Charge(charge.meter, charge.amount + before)
    return list(sums.values())
