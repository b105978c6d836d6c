"""Why there was a second attempt: for one of three reasons, each with a count of its own."""

import pytest
from prometheus_client import Counter

from gateway.domain import Attempt, Ended, Operation, Outcome, Principal
from gateway.telemetry.metrics import Metrics
from tests.support.requests import chat

FIRST = Attempt("a", 0.0, error="upstream_broken", failed=True)
COUNTS = {
    "fallback": (
        Attempt("b", 1.0, first_event=2.0),
        'gateway_fallbacks_total{after="upstream_broken",endpoint="b"} 1.0',
    ),
    "resume": (
        Attempt("b", 1.0, first_event=2.0, resumed=True),
        'gateway_resumes_total{endpoint="b",error_type=""} 1.0',
    ),
    "hedge that won": (
        Attempt("b", 1.0, first_event=2.0, hedge=True),
        'gateway_hedges_total{endpoint="b",won="yes"} 1.0',
    ),
    "hedge that lost": (
        Attempt("b", 1.0, first_event=3.0, hedge=True, ended=Ended.OVERTAKEN),
        'gateway_hedges_total{endpoint="b",won="no"} 1.0',
    ),
}


@pytest.mark.parametrize("why", COUNTS)
def test_a_second_attempt_is_counted_by_why_it_was_made(why: str) -> None:
    attempt, line = COUNTS[why]
    metrics = Metrics(dict)
    outcome = Outcome("r", Principal("t", "k"), 0.0, Operation.CHAT, request=chat())
    outcome.ended, outcome.finished = Ended.FINISHED, 3.0
    attempt.number = 1
    # Whoever answered stands last.
    lost = attempt.ended is Ended.OVERTAKEN
    outcome.attempts = [attempt, FIRST] if lost else [FIRST, attempt]
    metrics.settled(outcome)
    metrics.refresh()
    counts = [
        told
        for told in metrics.exposition().decode().splitlines()
        if told.startswith(("gateway_fallbacks_total", "gateway_resumes", "gateway_hedges"))
    ]
    assert counts == [line]


def test_what_cannot_be_told_once_is_not_told_twice(monkeypatch: pytest.MonkeyPatch) -> None:
    metrics = Metrics(dict)
    for code in ("one", "two"):
        metrics.refused(code)
    inc = Counter.inc

    def full(self: Counter, by: float = 1) -> None:
        inc(self, by)
        raise OSError("there is no room")

    with monkeypatch.context() as broken:
        broken.setattr(Counter, "inc", full)
        with pytest.raises(OSError, match="no room"):
            metrics.refresh()
    metrics.refresh()
    metrics.refresh()
    told = [line for line in metrics.exposition().decode().splitlines() if "refused_total{" in line]
    assert sorted(line.rpartition(" ")[2] for line in told) == ["1.0", "1.0"]


def test_values_fall_into_buckets_up_to_and_with_their_bounds() -> None:
    metrics = Metrics(dict)
    for total_s in (0.01, 0.02, 0.021, 100.0):
        outcome = Outcome("r", Principal("t", "k"), 0.0, Operation.CHAT, ended=Ended.FINISHED)
        outcome.finished = total_s
        metrics.settled(outcome)
        metrics.refresh()
    name = "gen_ai_server_request_duration_seconds"
    labels = 'error_type="",gen_ai_operation_name="chat",gen_ai_request_model="-"'
    told = metrics.exposition().decode()
    for bound, count in (("0.01", 1), ("0.02", 2), ("0.04", 3), ("81.92", 3), ("+Inf", 4)):
        assert f'{name}_bucket{{{labels},le="{bound}"}} {count}.0' in told
    assert f"{name}_sum{{{labels}}} 100.051" in told
