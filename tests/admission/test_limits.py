"""Budgets at the borders of days and months, to the last cent."""

from __future__ import annotations

from datetime import UTC, datetime

import pytest

from gateway.admission.limits import Dollars, Limiter, Limits, Windows, calendar
from gateway.domain import Outcome, Principal
from gateway.errors import RateLimited
from gateway.state.connect import connect
from gateway.state.memory import MemoryMeters
from gateway.state.shared import SharedMeters
from tests.support.clock import ManualClock

pytestmark = pytest.mark.anyio


def at(text: str) -> float:
    return datetime.fromisoformat(text).replace(tzinfo=UTC).timestamp()


def limiter(clock: ManualClock, limits: Limits) -> Limiter:
    return Limiter(MemoryMeters(clock), {"acme": limits})


def outcome() -> Outcome:
    return Outcome("r", Principal("acme", "key"), 0.0)


async def spend(limits: Limiter, most: float, billed: float) -> float | None:
    """What a request may cost; then what it did cost."""
    with await limits.held(outcome(), 0, most) as hold:
        hold.used(dollars=billed)
        return hold.dollars


@pytest.mark.parametrize(
    ("window", "now", "name", "ends"),
    [
        ("day", "2026-11-25T23:59:59.999", "2026-11-25", "2026-11-26"),
        ("day", "2026-11-26T00:00:00", "2026-11-26", "2026-11-27"),
        ("day", "2028-02-28T12:00", "2028-02-28", "2028-02-29"),
        ("month", "2028-02-29T23:59:59.999", "2028-02", "2028-03-01"),
        ("month", "2026-01-31T12:00", "2026-01", "2026-02-01"),
        ("month", "2026-12-31T23:59:59.999", "2026-12", "2027-01-01"),
        ("month", "2027-01-01T00:00", "2027-01", "2027-02-01"),
    ],
)
def test_days_and_months_are_the_calendars(window: str, now: str, name: str, ends: str) -> None:
    assert calendar(window, at(now)) == (name, at(ends))


async def test_midnight_brings_another_days_budget_and_the_months_goes_on() -> None:
    clock = ManualClock(at("2026-11-25T23:59:59"))
    limits = limiter(clock, Limits(dollars=Dollars(day=1.0, month=1.5)))
    await spend(limits, 1.0, 1.0)
    assert await spend(limits, 1.0, 0.0) == pytest.approx(0, abs=1e-6)
    clock.advance(2)
    assert await spend(limits, 1.0, 0.0) == pytest.approx(0.5)
    clock.now = at("2026-12-01T00:00:01")
    assert await spend(limits, 1.0, 0.0) == pytest.approx(1.0)


async def test_what_ends_after_midnight_is_settled_where_it_was_held() -> None:
    clock = ManualClock(at("2026-11-25T23:59:59"))
    limits = limiter(clock, Limits(dollars=Dollars(day=1.0)))
    with await limits.held(outcome(), 0, 0.9) as hold:
        clock.advance(5)
        assert await spend(limits, 1.0, 0.0) == pytest.approx(1.0), "the new day's is whole"
        hold.used(dollars=0.2)
    assert await spend(limits, 1.0, 0.0) == pytest.approx(1.0)
    clock.advance(-5)
    assert await spend(limits, 1.0, 0.0) == pytest.approx(0.8)


@pytest.mark.parametrize("each", [0.001, 0.01, 0.1, 1 / 3])
async def test_a_budget_pays_for_the_last_of_its_parts_and_for_no_more(each: float) -> None:
    limits = limiter(ManualClock(at("2026-11-25")), Limits(dollars=Dollars(month=each * 300)))
    may_cost = [await spend(limits, each, each) for _ in range(301)]
    assert all(dollars is not None and dollars >= each for dollars in may_cost[:300])
    assert may_cost[300] == pytest.approx(0, abs=1e-6)


async def test_requests_of_a_second_and_a_day_count_at_once() -> None:
    clock = ManualClock(at("2026-11-25"))
    limits = limiter(clock, Limits(requests=Windows(second=2, day=3)))
    waits = []
    for _ in range(5):
        try:
            await spend(limits, 0, 0)
        except RateLimited as error:
            waits.append(error.retry_after_s)
            clock.advance(1)
    assert waits[0] == pytest.approx(0.5)
    assert waits[1] == pytest.approx(86_400 / 3 - 1)


async def test_a_limit_that_is_reached_is_a_429_while_what_is_shared_is_lost_too() -> None:
    redis = connect("redis://127.0.0.1:1")  # nobody is there
    limits = Limiter(SharedMeters(redis, "g"), {"acme": Limits(concurrent=1)})
    with await limits.held(outcome(), 0, 0), pytest.raises(RateLimited, match="1 concurrent"):
        await limits.held(outcome(), 0, 0)
    with await limits.held(outcome(), 0, 0):
        pass
    await redis.aclose()
