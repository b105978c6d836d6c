"""Budgets, in numbers that can be followed by hand: 3600 dollars an hour, so one each second."""

from __future__ import annotations

import pytest

from gateway.domain import Attempt, Outcome, Principal, Usage
from gateway.fleet.endpoint import Endpoint
from gateway.fleet.fleet import Fleet
from gateway.fleet.placement import PlacementIndex
from gateway.pacer import Pacer, Pacers
from gateway.tariffs import Tariff
from routing_policies.base import Price
from routing_policies.build import build_policy
from routing_policies.catalog import Catalog
from routing_policies.policy import Budget, Policy
from tests.support.clock import ManualClock
from tests.support.requests import chat

BUDGET = Budget(dollars_per_hour=3600, patience_s=60)


def multipliers(*spent: tuple[float, float]) -> list[float]:
    """λ after each of `(now, dollars)`."""
    pacer, seen = Pacer(BUDGET, now=0), []
    for now, dollars in spent:
        pacer.spent(dollars, now)
        seen.append(pacer.multiplier(now))
    return seen


def test_spending_as_the_budget_allows_costs_nothing_more() -> None:
    assert multipliers((1, 1), (2, 1), (12, 10), (30, 3), (40, 10)) == [0, 0, 0, 0, 0]


def test_what_is_spent_ahead_makes_dollars_dearer_by_one_for_each_patience() -> None:
    assert multipliers((0, 60)) == [1]
    assert multipliers((10, 40), (20, 40)) == [0.5, 1]  # 30 s ahead, then 60 s


def test_time_without_spending_makes_them_cheaper_again() -> None:
    pacer = Pacer(BUDGET, now=0)
    pacer.spent(90, now=0)
    assert [pacer.multiplier(now) for now in (0, 30, 60, 90, 900)] == [1.5, 1, 0.5, 0, 0]


def test_what_was_saved_is_not_kept_for_later() -> None:
    assert multipliers((3600, 0), (3600, 60)) == [0, 1]


def test_no_more_than_an_hours_budget_is_paid_off() -> None:
    assert multipliers((0, 1e9)) == [60]


class World:
    def __init__(self, **budget: object) -> None:
        self.clock = ManualClock()
        price = Price(input=1, output=3, cached=0.5)
        endpoint = Endpoint("a", frozenset("m"), tariffs={"m": Tariff(price)})
        self.fleet = Fleet([endpoint], PlacementIndex(), self.clock)
        self.pacers = Pacers(self.clock)
        self.policy = policy(**budget)
        self.pacers.use({"mine": self.policy})

    def settle(self, usage: Usage | None, **attempt: float) -> float:
        """What λ becomes by an exchange."""
        outcome = Outcome("id", Principal("acme", "key"), 0.0, policy="mine", request=chat())
        outcome.attempts.append(Attempt("a", 0.0, expected_cost_usd=0.002, **attempt))
        outcome.attempts[-1].billed = usage
        self.fleet.bill(outcome)
        self.pacers.settled(outcome)
        return self.pacers.multiplier("mine")


def policy(**budget: object) -> Policy:
    spec = {"minimize": {"dollars": 1}, "pick": "lowest", "budget": budget or None}
    return build_policy("mine", spec, Catalog.load())


CENT_A_MINUTE = {"dollars_per_hour": 0.6, "patience": "1m"}


@pytest.mark.parametrize(
    ("usage", "attempt", "multiplier"),
    [
        (Usage(10_000, 0), {"first_event": 1.0}, 1.0),  # a cent
        (Usage(10_000, 1_000), {"first_event": 1.0}, 1.3),
        (Usage(10_000, 0, cached_tokens=4_000), {"first_event": 1.0}, 0.8),
        (Usage(10_000, 0, cached_tokens=90_000), {"first_event": 1.0}, 0.5),  # it counts oddly
        (None, {"first_event": 1.0}, 0.2),  # broke off: as expected
        (None, {}, 0.0),  # refused
    ],
)
def test_an_exchange_counts_as_it_was_billed(
    usage: Usage | None, attempt: dict[str, float], multiplier: float
) -> None:
    assert World(**CENT_A_MINUTE).settle(usage, **attempt) == pytest.approx(multiplier)


def test_a_policy_without_a_budget_has_dollars_that_stay_what_they_are() -> None:
    assert World().settle(Usage(10_000, 0), first_event=1.0) == 0


def test_another_budget_of_the_same_policy_goes_on_where_it_is() -> None:
    world = World(**CENT_A_MINUTE)
    world.settle(Usage(10_000, 0), first_event=1.0)
    world.pacers.use({"mine": policy(dollars_per_hour=1.2, patience="2m")})
    world.clock.advance(60)
    assert world.pacers.multiplier("mine") == pytest.approx(0.5)
    world.pacers.use({"other": world.policy})
    assert world.pacers.multiplier("mine") == 0


def test_what_is_left_is_an_hours_budget_less_what_was_spent_ahead() -> None:
    pacer = Pacer(BUDGET, now=0)
    assert pacer.left_usd(now=0) == 3600
    pacer.spent(600, now=0)
    assert pacer.left_usd(now=0) == pytest.approx(3000)
    assert pacer.left_usd(now=100) == pytest.approx(3100)
    pacer.spent(1e9, now=100)
    assert pacer.left_usd(now=100) == pytest.approx(0)
