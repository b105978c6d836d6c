"""Whose turn comes next, by what was really begun."""

from __future__ import annotations

import asyncio

import pytest

from gateway.admission.queue import Queue, QueueLimits
from gateway.domain import CLASSES
from gateway.errors import Overloaded
from tests.support.clock import ManualClock

pytestmark = pytest.mark.anyio


def queue(size: int) -> Queue:
    return Queue({}, QueueLimits(size, dict.fromkeys(CLASSES, 60.0)), ManualClock())


async def test_a_tenants_requests_that_were_sent_away_do_not_count_as_its_share() -> None:
    line = queue(size=0)
    with line.turn("noisy", "standard", 100) as begun:
        line.started(begun)
    for _ in range(50):
        with pytest.raises(Overloaded), line.turn("noisy", "standard", 100) as turn:
            await line.wait(turn, ["e"])
    for _ in range(2):
        with line.turn("quiet", "standard", 100) as turn:
            line.started(turn)
    with line.turn("noisy", "standard", 100) as noisy, line.turn("quiet", "standard", 100) as quiet:
        assert noisy.order < quiet.order, "it had one, the other two"


async def test_a_request_that_began_counts_whatever_became_of_it() -> None:
    line = queue(size=9)
    with pytest.raises(RuntimeError), line.turn("a", "standard", 100) as turn:  # noqa: PT012
        line.started(turn)
        raise RuntimeError("its endpoint failed")
    with line.turn("b", "standard", 100) as other, line.turn("a", "standard", 100) as again:
        assert other.order < again.order


class Free:
    """There is always room; only nobody is called to it before the queue is told."""

    def full(self, tenant: str, now: float) -> bool:
        return False

    def promise(self, tenant: str, count: int = 1) -> None: ...


async def test_who_is_sent_away_hears_what_it_was_that_was_missing() -> None:
    """A place, time that is over, or time that there would not be."""
    clock = ManualClock()
    line = Queue({"e": Free()}, QueueLimits(1, dict.fromkeys(CLASSES, 5.0)), clock)

    async def refused(after_s: float = 0) -> str:
        with line.turn("t", "standard", 1) as turn:
            clock.advance(after_s)
            with pytest.raises(Overloaded) as caught:
                await line.wait(turn, ["e"])
        return caught.value.message

    in_time = "room within the 5 s that standard requests wait"
    assert await refused(after_s=5) == f"no endpoint had {in_time}"
    for _ in range(4):
        with line.turn("t", "standard", 1) as turn:
            waiting = asyncio.ensure_future(line.wait(turn, ["e"]))
            await asyncio.sleep(0)
            if len(line._turns) == 0:
                too_many = await refused()
            line.freed()
            await waiting
            clock.advance(7)
    assert too_many == "all endpoints are full, and so is the queue before them"
    assert await refused() == f"all endpoints are full, and none is expected to have {in_time}"
