"""How many requests an endpoint takes at a time, found out."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from contextlib import ExitStack

from gateway.domain import EndpointStats
from gateway.errors import UpstreamBroken, UpstreamOverloaded
from gateway.fleet.capacity import LOOKS, Capacity
from gateway.fleet.endpoint import Endpoint
from tests.support.fake_providers import Client, Fake, World
from tests.support.providers import Silent
from tests.test_dispatch import run


class Small(Fake):
    """Refuses more than `places` requests at a time."""

    places = 10

    @property
    def refuses(self) -> UpstreamOverloaded | None:  # type: ignore[override]
        return UpstreamOverloaded("no room") if self.open_now > self.places else None

    @refuses.setter
    def refuses(self, value: object) -> None: ...


def endpoint() -> Endpoint:
    return Endpoint("e", frozenset("m"), provider=Silent(), capacity=Capacity())


def tell(endpoint: Endpoint, running: int, waiting: int, times: int = 1) -> None:
    for second in range(times):
        endpoint.told(EndpointStats(running, waiting), endpoint.load, float(second))


def test_nothing_is_known_before_it_complains() -> None:
    known = endpoint()
    tell(known, 500, 0)
    known.failed("m", UpstreamBroken("not for want of room"), 0.0)
    assert known.limit is None
    assert not known.full("t", 0.0)


def test_one_wave_of_refusals_is_one_complaint() -> None:
    capacity = Capacity()
    for _ in range(50):
        capacity.refused(100, began=1.0, now=2.0)
    assert capacity.limit == 80
    capacity.refused(80, began=2.5, now=3.0)
    assert capacity.limit == 64


def test_places_come_back_only_while_all_are_in_use() -> None:
    capacity = Capacity()
    capacity.refused(20, began=1.0, now=2.0)
    for _ in range(100):
        capacity.answered(15)
    assert capacity.limit == 16
    for _ in range(16):
        capacity.answered(16)
    assert capacity.limit == 18


def test_the_place_that_a_tenant_has_to_leave_free_counts_as_used() -> None:
    known = endpoint()
    known.places.weights = {"quiet": 1.0}
    with ExitStack() as leases:
        for _ in range(20):
            leases.enter_context(known.lease(10, 0.0, tenant="noisy"))
        known.failed("m", UpstreamOverloaded("no room"), 2.0, began=3.0)
        assert known.limit == 16
    with ExitStack() as leases:
        while not known.full("noisy", 3.0):
            leases.enter_context(known.lease(10, 3.0, tenant="noisy"))
        assert known.in_flight == 15
        for _ in range(16):
            known.finished(3.0)
    assert known.limit == 18


def test_an_engines_queue_counts_when_it_stays() -> None:
    known = endpoint()
    tell(known, 8, 3, LOOKS - 1)
    tell(known, 8, 0)
    tell(known, 8, 3, LOOKS - 1)
    assert known.limit is None
    tell(known, 6, 1)
    assert known.limit == 9, "the most that ran, and one for its queue"


def test_a_queue_before_an_engine_that_runs_nothing_tells_nothing_of_its_size() -> None:
    known = endpoint()
    tell(known, 0, 5, 2 * LOOKS)
    assert known.limit is None


def test_what_the_config_says_is_never_exceeded() -> None:
    known = endpoint()
    known.max_in_flight = 4
    tell(known, 64, 9, LOOKS)
    assert known.limit == 4


def overload(capacity: Capacity | None) -> tuple[float, int, int | None]:
    """A minute of it, by 40 callers at 10 places: answers per second, refusals, the limit."""

    async def story(clock: Callable[[], float]) -> tuple[float, int, int | None]:
        world = World(clock, 1)
        known = world.fleet.endpoints["e0"]
        known.provider, known.capacity = Small(clock), capacity
        ended = clock() + 60
        clients: list[Client] = []

        async def keep_asking() -> None:
            while clock() < ended:
                clients.append(await world.ask())

        await asyncio.gather(*(keep_asking() for _ in range(40)))
        refused = sum(client.error is not None for client in clients)
        return (len(clients) - refused) / 60, refused, known.limit

    return run(story)


def test_an_endpoint_that_never_told_its_size_is_filled_and_not_overrun() -> None:
    per_s, refused, limit = overload(Capacity())
    _, refused_unknowing, _ = overload(None)
    assert per_s > 0.9 * 10 / 1.1, "its places by the seconds of an answer"
    assert refused < refused_unknowing / 5
    assert limit is not None
    assert 8 <= limit <= 13
