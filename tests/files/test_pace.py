"""How many requests of a batch run at a time, in virtual time."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from typing import Any, TypeVar

from gateway.files.pace import LONGEST_WAIT_S, Pace
from tests.support.virtual_time import VirtualLoop

T = TypeVar("T")


def run(story: Callable[[Callable[[], float]], Coroutine[Any, Any, T]]) -> T:
    loop = VirtualLoop()
    try:
        return loop.run_until_complete(story(loop.time))
    finally:
        loop.close()


def test_it_grows_by_one_for_each_round_up_to_the_most() -> None:
    async def story(clock: Callable[[], float]) -> list[int]:
        pace, seen = Pace(4, clock), []
        for _ in range(6):
            began = int(pace.limit)
            for _ in range(began):
                await pace.begin()
            seen.append(pace.running)
            for _ in range(began):
                pace.ended()
        return seen

    assert run(story) == [1, 2, 2, 3, 4, 4]


def test_a_refusal_halves_it_and_nobody_begins_before_the_time_that_it_names() -> None:
    async def story(clock: Callable[[], float]) -> tuple[float, float]:
        pace = Pace(8, clock)
        pace.limit, began = 8.0, clock()
        for _ in range(8):
            await pace.begin()
        for _ in range(8):
            pace.refused(3.0)  # all at once: it counts once
        await pace.begin()
        return pace.limit, clock() - began

    assert run(story) == (4.0, 3.0)


def test_refusals_that_name_no_time_wait_longer_each_and_not_without_end() -> None:
    async def story(clock: Callable[[], float]) -> list[float]:
        pace, waits = Pace(8, clock), []
        for _ in range(10):
            await pace.begin()
            before = clock()
            pace.refused(None)
            await pace.begin()
            waits.append(clock() - before)
            pace.ended(answered=False)
        return waits

    waits = run(story)
    assert waits[:4] == [0.5, 1.0, 2.0, 4.0]
    assert waits[-1] == LONGEST_WAIT_S


def test_first_come_first_served() -> None:
    async def story(clock: Callable[[], float]) -> list[str]:
        pace, order = Pace(1, clock), list[str]()

        async def asks(name: str) -> None:
            for _ in range(3):
                await pace.begin()
                order.append(name)
                await asyncio.sleep(1)
                pace.ended()

        await asyncio.gather(asks("a"), asks("b"))
        return order

    assert run(story) == ["a", "b", "a", "b", "a", "b"]
