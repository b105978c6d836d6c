"""What the log says of endpoints that come and go, and how often."""

from __future__ import annotations

import pytest

from gateway.errors import UpstreamBusy, UpstreamUnreachable
from gateway.fleet.breaker import IN_A_ROW, LONGEST_S
from gateway.fleet.condition import QUIET_S, Changes
from gateway.fleet.endpoint import Endpoint
from tests.support.clock import ManualClock
from tests.support.providers import Silent

REFUSED = UpstreamUnreachable("the endpoint cannot be reached: connection refused")


class Told:
    """One endpoint, and what is told of it."""

    def __init__(self, caplog: pytest.LogCaptureFixture) -> None:
        caplog.set_level("INFO")
        self._caplog = caplog
        self.clock = ManualClock()
        self.endpoint = Endpoint("a", frozenset("m"), provider=Silent())
        self._changes = Changes([self.endpoint], self.clock)

    def lines(self, after_s: float = QUIET_S) -> list[tuple[str, str]]:
        """Of one look, so long after the last."""
        self._caplog.clear()
        self.clock.advance(after_s)
        self._changes.look(self.endpoint)
        return [(record.levelname, record.getMessage()) for record in self._caplog.records]

    def fail(self, times: int = IN_A_ROW) -> None:
        for _ in range(times):
            self.endpoint.failed("m", REFUSED, self.clock())


@pytest.fixture
def told(caplog: pytest.LogCaptureFixture) -> Told:
    return Told(caplog)


def test_one_that_goes_down_and_comes_back_is_told_once_each(told: Told) -> None:
    assert told.lines() == []
    told.endpoint.down("the endpoint took too long")
    assert told.lines() == [("WARNING", "endpoint a is down: the endpoint took too long")]
    assert told.lines() == []
    assert told.endpoint.provider is not None
    told.endpoint.up(told.endpoint.provider)
    assert told.lines() == [("INFO", "endpoint a is back")]
    assert told.lines() == []


def test_one_that_is_ejected_is_told_with_its_last_failure(told: Told) -> None:
    told.fail(IN_A_ROW - 1)
    assert told.lines() == []
    told.fail(1)
    ((level, line),) = told.lines(after_s=0)
    assert level == "WARNING"
    assert line.startswith("endpoint a is ejected: ")
    assert line.endswith(REFUSED.message)
    assert told.lines(LONGEST_S) == [], "on trial it is not back yet"
    told.endpoint.lease(1, told.clock()).first_event(told.clock())
    assert told.lines() == [("INFO", "endpoint a is back")]


def test_many_failures_make_no_line_each_and_one_that_flaps_few(told: Told) -> None:
    lines = []
    for _ in range(600):  # a minute of it
        told.fail(50)
        lines += told.lines(after_s=0.05)
        told.endpoint.finished(told.clock())
        lines += told.lines(after_s=0.05)
    assert 2 <= len(lines) <= 60 / QUIET_S + 1


def test_what_others_know_of_is_not_told_again(told: Told) -> None:
    """Who starts replicas, who drains by hand, and what a rate limit is."""
    told.endpoint.failed("m", UpstreamBusy("full", retry_after_s=30), told.clock())
    assert told.lines() == []
    told.endpoint.drained = True
    assert told.lines() == []
    told.endpoint.gone("its process ended")
    assert told.lines() == []
