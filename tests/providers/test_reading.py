"""How long an endpoint may keep us waiting; time goes only when told to."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest

from gateway.errors import UpstreamTimeout
from gateway.providers.reading import SLOW_FOR_S, Pace, Timeouts
from tests.support.clock import ManualClock

pytestmark = pytest.mark.anyio


async def ticking(clock: ManualClock, gap_s: float) -> AsyncIterator[bytes]:
    while True:
        clock.advance(gap_s)
        yield b"x"


async def read(gap_s: float, *, slowest: float, reader_s: float = 0, events: int = 60) -> None:
    """One event a chunk, `gap_s` apart; whoever reads them takes `reader_s` for each."""
    clock = ManualClock()
    pace = Pace(Timeouts(between_events=1e9, total=1e9, slowest=slowest), clock)
    chunks = ticking(clock, gap_s)
    for _ in range(events):
        await pace.next_unless(chunks, finished=False)
        pace.event()
        clock.advance(reader_s)


async def test_a_stream_that_is_too_slow_is_given_up() -> None:
    with pytest.raises(UpstreamTimeout, match="too slow"):
        await read(2.0, slowest=1.0)


async def test_one_that_is_fast_enough_is_not() -> None:
    await read(0.5, slowest=1.0)


async def test_without_a_bound_none_is_too_slow() -> None:
    await read(50.0, slowest=0.0)


async def test_a_reader_that_takes_its_time_is_not_the_endpoints_fault() -> None:
    await read(0.5, slowest=1.0, reader_s=SLOW_FOR_S)


def test_the_first_event_may_take_longer_than_those_after_but_no_longer_than_all() -> None:
    clock = ManualClock(0)
    assert Pace(Timeouts(first_event=600), clock).deadline == 600
    assert Pace(Timeouts(first_event=600, total=30), clock).deadline == 30
