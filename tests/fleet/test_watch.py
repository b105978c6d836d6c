"""The watch, over providers that answer from a script; no time passes."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace

import pytest

from gateway.domain import EndpointStats, ReplicaReport
from gateway.errors import (
    GatewayError,
    InvalidRequest,
    UpstreamKeyRefused,
    UpstreamRefused,
    UpstreamTimeout,
    UpstreamUnreachable,
)
from gateway.fleet.endpoint import Endpoint
from gateway.fleet.fleet import Fleet
from gateway.fleet.placement import PlacementIndex
from gateway.fleet.watch import MISSES, watch
from gateway.providers.base import Provider
from gateway.tariffs import Machine
from routing_policies.base import Price
from tests.support.clock import ManualClock
from tests.support.providers import Scripted, Silent
from tests.support.requests import chat

pytestmark = pytest.mark.anyio


def stats(epoch: str = "first", context_length: int | None = 2048) -> EndpointStats:
    return EndpointStats(context_length=context_length, report=ReplicaReport(epoch, 0, 0, None))


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


async def after(*answers: EndpointStats | None) -> Endpoint:
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
    seen = endpoint.snapshot("m", 0, Price(), now=0.0)
    assert (seen.waiting, seen.kv_usage) == (1, 0.25)
    left = (await after(busy, stats())).snapshot("m", 0, Price(), now=0.0)
    assert left.waiting is None


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
    answers: list[EndpointStats | None], healthy: bool
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

    def __init__(self, endpoint: Endpoint, *answers: EndpointStats | None, by: Scripted) -> None:
        super().__init__(*answers)
        self._endpoint = endpoint
        self._successor = by

    async def stats(self) -> EndpointStats | None:
        if self.left == 1:
            self._endpoint.up(self._successor)
        return await super().stats()


@pytest.mark.parametrize("last_word", [stats("old"), None])
async def test_the_word_of_a_life_that_is_over_does_not_count(
    last_word: EndpointStats | None,
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


async def test_requests_that_others_sent_count_as_load() -> None:
    engine = Scripted(EndpointStats(running=5, waiting=2))
    async with watched(engine=engine) as fleet:
        endpoint = fleet.endpoints["engine"]
        with endpoint.lease(10, 0.0), endpoint.lease(10, 0.0):
            await engine.all_told()
            _, (candidate,), _ = fleet.snapshot(chat("hi"))
    assert candidate.in_flight == 7
    assert endpoint.in_flight == 0


async def test_who_tells_no_load_has_none_but_ours() -> None:
    engine = Scripted(EndpointStats(context_length=512))
    async with watched(engine=engine) as fleet:
        await engine.all_told()
        _, (candidate,), _ = fleet.snapshot(chat("hi"))
    assert (candidate.in_flight, candidate.context_length) == (0, 512)


class Probed(Silent):
    """Answers each probe with the next of `answers`, None being a good one."""

    def __init__(self, *answers: Exception | None) -> None:
        self._answers = list(answers)
        self.all_given = asyncio.Event()

    async def probe(self) -> None:
        if not self._answers:
            self.all_given.set()
            await asyncio.Event().wait()
        answer = self._answers.pop(0)
        if answer is not None:
            raise answer


async def test_what_is_down_says_how_and_never_in_the_endpoints_own_words() -> None:
    for fault, why in (
        (UpstreamTimeout("the endpoint took too long"), "the endpoint took too long"),
        (InvalidRequest("ask 10.0.0.9 with key-one"), "it does not tell how it is"),
    ):
        well = Scripted(*[stats()] * (MISSES + 1))
        async with watched(a=Odd(fault), well=well) as fleet:
            await well.all_told()
            assert fleet.endpoints["a"].down_because == why


MUTE, KEY = UpstreamUnreachable("no"), UpstreamKeyRefused("no")
LATE, ODD, ILL = UpstreamTimeout("no"), InvalidRequest("no"), UpstreamRefused("no")


@pytest.mark.parametrize(
    ("answers", "healthy", "ready"),
    [
        ([KEY], True, False),  # somebody is there, and requests may fare better
        ([MUTE] * (MISSES - 1), True, False),
        ([MUTE] * MISSES, False, False),
        ([LATE] * MISSES, True, False),  # it may be asleep, and hold the question
        ([ODD] * MISSES, True, False),
        ([*[MUTE] * MISSES, LATE], False, False),
        ([*[MUTE] * MISSES, KEY], True, False),  # somebody is there again
        ([*[MUTE] * MISSES, ILL], True, False),
        ([*[MUTE] * MISSES, ODD], True, False),
    ],
)
async def test_one_that_tells_nothing_is_probed_until_it_is_known_to_be_there(
    answers: list[GatewayError | None], healthy: bool, ready: bool
) -> None:
    provider = Probed(*answers)
    async with watched(a=provider) as fleet:
        await asyncio.wait_for(provider.all_given.wait(), 5)
        endpoint = fleet.endpoints["a"]
        assert (endpoint.healthy, endpoint.ready) == (healthy, ready)


async def test_a_machine_that_has_stopped_is_left_to_sleep_and_counts_as_there() -> None:
    asked = Scripted(stats())
    endpoint = Endpoint("a", frozenset("m"), machine=Machine(3.6, stops_after_s=60, starts_in_s=30))
    endpoint.up(asked)
    fleet, reached = Fleet([endpoint], PlacementIndex(), ManualClock()), asyncio.Event()
    watching = asyncio.create_task(watch(fleet, ManualClock(), 0, reached.set))
    await asyncio.wait_for(reached.wait(), 5)
    watching.cancel()
    await asyncio.wait([watching])
    assert (endpoint.ready, asked.asked) == (True, 0)


async def test_it_is_left_alone_once_it_answers_and_probed_again_when_it_is_down() -> None:
    provider, clock = Probed(*[MUTE] * MISSES, None), Scripted(*[stats()] * 50)
    async with watched(a=provider, clock_=clock) as fleet:
        await clock.all_told()
        endpoint = fleet.endpoints["a"]
        assert endpoint.ready
        assert not provider.all_given.is_set()
        endpoint.down("it does not answer")
        await asyncio.wait_for(provider.all_given.wait(), 5)


class Odd(Silent):
    """It fails with what no provider should raise, or only of a caller's request."""

    def __init__(self, fault: Exception) -> None:
        self._fault = fault

    async def stats(self) -> EndpointStats | None:
        raise self._fault


async def test_a_defect_in_one_s_turn_is_told_and_ends_nobody_s_watch(
    caplog: pytest.LogCaptureFixture,
) -> None:
    defective, well = Probed(ValueError("a defect"), None), Scripted(*[stats()] * 50)
    async with watched(defective=defective, well=well) as fleet:
        await well.all_told()
        assert fleet.endpoints["defective"].ready, "it was asked again"
    (said,) = caplog.records
    assert (said.levelname, "defective" in said.getMessage()) == ("ERROR", True)


async def test_an_answer_that_blames_the_request_is_a_miss_where_stats_are_asked() -> None:
    well = Scripted(*[stats()] * (MISSES + 1))
    async with watched(a=Odd(InvalidRequest("no")), well=well) as fleet:
        await well.all_told()
        assert not fleet.endpoints["a"].healthy
