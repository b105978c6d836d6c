"""How long an endpoint may keep us waiting; time goes only when told to."""

from __future__ import annotations

import asyncio
from contextlib import closing
from dataclasses import dataclass

import pytest

from gateway.errors import UpstreamTimeout
from gateway.providers.reading import SLOW_FOR_S, USAGE_WITHIN_S, Pace, Timeouts
from tests.support.clock import ManualClock

pytestmark = pytest.mark.anyio


@dataclass
class Ticking:
    clock: ManualClock
    gap_s: float

    async def read(self) -> bytes:
        self.clock.advance(self.gap_s)
        return b"x"

    async def aclose(self) -> None:
        pass


async def read(gap_s: float, *, slowest: float, reader_s: float = 0, events: int = 60) -> None:
    """One event a chunk, `gap_s` apart; whoever reads them takes `reader_s` for each."""
    clock = ManualClock()
    pace = Pace(Timeouts(between_events=1e9, total=1e9, slowest=slowest), clock)
    body = Ticking(clock, gap_s)
    for _ in range(events):
        await pace.next_unless(body, finished=False)
        pace.started = True
        pace.events += 1
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


async def test_what_lasts_longer_than_its_deadline_is_given_up_and_nothing_else_is_cancelled() -> (
    None
):
    loop = asyncio.get_running_loop()
    pace = Pace(Timeouts(first_event=0.01, between_events=60), loop.time)
    with closing(pace), pytest.raises(TimeoutError), pace:
        await asyncio.Event().wait()
    await asyncio.sleep(0)  # this task was not cancelled for good


async def test_a_deadline_that_moved_is_the_one_that_counts() -> None:
    loop = asyncio.get_running_loop()
    pace = Pace(Timeouts(first_event=0.01, between_events=60), loop.time)
    with closing(pace):
        with pace:
            await asyncio.sleep(0)
        pace.deadline = loop.time() + 60
        with pace:
            await asyncio.sleep(0.05)
        pace.deadline = loop.time() + 0.01
        with pytest.raises(TimeoutError), pace:
            await asyncio.Event().wait()


async def test_a_cancellation_from_outside_stays_one() -> None:
    pace = Pace(Timeouts(first_event=60), asyncio.get_running_loop().time)

    async def waiting() -> None:
        with closing(pace), pace:
            await asyncio.Event().wait()

    task = asyncio.create_task(waiting())
    await asyncio.sleep(0)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task


class Silent(Ticking):
    async def read(self) -> bytes:
        await asyncio.Event().wait()
        raise AssertionError


@pytest.mark.parametrize("finished", [True, False])
async def test_silence_is_an_end_once_the_answer_is_finished(finished: bool) -> None:
    silent = Silent(ManualClock(), 0.0)
    pace = Pace(Timeouts(between_events=0.01), asyncio.get_running_loop().time)
    with closing(pace):
        pace.started = True
        if finished:
            assert await pace.next_unless(silent, finished) == b""
        else:
            with pytest.raises(TimeoutError):
                await pace.next_unless(silent, finished)


@pytest.mark.parametrize("between", [60.0, 1.0])
async def test_what_comes_after_a_finished_answer_is_not_waited_for_long(between: float) -> None:
    clock = ManualClock(0)
    pace = Pace(Timeouts(between_events=between), clock)
    pace.started = True
    await pace.next_unless(Ticking(clock, 0.0), finished=True)
    assert pace.deadline == min(between, USAGE_WITHIN_S)
