"""Whose turn comes next, by what was really begun."""

from __future__ import annotations

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
