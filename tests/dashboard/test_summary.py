"""What several workers have seen, as one: sums and percentiles are those of all their exchanges."""

import dataclasses
import gc
import json
import weakref

import pytest

from gateway.dashboard.recent import BUCKET_S, Recent, Seen
from gateway.dashboard.summary import Summary
from gateway.domain import Attempt, Considered, Ended, Outcome, Principal, Usage
from tests.support.clock import ManualClock
from tests.support.requests import chat


def answered(at: float, first_s: float, usd: float = 0.001) -> Outcome:
    outcome = Outcome(f"r-{at}", Principal("acme", "web"), at, request=chat())
    outcome.ended, outcome.finished, outcome.decided = Ended.FINISHED, at + 2 * first_s, (at, at)
    outcome.considered = (Considered("e", None),)
    outcome.attempts = [Attempt("e", at, first_event=at + first_s, billed_usd=usd)]
    outcome.usage = Usage(100, 10, 50)
    return outcome


def summed(workers: list[Recent]) -> Summary:
    """As it is after a trip between processes."""
    told = [json.loads(json.dumps(worker.seen.as_json())) for worker in workers]
    return Summary([Seen.of_json(one) for one in told], workers[0].latest())


def test_two_workers_are_as_one_that_saw_it_all():
    clock = ManualClock(1000.0)
    one, two, both = (Recent(clock, lambda: 5.0) for _ in range(3))
    for index in range(40):
        clock.advance(1.0)
        outcome = answered(clock(), 0.01 * (1 + index))
        both.settled(outcome)
        (one if index % 3 else two).settled(outcome)
    together, alone = summed([one, two]), summed([both])
    expected = alone.endpoint("e")
    assert together.endpoint("e") == pytest.approx(expected)
    assert expected["answered"] == 40
    assert expected["first_p50_s"] == pytest.approx(0.21, rel=0.03)
    assert expected["first_p95_s"] == pytest.approx(0.39, rel=0.03)
    assert expected["hit_rate"] == 0.5
    assert together.series() == alone.series()
    names = [decision["request_id"] for decision in together.decisions()]
    assert names == [decision["request_id"] for decision in alone.decisions()]


def test_what_is_older_than_a_quarter_of_an_hour_is_forgotten():
    clock = ManualClock(1000.0)
    recent = Recent(clock, lambda: 5.0)
    recent.settled(answered(clock(), 0.1))
    assert summed([recent]).endpoint("e")["answered"] == 1
    clock.advance(180 * BUCKET_S)
    assert summed([recent]).endpoint("e")["answered"] == 0
    assert summed([recent]).endpoint("e")["first_p95_s"] is None


def test_a_decision_tells_how_long_it_waited_for_room():
    clock = ManualClock(1000.0)
    recent = Recent(clock, lambda: 5.0)
    outcome = answered(clock(), 0.5)
    outcome.queued = {1000.0: 1000.2, 1000.3: 1000.4}
    recent.settled(outcome)
    (decision,) = summed([recent]).decisions()
    assert decision["queued_s"] == pytest.approx(0.3)


def test_who_left_before_the_first_token_was_not_answered():
    clock = ManualClock(1000.0)
    recent = Recent(clock, lambda: 5.0)
    outcome = answered(clock(), 0.1)
    outcome.ended, outcome.usage = Ended.HUNG_UP, None
    outcome.attempts = [Attempt("e", clock(), ended=Ended.HUNG_UP)]
    recent.settled(outcome)
    assert summed([recent]).endpoint("e")["answered"] == 0


def test_what_is_shown_of_an_exchange_keeps_nothing_of_its_prompt():
    class Body(dict[str, object]):
        """One that can be asked whether it is still there."""

    clock = ManualClock(1000.0)
    recent = Recent(clock, lambda: 5.0)
    outcome, body = answered(clock(), 0.1), Body(messages=["a secret"])
    outcome.request = dataclasses.replace(chat(), forwarded=body)
    recent.settled(outcome)
    there = weakref.ref(body)
    del outcome, body
    gc.collect()
    assert there() is None
    (decision,) = recent.seen.decisions
    assert decision["tried"] == [{"endpoint": "e", "error": None}]
    assert decision["reason"] == "only_candidate"
