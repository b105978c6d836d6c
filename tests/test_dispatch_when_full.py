"""Endpoints without room: who waits, who goes elsewhere, and who goes over the limit."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from gateway.errors import DeadlineExceeded, Overloaded, UpstreamRefused
from tests.support.fake_providers import ANSWER, World
from tests.test_dispatch import HEDGED, run

WHOLE = "".join(ANSWER)


def full(clock: Callable[[], float], count: int, **policy: object) -> World:
    """Each endpoint takes one request at a time."""
    world = World(clock, count, **policy)
    for endpoint in world.fleet.endpoints.values():
        endpoint.max_in_flight = 1
    return world


def test_who_finds_everyone_full_waits_for_the_first_room() -> None:
    async def story(clock: Callable[[], float]) -> None:
        world = full(clock, 1)
        clients = await asyncio.gather(*(world.ask() for _ in range(3)))
        assert [client.text for client in clients] == [WHOLE] * 3
        starts = [at for at, _, _ in world.fakes["e0"].asked]
        assert starts[0] < starts[1] < starts[2]
        assert max(e.in_flight + e.promised for e in world.fleet.endpoints.values()) == 0

    run(story)


def test_a_second_try_waits_for_room_too() -> None:
    async def story(clock: Callable[[], float]) -> None:
        world = full(clock, 2)
        world.fakes["e0"].refuses, world.fakes["e1"].first_s = UpstreamRefused("500"), 5.0
        clients = await asyncio.gather(world.ask(), world.ask())
        assert [client.text for client in clients] == [WHOLE] * 2
        assert len(world.fakes["e1"].asked) == 2
        assert world.fakes["e1"].asked[1][0] > world.fakes["e1"].asked[0][0] + 5

    run(story)


def test_a_begun_answer_is_taken_up_by_an_endpoint_that_is_full() -> None:
    async def story(clock: Callable[[], float]) -> None:
        world = full(clock, 2)
        world.fakes["e0"].breaks_at, world.fakes["e1"].first_s = 2, 60.0
        broken, other = await asyncio.gather(world.ask(), world.ask())
        assert (broken.text, other.text) == (WHOLE, WHOLE)
        assert [a.endpoint for a in broken.outcome.attempts] in (["e0", "e1"], ["e1"])
        first, second = (at for at, _, _ in world.fakes["e1"].asked)
        assert second < first + 60  # while the other was there

    run(story)


def test_a_second_try_of_a_late_answer_needs_room() -> None:
    async def story(clock: Callable[[], float]) -> None:
        world = full(clock, 2, **HEDGED)
        world.fakes["e0"].first_s = world.fakes["e1"].first_s = 10.0
        clients = await asyncio.gather(world.ask(), world.ask())
        assert [len(client.outcome.attempts) for client in clients] == [1, 1]

    run(story)


def test_who_waits_in_vain_is_answered_by_the_model_to_fall_back_on() -> None:
    async def story(clock: Callable[[], float]) -> None:
        world = full(clock, 2, fallback={"models": ["n"]})
        world.fleet.endpoints["e1"].models = frozenset("n")
        world.fakes["e0"].first_s = 60.0
        first = asyncio.ensure_future(world.ask())
        await asyncio.sleep(0.01)
        began = clock()
        second = await world.ask()
        assert second.text == WHOLE
        assert [a.endpoint for a in second.outcome.attempts] == ["e1"]
        assert 30 <= clock() - began < 35, "its class's patience, and then the answer"
        assert (await first).text == WHOLE

    run(story)


def test_models_to_fall_back_on_prolong_nobodys_patience() -> None:
    async def story(clock: Callable[[], float]) -> None:
        world = full(clock, 2, fallback={"models": ["n"]})
        world.fleet.endpoints["e1"].models = frozenset("n")
        for fake in world.fakes.values():
            fake.first_s = 100.0
        others = [asyncio.ensure_future(world.ask(model=model)) for model in "mn"]
        await asyncio.sleep(0.01)
        began = clock()
        late = await world.ask()
        assert isinstance(late.error, Overloaded)
        assert clock() - began <= 31
        await asyncio.gather(*others)

    run(story)


def test_whoever_gives_up_waiting_leaves_nothing_behind() -> None:
    async def story(clock: Callable[[], float]) -> None:
        world = full(clock, 1)
        world.fakes["e0"].first_s = 20.0
        first = asyncio.ensure_future(world.ask())
        await asyncio.sleep(0.01)
        second = await world.ask(headers={"x-request-timeout": "1"})
        assert isinstance(second.error, DeadlineExceeded)
        assert len(world.dispatcher.queue) == 0
        assert (await first).text == WHOLE

    run(story)
