"""Which price holds for a request, and when."""

from __future__ import annotations

from datetime import UTC, datetime

import pytest

from gateway.tariffs import Change, Days, Hours, Machine, Tariff, Zone
from routing_policies.base import Price

BASE = Price(input=1, output=3, cached=0.5)

OFF_PEAK = (  # DeepSeek's hours, which are half price
    Change(
        days=Days.from_yaml("mon-fri"),
        hours=Hours.from_yaml(["00:00-01:00", "04:00-06:00", "10:00-24:00"]),
        times=0.5,
    ),
    Change(days=Days.from_yaml(["sat", "sun"]), times=0.5),
)


def at(text: str) -> float:
    return datetime.fromisoformat(text).replace(tzinfo=UTC).timestamp()


MONDAY_NOON = at("2026-11-23T12:00")


def price(*changes: Change, prompt: int = 100, tier: str | None = None, now: float = MONDAY_NOON):
    return Tariff(BASE, changes).at(now, prompt, tier)


def test_without_changes_it_is_the_same_always() -> None:
    assert price() is BASE


@pytest.mark.parametrize(("prompt", "input_"), [(1000, 1), (1001, 2)])
def test_a_longer_prompt_costs_other_rates_and_what_is_not_said_stays(prompt, input_) -> None:
    longer = Change(prompt_above=1000, input=2)
    assert price(longer, prompt=prompt) == Price(input=input_, output=3, cached=0.5)


@pytest.mark.parametrize(("tier", "times"), [(None, 1), ("flex", 1), ("priority", 1.5)])
def test_a_service_tier_costs_a_multiple(tier, times) -> None:
    assert price(Change(service_tier="priority", times=1.5), tier=tier) == Price(
        input=times, output=3 * times, cached=0.5 * times
    )


@pytest.mark.parametrize(
    ("time", "times"),
    [
        ("2026-11-23T00:59", 0.5),
        ("2026-11-23T01:00", 1),  # a Monday
        ("2026-11-23T05:59", 0.5),
        ("2026-11-23T09:59", 1),
        ("2026-11-23T23:59", 0.5),
        ("2026-11-28T02:00", 0.5),  # a Saturday
    ],
)
def test_hours_and_days_are_windows(time: str, times: float) -> None:
    assert price(*OFF_PEAK, now=at(time)).input == times


@pytest.mark.parametrize(
    ("time", "holds"), [("T21:59", False), ("T22:00", True), ("T05:59", True), ("T06:00", False)]
)
def test_a_window_may_go_over_midnight(time: str, holds: bool) -> None:
    night = Change(hours=Hours.from_yaml("22:00-06:00"), times=0)
    assert (price(night, now=at(f"2026-11-23{time}")).input == 0) is holds


def test_a_window_is_of_its_time_zone() -> None:
    morning = Change(
        hours=Hours.from_yaml("20:00-21:00"), timezone=Zone.from_yaml("Asia/Shanghai"), times=2
    )
    assert price(morning, now=at("2026-11-23T12:30")).input == 2  # 20:30 there
    assert price(morning, now=at("2026-11-23T20:30")).input == 1


def test_every_change_that_holds_is_applied_in_order() -> None:
    changes = (Change(prompt_above=10, input=4), Change(service_tier="priority", times=1.5))
    assert price(*changes, tier="priority").input == 6


def test_without_a_price_for_cached_tokens_they_cost_what_the_others_do() -> None:
    tariff = Tariff(Price(input=1), (Change(prompt_above=10, input=2),))
    assert tariff.at(0, 100).dollars(0, 1e6, 0) == 2


def test_a_start_is_paid_until_the_machine_would_stop_again() -> None:
    assert Machine(3.6, stops_after_s=300, starts_in_s=100).start_usd() == pytest.approx(0.4)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Change(input=1), "needs one of: prompt_above"),
        (lambda: Change(prompt_above=1, input=-1), "not negative"),
        (lambda: Change(prompt_above=1, times=-1), "not negative"),
        (lambda: Days.from_yaml("monday"), "days like mon-fri"),
        (lambda: Days.from_yaml([]), "a list of texts"),
        (lambda: Hours.from_yaml("9-17"), "windows like 10:00-24:00"),
        (lambda: Hours.from_yaml("24:00-25:00"), "windows like"),
        (lambda: Zone.from_yaml("Mars/Olympus"), "time zone like UTC"),
        (lambda: Zone.from_yaml(["UTC"]), "time zone like UTC"),
        (lambda: Zone.from_yaml("../../etc/passwd"), "time zone like UTC"),
    ],
)
def test_what_is_wrong_is_said(make, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make()


def test_days_go_round() -> None:
    assert Days.from_yaml("fri-mon") == {4, 5, 6, 0}
