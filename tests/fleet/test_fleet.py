"""What the fleet believes, and how answers correct it."""

from __future__ import annotations

import dataclasses

import pytest

from gateway.domain import Attempt, InferenceRequest, Outcome, Principal, ReplicaReport, Usage
from gateway.fleet.endpoint import Endpoint
from gateway.fleet.fleet import Fleet
from gateway.fleet.placement import Match, PlacementIndex
from gateway.fleet.tokens import FIRST_GUESS
from tests.support.clock import ManualClock
from tests.support.providers import Silent
from tests.support.requests import chat, completion

CLOCK_START = 1000.0
LONG = chat("x" * 4000)
OTHER = chat("y" * 4000)


class World:
    """A fleet of two endpoints `a` and `b`, and a clock that goes when told to."""

    def __init__(self) -> None:
        self.clock = ManualClock(CLOCK_START)
        endpoints = [Endpoint(name, frozenset("m"), provider=Silent()) for name in "ab"]
        self.fleet = Fleet(endpoints, PlacementIndex(), self.clock)

    def cached(self, request: InferenceRequest, endpoint: str = "a") -> int:
        """Tokens of the request's prompt that are expected there."""
        _, candidates, _ = self.fleet.snapshot(request)
        return next(c.cached_tokens for c in candidates if c.endpoint == endpoint)

    def begin(self, request: InferenceRequest, endpoint: str = "a") -> Outcome:
        """What the dispatcher does when it sends a request."""
        _, _, matches = self.fleet.snapshot(request)
        match = matches.get(endpoint, Match(0, None, 0.0))
        attempt = Attempt(
            endpoint,
            self.clock(),
            matched_size=match.size,
            matched_tokens=match.tokens,
            matched_touched=match.touched,
        )
        self.fleet.sent(request, endpoint)
        outcome = Outcome("r", Principal("acme", "k"), self.clock(), request=request)
        outcome.attempts.append(attempt)
        return outcome

    def end(
        self,
        outcome: Outcome,
        *,
        prompt: int = 1000,
        cached: int | None = 0,
        report: ReplicaReport | None = None,
    ) -> None:
        outcome.usage = Usage(prompt, 10, cached)
        outcome.report = report
        self.fleet.settled(outcome)

    def serve(self, request: InferenceRequest, at: float, *, cached: int = 0) -> None:
        """One exchange with replica `a`, begun and ended at the same time."""
        self.clock.now = CLOCK_START + at
        self.end(self.begin(request), cached=cached, report=report())


def report(epoch: str = "first", horizon_age_s: float | None = None) -> ReplicaReport:
    return ReplicaReport(epoch, 0, 0, horizon_age_s)


@pytest.fixture
def world() -> World:
    return World()


def test_models_are_listed_once_in_the_configs_order() -> None:
    endpoints = [Endpoint("a", frozenset({"z", "m"})), Endpoint("b", frozenset({"m", "a"}))]
    assert Fleet(endpoints, PlacementIndex(), ManualClock()).models() == ["m", "z", "a"]


def test_it_is_ready_while_anyone_is_known_to_answer(world: World) -> None:
    assert not world.fleet.ready(), "nobody has answered anything yet"
    for endpoint in world.fleet.endpoints.values():
        endpoint.reached = True
    for endpoint in world.fleet.endpoints.values():
        assert world.fleet.ready()
        endpoint.down("gone")
    assert not world.fleet.ready()


def test_a_snapshot_has_everyone_with_the_request_in_tokens(world: World) -> None:
    world.fleet.endpoints["b"].down("gone")
    request, candidates, matches = world.fleet.snapshot(chat("x" * 4000, max_tokens=7))
    assert request.prompt_tokens == round(LONG.prompt_size * FIRST_GUESS)
    assert (request.model, request.max_tokens) == ("m", 7)
    assert [(c.endpoint, c.healthy, c.cached_tokens) for c in candidates] == [
        ("a", True, 0),
        ("b", False, 0),
    ]
    assert matches == {}


@pytest.mark.parametrize("most", [0, 1, 7])
def test_no_more_is_expected_than_was_asked_for(world: World, most: int) -> None:
    assert world.fleet.expected(completion(max_tokens=most)).output_tokens == most


def test_the_next_of_a_burst_finds_what_was_only_just_sent(world: World) -> None:
    world.fleet.sent(LONG, "a")
    assert world.cached(LONG, "a") == round(LONG.prompt_size * FIRST_GUESS)
    assert world.cached(LONG, "b") == 0


def test_an_answer_tells_how_many_tokens_it_was(world: World) -> None:
    world.end(world.begin(LONG), prompt=500)
    assert world.cached(LONG) == 500
    longer = chat("x" * 4000, "I see.", "And then?")
    assert world.cached(longer) == 500
    assert world.fleet.snapshot(longer)[0].prompt_tokens > 500


def test_what_came_to_nothing_is_taken_back(world: World) -> None:
    attempt = world.begin(LONG).attempts[0]
    world.fleet.failed(LONG, attempt)
    assert world.cached(LONG) == 0


def test_what_was_there_before_an_attempt_failed_is_still_there(world: World) -> None:
    world.end(world.begin(LONG), prompt=500)
    longer = chat("x" * 4000, "I see.", "And then?")
    world.fleet.failed(longer, world.begin(longer).attempts[0])
    assert world.cached(longer) == 500


@pytest.mark.parametrize("missing", ["attempts", "request", "usage"])
def test_an_exchange_that_told_nothing_teaches_nothing(world: World, missing: str) -> None:
    outcome = world.begin(LONG)
    outcome.usage = Usage(7, 1, 0)
    setattr(outcome, missing, [] if missing == "attempts" else None)
    before = world.fleet.snapshot(LONG)
    world.fleet.settled(outcome)
    assert world.fleet.snapshot(LONG) == before


def test_usage_that_counts_no_prompt_teaches_nothing(world: World) -> None:
    before = world.cached(LONG), world.fleet.snapshot(LONG)[0]
    outcome = world.begin(LONG)
    world.end(outcome, prompt=0)
    assert world.fleet.snapshot(LONG)[0] == before[1]
    assert world.cached(LONG) == round(LONG.prompt_size * FIRST_GUESS)  # as sent, not yet told


def test_only_the_last_attempt_gave_the_answer(world: World) -> None:
    outcome = world.begin(LONG, "a")
    world.fleet.failed(LONG, outcome.attempts[0])
    outcome.attempts.extend(world.begin(LONG, "b").attempts)
    world.end(outcome, prompt=500)
    assert (world.cached(LONG, "a"), world.cached(LONG, "b")) == (0, 500)


# A replica that started anew.


def test_another_epoch_voids_what_was_placed_before_it_was_asked(world: World) -> None:
    world.serve(OTHER, at=0)
    world.serve(LONG, at=10)
    world.clock.now = CLOCK_START + 20
    outcome = world.begin(LONG)
    world.clock.advance(5)
    world.end(outcome, report=report("second"))
    assert world.cached(OTHER) == 0
    assert world.cached(LONG) == 1000  # this answer's own prompt is there
    assert world.fleet.endpoints["a"].epoch == "second"


def test_what_was_sent_after_it_was_asked_may_be_the_new_ones(world: World) -> None:
    world.fleet.reported("a", report("first"), asked=world.clock())
    world.clock.advance(10)
    asked = world.clock()
    world.clock.advance(1)
    world.fleet.sent(LONG, "a")
    world.fleet.reported("a", report("second"), asked=asked)
    assert world.cached(LONG) > 0


def test_the_first_epoch_voids_nothing(world: World) -> None:
    world.fleet.sent(LONG, "a")
    world.clock.advance(1)
    world.fleet.reported("a", report("first"), asked=world.clock())
    assert world.cached(LONG) > 0


def test_one_replicas_restart_is_no_others(world: World) -> None:
    world.fleet.sent(LONG, "b")
    for epoch in ("first", "second"):
        world.clock.advance(1)
        world.fleet.reported("a", report(epoch), asked=world.clock())
    assert world.cached(LONG, "b") > 0


# Its eviction horizon.


def test_what_was_touched_before_the_horizon_is_gone(world: World) -> None:
    world.serve(OTHER, at=0)
    world.serve(LONG, at=10)
    world.clock.now = CLOCK_START + 30
    world.fleet.reported("a", report(horizon_age_s=25.0), asked=world.clock())  # evicted up to 5
    assert (world.cached(OTHER), world.cached(LONG)) == (0, 1000)


@pytest.mark.parametrize(("stream", "dated"), [(True, 1.0), (False, 0.0)])
def test_a_belief_is_dated_no_later_than_the_touch_that_it_is_about(
    world: World, stream: bool, dated: float
) -> None:
    """When the endpoint let go of the blocks we cannot know; the first event was before that."""
    request = chat("x" * 4000, stream=stream)
    outcome = world.begin(request)
    outcome.attempts[0].first_event = CLOCK_START + 1
    world.clock.advance(10)
    world.end(outcome, report=report())
    world.fleet.reported("a", report(horizon_age_s=10 - dated), asked=world.clock())
    assert world.cached(request) == 1000
    world.fleet.reported("a", report(horizon_age_s=10 - dated - 0.5), asked=world.clock())
    assert world.cached(request) == 0


# An answer with fewer cached tokens than another had promised.


def test_a_shortfall_voids_what_was_touched_even_earlier(world: World) -> None:
    world.serve(OTHER, at=0)
    world.serve(LONG, at=10)
    assert world.cached(OTHER) == 1000
    world.serve(LONG, at=20, cached=0)
    assert world.cached(OTHER) == 0
    assert world.cached(LONG) == 1000


@pytest.mark.parametrize(
    ("cached", "void"),
    [
        (1000, False),
        (500, False),  # keys fall between blocks: half is near enough
        (499, True),
        (0, True),
        (None, False),  # not told is not none
    ],
)
def test_a_shortfall_is_less_than_half(world: World, cached: int | None, void: bool) -> None:
    world.serve(OTHER, at=0)
    world.serve(LONG, at=10)
    world.clock.advance(10)
    world.end(world.begin(LONG), cached=cached, report=report())
    assert (world.cached(OTHER) == 0) is void


def test_who_is_no_replica_promises_no_lru(world: World) -> None:
    for request in (OTHER, LONG, LONG):
        world.clock.advance(10)
        world.end(world.begin(request), cached=0, report=None)
    assert world.cached(OTHER) == 1000


def test_a_guess_that_no_answer_had_confirmed_proves_nothing(world: World) -> None:
    """Two of a burst: the second finds the first one sent, but nothing computed yet."""
    world.serve(OTHER, at=0)
    world.clock.advance(10)
    first, second = world.begin(LONG), world.begin(LONG)
    for outcome in (first, second):
        world.end(outcome, cached=0, report=report())
    assert world.cached(OTHER) == 1000


def test_a_burst_on_an_evicted_prompt_voids_no_more_than_its_last_answer_proves(
    world: World,
) -> None:
    """That it was sent again meanwhile does not mean that it was still there then."""
    world.serve(LONG, at=0)
    world.serve(OTHER, at=60)
    world.clock.now = CLOCK_START + 100
    first = world.begin(LONG)
    world.clock.advance(1)
    second = world.begin(LONG)
    world.clock.advance(1)
    for outcome in (first, second):
        world.end(outcome, cached=0, report=report())
    assert world.cached(OTHER) == 1000


# Tokens per byte.


def test_the_ratio_of_tokens_to_bytes_is_learnt_for_each_model(world: World) -> None:
    def expected(request: InferenceRequest) -> int:
        return world.fleet.snapshot(request)[0].prompt_tokens

    other = dataclasses.replace(LONG, model="other")
    guess = round(LONG.prompt_size * FIRST_GUESS)
    seen = [expected(LONG)]
    for _ in range(3):
        world.end(world.begin(LONG), prompt=500)
        seen.append(expected(LONG))
    assert seen == sorted(seen, reverse=True)
    assert seen[0] == guess
    assert 500 < seen[-1] < guess
    assert expected(other) == guess


def test_no_prompt_is_less_than_a_token(world: World) -> None:
    assert world.fleet.snapshot(dataclasses.replace(LONG, prompt_size=1))[0].prompt_tokens == 1


def slow_answers(world: World, endpoint: str, count: int = 20) -> None:
    """As slow as a second for each."""
    for number in range(count):
        world.clock.advance(10)
        outcome = world.begin(chat(f"{number}" * 400, stream=True), endpoint)
        (attempt,) = outcome.attempts
        attempt.first_event, attempt.last_event = world.clock() + 1, world.clock() + 2
        world.end(outcome, prompt=100)


def test_an_endpoint_that_has_not_answered_starts_from_its_peers(world: World) -> None:
    a, b = world.fleet.endpoints.values()
    first_guess = b.learning.coefficients
    slow_answers(world, "a")
    known = b.learning.coefficients
    assert first_guess.base_s < known.base_s <= a.learning.coefficients.base_s
    assert known.samples == 0
    slow_answers(world, "b", count=1)
    taught = b.learning.coefficients
    slow_answers(world, "a")
    assert b.learning.coefficients == taught  # it knows itself now


def test_an_endpoint_of_another_kind_or_model_is_no_peer(world: World) -> None:
    b = world.fleet.endpoints["b"]
    guess = b.learning.coefficients
    b.dedicated = True
    slow_answers(world, "a", count=3)
    b.dedicated, b.models = False, frozenset("n")
    slow_answers(world, "a", count=3)
    assert b.learning.coefficients == guess


def test_what_peers_teach_does_not_hide_that_it_fails(world: World) -> None:
    b = world.fleet.endpoints["b"]
    b.learning.failed(world.clock())
    failing = b.learning.coefficients.error_rate
    slow_answers(world, "a", count=1)
    assert b.learning.coefficients.error_rate == failing > 0
