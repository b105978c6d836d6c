"""The engine's model: a small case by hand, and the fast way against the step-by-step one."""

from __future__ import annotations

import hypothesis.strategies as st
import pytest
from hypothesis import given, settings

from gateway.replay.replica import Replica, ReplicaSpec
from gateway.replay.server import Job
from gateway.replay.trace import TraceRequest
from tests.replay.drive import drive

BY_HAND = ReplicaSpec(
    step_s=1.0,
    tokens_per_s=10.0,
    attention_s=0.001,
    sequence_s=0.1,
    kv_token_s=0.01,
    chunk_tokens=20,
    max_sequences=4,
    cache_tokens=400,
)


class StepByStep(Replica):
    """Without runs: every step is an event."""

    def _begin(self, now: float) -> None:
        super()._begin(now)
        if self._steps > 1:
            self._steps = 1
            self.due = now + self._run_s(1)


def test_one_request_alone_by_hand() -> None:
    times, _ = drive(Replica(BY_HAND, 4), [TraceRequest(0.0, 10, 3)])
    # A chunk of 10 at a mean context of 5, then two steps over 10 and 11 tokens of KV.
    first = 1 + 10 / 10 + 0.001 * 10 * 5 + 0.1
    assert times[0] == pytest.approx((first, first + (1.1 + 0.10) + (1.1 + 0.11)))


def test_a_second_request_joins_at_the_next_step_and_shares_its_budget_by_hand() -> None:
    times, _ = drive(Replica(BY_HAND, 4), [TraceRequest(0.0, 10, 3), TraceRequest(2.5, 30, 1)])
    joined = 2.15 + 1.2  # the first decode step, under way at 2.5, ends
    # 19 of 20 tokens of the budget, beside one answer with 11 tokens of KV; then the other 11.
    shared = joined + 1 + 19 / 10 + 0.001 * 19 * 9.5 + 0.1 * 2 + 0.01 * 11
    alone = shared + 1 + 11 / 10 + 0.001 * 11 * (19 + 5.5) + 0.1
    assert times[0] == pytest.approx((2.15, shared))
    assert times[1] == pytest.approx((alone, alone))


def test_cached_blocks_are_not_computed_again() -> None:
    ids = (1, 2, 3)
    requests = [TraceRequest(0.0, 12, 1, ids), TraceRequest(50.0, 12, 1, ids)]
    times, jobs = drive(Replica(BY_HAND, 4), requests)
    assert [job.cached_tokens for job in jobs] == [0, 11]  # the last token is always computed
    assert times[1][0] - 50.0 == pytest.approx(1 + 1 / 10 + 0.001 * 11.5 + 0.1)


def test_a_request_waits_while_others_hold_every_place() -> None:
    requests = [TraceRequest(0.0, 2, 5) for _ in range(5)]
    times, _ = drive(Replica(BY_HAND, 4), requests)
    assert times[4][0] > min(times[i][1] for i in range(4))


def test_a_request_waits_while_others_hold_the_cache() -> None:
    requests = [TraceRequest(0.0, 300, 2), TraceRequest(0.0, 300, 2)]
    times, _ = drive(Replica(BY_HAND, 4), requests)
    assert times[1][0] > times[0][1]


def test_a_request_that_no_cache_could_hold_is_refused() -> None:
    with pytest.raises(ValueError, match=r"300 \+ 101 tokens does not fit a cache of 400"):
        Replica(BY_HAND, 4).submit(Job(0, TraceRequest(0.0, 300, 101)), 0.0)


def test_the_report_counts_what_is_queued_and_dates_what_was_evicted() -> None:
    replica = Replica(BY_HAND, 4)
    assert replica.report(0.0).horizon_age_s is None
    replica.submit(Job(0, TraceRequest(0.0, 50, 1, tuple(range(13)))), 0.0)
    assert replica.report(0.0).queued_tokens == 50
    assert replica.due is not None
    replica.advance(replica.due)
    assert (replica.report(3.0).queued_tokens, replica.report(3.0).running) == (30, 1)


@pytest.mark.parametrize(
    ("field", "value"),
    [("step_s", 0), ("tokens_per_s", -1), ("kv_token_s", -1), ("chunk_tokens", 128)],
)
def test_an_engine_that_cannot_be_is_refused(field: str, value: int) -> None:
    with pytest.raises(ValueError, match="must"):
        ReplicaSpec(**{field: value})


requests_strategy = st.lists(
    st.builds(
        TraceRequest,
        arrival_s=st.floats(0, 60),
        prompt_tokens=st.integers(1, 100),
        output_tokens=st.integers(1, 60),
    ),
    max_size=15,
).map(lambda requests: sorted(requests, key=lambda r: r.arrival_s))


@settings(deadline=None)
@given(requests_strategy)
def test_runs_of_steps_come_to_the_same_as_step_by_step(requests: list[TraceRequest]) -> None:
    fast, slow = Replica(BY_HAND, 4), StepByStep(BY_HAND, 4)
    fast_times, _ = drive(fast, requests)
    slow_times, _ = drive(slow, requests)
    assert fast_times.keys() == slow_times.keys() == set(range(len(requests)))
    for number, times in fast_times.items():
        assert times == pytest.approx(slow_times[number])
        assert requests[number].arrival_s < times[0] <= times[1]
    assert fast.cache.in_use == fast.report(0.0).queued_tokens == fast.report(0.0).running == 0
    assert fast.due is None
