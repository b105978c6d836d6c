"""The watch, over providers that answer from a script; no time passes."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace

import pytest

from gateway.domain import ReplicaReport, ReplicaStats
from gateway.fleet.endpoint import Endpoint
from gateway.fleet.fleet import Fleet
from gateway.fleet.placement import PlacementIndex
from gateway.fleet.watch import MISSES, watch
from gateway.providers.base import Provider
from tests.support.clock import ManualClock
from tests.support.providers import Scripted, Silent
from tests.support.requests import chat

pytestmark = pytest.mark.anyio


def stats(epoch: str = "first", context_length: int | None = 2048) -> ReplicaStats:
    return ReplicaStats(ReplicaReport(epoch, 0, 0, None), context_length)


@asynccontextmanager
async def watched(clock: ManualClock | None = None, **providers: Provider) -> AsyncIterator[Fleet]:
    """A fleet of these, everyone up, watched without a pause."""
    clock = clock or ManualClock()
    endpoints = [Endpoint(name, frozenset("m")) for name in providers]
    for endpoint in endpoints:
        endpoint.up(providers[endpoint.name])
    fleet = Fleet(endpoints, PlacementIndex(), clock)
    watching = asyncio.create_task(watch(fleet, clock, period_s=0))
    try:
        yield fleet
    finally:
        watching.cancel()
        await asyncio.wait([watching])
        assert watching.cancelled()


async def after(*answers: ReplicaStats | None) -> Endpoint:
    """An endpoint that was asked as often as it has answers here, None being none."""
    replica = Scripted(*answers)
    async with watched(a=replica) as fleet:
        await replica.all_told()
        return fleet.endpoints["a"]


async def test_what_a_replica_tells_is_noted() -> None:
    endpoint = await after(stats("e1", context_length=512))
    assert (endpoint.healthy, endpoint.epoch, endpoint.context_length) == (True, "e1", 512)


async def test_what_it_tells_of_its_load_is_what_it_told_last() -> None:
    busy = replace(stats(), waiting=3, kv_usage=0.5)
    endpoint = await after(busy, replace(busy, waiting=1, kv_usage=0.25))
    assert (endpoint.waiting, endpoint.kv_usage) == (1, 0.25)
    assert (await after(busy, stats())).waiting is None


@pytest.mark.parametrize(
    ("answers", "healthy"),
    [
        ([None] * (MISSES - 1), True),
        ([None] * MISSES, False),
        ([None] * (MISSES - 1) + [stats()] + [None] * (MISSES - 1), True),  # not in a row
        ([None] * MISSES + [stats()], True),  # up again with its first answer
        ([None] * MISSES + [stats()] + [None] * (MISSES - 1), True),
    ],
)
async def test_an_endpoint_is_down_after_misses_in_a_row(
    answers: list[ReplicaStats | None], healthy: bool
) -> None:
    endpoint = await after(*answers)
    assert endpoint.healthy is healthy
    assert (endpoint.down_because is None) is healthy


async def test_a_context_length_that_is_not_told_stays_what_the_config_said() -> None:
    replica = Scripted(stats(context_length=None))
    async with watched(a=replica) as fleet:
        fleet.endpoints["a"].context_length = 4096
        await replica.all_told()
        assert fleet.endpoints["a"].context_length == 4096


class Replaced(Scripted):
    """While it gives its last answer, the supervisor puts another life in its place."""

    def __init__(self, endpoint: Endpoint, *answers: ReplicaStats | None, by: Scripted) -> None:
        super().__init__(*answers)
        self._endpoint = endpoint
        self._successor = by

    async def stats(self) -> ReplicaStats | None:
        if self.left == 1:
            self._endpoint.up(self._successor)
        return await super().stats()


@pytest.mark.parametrize("last_word", [stats("old"), None])
async def test_the_word_of_a_life_that_is_over_does_not_count(
    last_word: ReplicaStats | None,
) -> None:
    successor = Scripted()
    async with watched(a=Silent()) as fleet:
        endpoint = fleet.endpoints["a"]
        endpoint.up(Replaced(endpoint, None, None, last_word, by=successor))
        await successor.all_told()
    assert endpoint.provider is successor
    assert endpoint.epoch is None
    assert endpoint.healthy


async def test_another_life_does_not_inherit_the_misses_of_the_last() -> None:
    successor = Scripted(None)
    async with watched(a=Silent()) as fleet:
        endpoint = fleet.endpoints["a"]
        endpoint.up(Replaced(endpoint, *[None] * MISSES, by=successor))
        await successor.all_told()
    assert endpoint.healthy


async def test_who_tells_nothing_of_itself_is_left_alone() -> None:
    replica = Scripted(stats())
    async with watched(provider=Silent(), replica=replica) as fleet:
        await replica.all_told()
        assert fleet.endpoints["provider"].healthy


async def test_one_that_is_slow_to_answer_delays_no_other() -> None:
    mute, quick = Scripted(), Scripted(stats(), stats(), stats())
    async with watched(mute=mute, quick=quick):
        await quick.all_told()
        assert mute.asked == 1


async def test_another_epoch_voids_the_placements_from_before() -> None:
    clock = ManualClock()
    replica = Scripted(stats("first"), stats("first"), stats("second"), clock=clock)
    async with watched(clock, a=replica) as fleet:
        request = chat("hi")
        fleet.sent(request, "a")
        await replica.all_told()
        _, (candidate,), _ = fleet.snapshot(request)
    assert fleet.endpoints["a"].epoch == "second"
    assert candidate.cached_tokens == 0
