"""A tenant at half of its share, beside one at twenty times its own: on a virtual clock."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

import pytest

from tests.support.fake_providers import ANSWER, PACE_S, Client, World
from tests.test_dispatch import run

PLACES, FIRST_S = 16, 0.4
ALONE_S = FIRST_S + PACE_S  # to the first token
CAPACITY = PLACES / (FIRST_S + PACE_S * len(ANSWER))
SHARE = CAPACITY / 2


async def at_rate(world: World, tenant: str, per_s: float, seconds: float) -> list[Client]:
    """Open loop: the next one does not wait for the last."""
    tasks = []
    for _ in range(int(per_s * seconds)):
        tasks.append(asyncio.ensure_future(world.ask(tenant=tenant)))
        await asyncio.sleep(1 / per_s)
    return await asyncio.gather(*tasks)


def first_s(client: Client) -> float:
    first = client.outcome.attempts[-1].first_event
    assert first is not None
    return first - client.outcome.started


def p99(clients: list[Client]) -> float:
    return sorted(map(first_s, clients))[int(0.99 * len(clients))]


def test_the_quiet_tenants_first_tokens_come_nearly_as_if_it_were_alone() -> None:
    async def story(clock: Callable[[], float]) -> tuple[float, float, float]:
        world = filled(clock)
        alone = await at_rate(world, "quiet", SHARE / 2, 30)
        noise = asyncio.ensure_future(at_rate(world, "noisy", SHARE * 20, 60))
        await asyncio.sleep(2)
        quiet = await at_rate(world, "quiet", SHARE / 2, 50)
        answered = sum(client.error is None for client in await noise)
        return p99(alone), p99(quiet), (answered + len(quiet)) / 60

    alone, beside, per_s = run(story)
    assert beside <= 1.5 * alone
    assert per_s > 0.9 * CAPACITY, "what is kept free is little"


def test_one_that_comes_from_nowhere_waits_only_at_first() -> None:
    async def story(clock: Callable[[], float]) -> list[float]:
        world = filled(clock)
        noise = asyncio.ensure_future(at_rate(world, "noisy", SHARE * 20, 60))
        await asyncio.sleep(2)
        quiet = await at_rate(world, "quiet", SHARE / 2, 50)
        await noise
        return [first_s(client) for client in quiet]

    waited = run(story)
    assert waited[0] == pytest.approx(ALONE_S), "a place was kept for it"
    assert sum(seconds > 1.5 * ALONE_S for seconds in waited) <= 5
    assert max(waited[10:]) <= 1.5 * ALONE_S


def filled(clock: Callable[[], float]) -> World:
    world = World(clock, 1)
    endpoint, fake = world.fleet.endpoints["e0"], world.fakes["e0"]
    endpoint.max_in_flight, fake.first_s = PLACES, FIRST_S
    endpoint.places.weights = {"quiet": 1.0, "noisy": 1.0}
    return world
