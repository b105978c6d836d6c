"""What an attempt cost us, and how we know."""

from __future__ import annotations

import pytest

from gateway.domain import Attempt, BilledBy, Outcome, Principal, Usage
from gateway.fleet.endpoint import Endpoint
from gateway.fleet.fleet import Fleet
from gateway.fleet.placement import PlacementIndex
from gateway.tariffs import Change, Machine, Tariff
from routing_policies.base import Price
from tests.support.clock import ManualClock
from tests.support.providers import Silent
from tests.support.requests import chat

PRICED = Tariff(
    Price(input=1, output=3, cached=0.5),
    (Change(prompt_above=10_000, times=2), Change(service_tier="priority", times=1.5)),
)


class World:
    def __init__(self, machine: Machine | None = None) -> None:
        self.clock, self.wall = ManualClock(), ManualClock(0)
        self.endpoint = Endpoint(
            "a", frozenset("m"), provider=Silent(), tariffs={"m": PRICED}, machine=machine
        )
        self.fleet = Fleet([self.endpoint], PlacementIndex(), self.clock, self.wall)

    def candidate(self, **fields):
        _, (candidate,), _ = self.fleet.snapshot(chat("x" * 400, **fields))
        return candidate

    def billed(self, usage: Usage | None, *attempts: Attempt, **fields) -> list[tuple]:
        outcome = Outcome("id", Principal("acme", "key"), 0.0, request=chat(**fields))
        outcome.attempts = list(attempts) or [Attempt("a", 0.0, first_event=1.0)]
        outcome.attempts[-1].billed = usage
        self.fleet.bill(outcome)
        return [(attempt.billed_usd, attempt.billed_by) for attempt in outcome.attempts]


@pytest.mark.parametrize(
    ("usage", "dollars"),
    [
        (Usage(10_000, 0), 0.01),
        (Usage(10_000, 1_000), 0.013),
        (Usage(10_000, 0, cached_tokens=4_000), 0.008),
        (Usage(20_000, 0), 0.04),  # by the prompt that was counted
        (Usage(10_000, 0, service_tier="priority"), 0.015),  # by the tier that answered
    ],
)
def test_told_tokens_are_billed_at_the_rates_that_hold_for_them(usage, dollars) -> None:
    ((billed, by),) = World().billed(usage)
    assert billed == pytest.approx(dollars)
    assert by is BilledBy.TARIFF


def test_the_tier_that_was_asked_for_counts_where_no_other_is_told() -> None:
    assert World().billed(Usage(10_000, 0), service_tier="priority")[0][0] == pytest.approx(0.015)
    told = Usage(10_000, 0, service_tier="default")
    assert World().billed(told, service_tier="priority")[0][0] == pytest.approx(0.01)


def test_the_endpoints_own_word_wins_over_the_table() -> None:
    assert World().billed(Usage(10_000, 0, cost_usd=0.5)) == [(0.5, BilledBy.REPORT)]


def test_what_broke_off_is_billed_as_expected_and_what_was_refused_is_not() -> None:
    refused = Attempt("a", 0.0, expected_cost_usd=1.0)
    broken = Attempt("a", 0.0, expected_cost_usd=0.2, first_event=1.0)
    assert World().billed(None, refused, broken) == [(0.0, None), (0.2, BilledBy.ESTIMATE)]


def test_a_candidates_price_is_the_one_of_this_request() -> None:
    world = World()
    assert world.candidate().price.input == 1
    assert world.candidate(service_tier="priority").price.input == 1.5


def test_a_machine_that_stands_still_costs_its_start_and_one_that_runs_costs_nothing() -> None:
    world = World(Machine(dollars_per_hour=36, stops_after_s=90, starts_in_s=10))
    assert world.candidate().start_usd == pytest.approx(1.0)
    assert world.candidate().start_s == 10
    world.fleet.sent(chat(), "a")
    with world.endpoint.lease(0, world.clock()):
        world.clock.advance(4)
        waiting = world.candidate()
        assert (waiting.start_usd, waiting.start_s) == (0, 6)  # it is on its way
    world.endpoint.answered(world.clock())
    assert (world.candidate().start_usd, world.candidate().start_s) == (0, 0)
    world.clock.advance(89)
    assert world.candidate().start_usd == 0
    world.clock.advance(1)
    assert world.candidate().start_usd > 0


def test_a_machine_that_always_runs_is_no_cost_of_a_request() -> None:
    assert World(Machine(dollars_per_hour=36)).candidate().start_usd == 0


def test_a_start_teaches_nothing_of_the_speed() -> None:
    world = World(Machine(dollars_per_hour=36, stops_after_s=90))
    outcome = Outcome("id", Principal("acme", "key"), 0.0, request=chat(stream=True))
    outcome.attempts = [Attempt("a", 0.0, first_event=60.0, last_event=61.0, start_s=60.0)]
    outcome.usage = Usage(10, 10)
    world.fleet.settled(outcome)
    assert world.endpoint.learning.coefficients.samples == 0
    assert not world.endpoint.stopped(now=61.0)
