"""
What a tenant and a key may use, and the hold on it that a request has while it runs.

Everything is taken in one trip, before a place is chosen: requests and concurrent requests as they
are; tokens as expected; dollars as they would be where this request is dearest, as far as there are
any left. What is held of them is what the request may cost, which the policy sees; once a place is
chosen the rest is given back, and in the end, whatever ended it, what it did cost stands.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, fields
from datetime import UTC, datetime, timedelta
from itertools import islice

from gateway.admission.meters import Charge, Kind, Meter, Meters, Verdict, reset_s
from gateway.domain import Outcome, Principal, Quota
from gateway.errors import GatewayError, RateLimited, Unavailable

WINDOWS_S: Mapping[str, float] = {"second": 1, "minute": 60, "day": 86_400}


MOST_TOLD, TOLD_AT_ONCE, TOLD_WITHIN_S = 1000, 100, 1.0
"""Of budgets, to whoever asks for all: a label for each is as many as a scrape should have."""

HAIR_USD = 1e-9
"""Sums of floats must not refuse what a budget pays for to the last cent; no token is so cheap."""


@dataclass(frozen=True, slots=True)
class Windows:
    """So much in each; a bucket that refills evenly."""

    second: float | None = None
    minute: float | None = None
    day: float | None = None

    def __post_init__(self) -> None:
        for window in fields(self):
            limit = getattr(self, window.name)
            if limit is not None and not 0 < limit < math.inf:
                raise ValueError(f"the limit for a {window.name} must be more than 0")


@dataclass(frozen=True, slots=True)
class Dollars:
    """So much in each calendar day and month (UTC)."""

    day: float | None = None
    month: float | None = None

    def __post_init__(self) -> None:
        for window in fields(self):
            limit = getattr(self, window.name)
            if limit is not None and not 0 <= limit < math.inf:
                raise ValueError(f"the dollars for a {window.name} must not be negative")


@dataclass(frozen=True, slots=True)
class Limits:
    """What is left out is without limit."""

    requests: Windows = Windows()
    tokens: Windows = Windows()  # of prompts and answers
    concurrent: int | None = None
    dollars: Dollars = Dollars()

    def __post_init__(self) -> None:
        if self.concurrent is not None and self.concurrent < 1:
            raise ValueError("concurrent must be at least 1")


UNLIMITED = Limits()

TOLD = ("requests", "tokens")
"""What callers hear of, with each answer."""

MOST_KNOWN = 10_000
"""Callers whose meters are kept at hand."""


@dataclass(frozen=True, slots=True)
class Measured:
    """A meter, and what is measured with it of whom."""

    meter: Meter
    what: str  # requests, tokens, concurrent, dollars
    window: str
    whose: str  # tenant, key

    def __str__(self) -> str:
        limit = f"{self.meter.limit:g}"
        each = f" per {self.window}" if self.window else ""
        return f"the limit of {limit} {self.what}{each} of this {self.whose} is reached"


@dataclass(eq=False, slots=True)
class Hold:
    """What one request has taken, and holds for as long as it runs. `dollars` is what it may cost;
    None: as much as it likes."""

    dollars: float | None = None
    guessed: bool = False  # by this gateway's share: shared state was not asked
    _charges: Sequence[Charge] = ()
    _what: Sequence[str] = ()  # of each
    _held: list[float] = field(default_factory=list)  # likewise
    _give: Callable[[Sequence[Charge]], None] = lambda charges: None
    _used: Mapping[str, float] = field(default_factory=dict)

    def __enter__(self) -> Hold:
        return self

    def __exit__(self, *_: object) -> None:
        self.needs(concurrent=0.0, **self._used)

    def needs(self, **amounts: float) -> None:
        """Hold so much of each, and no more or less."""
        corrections = []
        for index, what in enumerate(self._what):
            held = self._held[index]
            if (amount := amounts.get(what, held)) != held:
                corrections.append(Charge(self._charges[index].meter, amount - held))
                self._held[index] = amount
        if corrections:
            self._give(corrections)

    def used(self, **amounts: float) -> None:
        """What is to stand of each in the end."""
        self._used = amounts


@dataclass(frozen=True, slots=True)
class Known:
    """The meters of a caller, as long as nobody has changed its limits and no day has ended."""

    meters: Sequence[Measured]
    what: Sequence[str]  # of each
    told: Sequence[tuple[str, Sequence[int]]]  # in headers: of which meters the closest
    tenant: Limits
    key: Limits
    since: float
    ends: float

    def hold(self, tenant: Limits, key: Limits, now: float) -> bool:
        return self.tenant is tenant and self.key is key and self.since <= now < self.ends

    def quotas(self, verdict: Verdict) -> tuple[Quota, ...]:
        """Of requests and of tokens, the limit that is closest."""
        found, left = [], verdict.left
        for what, indexes in self.told:
            closest = indexes[0]
            if len(indexes) > 1:
                closest = min(indexes, key=lambda i: left[i] / self.meters[i].meter.limit)
            meter, room = self.meters[closest].meter, left[closest]
            reset = reset_s(meter, room, verdict.now)
            found.append(Quota(what, meter.limit, max(0.0, room), reset))
        return tuple(found)


@dataclass
class Limiter:
    """A reload of the config puts other limits here."""

    meters: Meters
    tenants: Mapping[str, Limits] = field(default_factory=dict)
    keys: Mapping[str, Limits] = field(default_factory=dict)  # by name
    _known: dict[tuple[str, str], Known] = field(default_factory=dict, init=False)

    async def held(self, outcome: Outcome, tokens: float, dollars: float) -> Hold:
        """For as long as a request runs: `tokens` are expected, `dollars` the most it may cost.

        Raises RateLimited, or Unavailable where what limits it cannot be asked and must be.
        """
        known = self._known_of(outcome.principal)
        if not known.meters:
            return Hold()
        amounts = {"requests": 1.0, "tokens": tokens, "concurrent": 1.0, "dollars": dollars}
        charges = [Charge(m.meter, amounts[m.what], m.what == "dollars") for m in known.meters]
        verdict = await self.meters.take(charges)
        outcome.quotas = known.quotas(verdict)
        if verdict.refused_by is not None:
            raise _refusal(known.meters[verdict.refused_by], verdict)
        return _hold(known.what, charges, verdict, self.meters.give)

    async def balances(self) -> Sequence[tuple[str, str, float, float]]:
        """Tenant, window, dollars and what is left of them: of each budget, the first MOST_TOLD of
        them; of none while what gateways share is away."""
        every = (
            (name, measured)
            for name, limits in self.tenants.items()
            if limits.dollars != UNLIMITED.dollars
            for measured in self._of("tenant", name, Limits(dollars=limits.dollars))
        )
        spends = list(islice(every, MOST_TOLD))
        found = []
        for start in range(0, len(spends), TOLD_AT_ONCE):
            some = spends[start : start + TOLD_AT_ONCE]
            nothing = [Charge(measured.meter, 0.0, at_most=True) for _, measured in some]
            verdict = await self.meters.take(nothing, TOLD_WITHIN_S)
            if verdict.alone:
                break  # its own share is not what is left
            found += [
                (name, measured.window, measured.meter.limit, max(0.0, room))
                for (name, measured), room in zip(some, verdict.left, strict=True)
            ]
        return found

    def quotas(self, principal: Principal) -> tuple[Quota, ...]:
        """What is left, for an answer to who was never admitted; by what is known here."""
        known = self._known_of(principal)
        return known.quotas(self.meters.peek([Charge(m.meter, 0.0) for m in known.meters]))

    def _known_of(self, principal: Principal) -> Known:
        names = principal.tenant, principal.key_name
        tenant = self.tenants.get(principal.tenant, UNLIMITED)
        key = self.keys.get(principal.key_name, UNLIMITED)
        known = self._known.get(names)
        now = self.meters.now()  # which may go back: a server's, when it is heard again
        if known is not None and known.hold(tenant, key, now):
            return known
        measured = (
            *self._of("tenant", principal.tenant, tenant),
            *self._of("key", principal.key_name, key),
        )
        ends = min((m.meter.ends for m in measured if m.what == "dollars"), default=math.inf)
        if len(self._known) >= MOST_KNOWN:
            self._known.clear()
        what = [m.what for m in measured]
        told = [(w, [i for i, of in enumerate(what) if of == w]) for w in TOLD if w in what]
        known = self._known[names] = Known(measured, what, told, tenant, key, now, ends)
        return known

    def _of(self, whose: str, name: str, limits: Limits) -> Iterator[Measured]:
        if limits == UNLIMITED:
            return
        scope = f"{whose}:{name}"
        for what, windows in (("requests", limits.requests), ("tokens", limits.tokens)):
            for window, seconds in WINDOWS_S.items():
                limit = getattr(windows, window)
                if limit is not None:
                    # By its limit too: a bucket's number is a time, which means nothing to another.
                    key = f"{what}:{window}:{limit:g}:{scope}"
                    meter = Meter(key, Kind.RATE, limit, seconds)
                    yield Measured(meter, what, window, whose)
        if limits.concurrent is not None:
            meter = Meter(f"concurrent:{scope}", Kind.HELD, limits.concurrent)
            yield Measured(meter, "concurrent", "", whose)
        for window in ("day", "month"):
            limit = getattr(limits.dollars, window)
            if limit is not None:
                began, ends = calendar(window, self.meters.now())
                meter = Meter(f"dollars:{began}:{scope}", Kind.SPEND, limit, ends=ends)
                yield Measured(meter, "dollars", window, whose)


def calendar(window: str, now: float) -> tuple[str, float]:
    """The name of the day or month that `now` is in, and when it ends, in Unix seconds (UTC)."""
    today = datetime.fromtimestamp(now, UTC).replace(hour=0, minute=0, second=0, microsecond=0)
    if window == "day":
        return today.strftime("%Y-%m-%d"), (today + timedelta(days=1)).timestamp()
    first = today.replace(day=1)
    return first.strftime("%Y-%m"), (first + timedelta(days=32)).replace(day=1).timestamp()


def _hold(
    what: Sequence[str],
    charges: Sequence[Charge],
    verdict: Verdict,
    give: Callable[[Sequence[Charge]], None],
) -> Hold:
    granted = [*verdict.granted]
    dollars = [
        amount + HAIR_USD for of, amount in zip(what, granted, strict=True) if of == "dollars"
    ]
    may_cost = min(dollars) if dollars else None
    return Hold(may_cost, verdict.alone, charges, what, granted, give)


def _refusal(by: Measured, verdict: Verdict) -> GatewayError:
    if verdict.closed:
        return Unavailable("limits cannot be checked at the moment", retry_after_s=1.0)
    return RateLimited(str(by), retry_after_s=verdict.retry_after_s)
