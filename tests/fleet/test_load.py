"""What endpoints tell of their load: others' requests count, ours not twice, old news less."""

from __future__ import annotations

import pytest

from gateway.domain import EndpointStats, ReplicaReport
from gateway.fleet.endpoint import Endpoint
from gateway.fleet.load import TRUSTED_S, Load, OthersLoad
from routing_policies.base import Price
from tests.support.providers import Silent


@pytest.fixture
def endpoint() -> Endpoint:
    return Endpoint("a", frozenset("m"), provider=Silent())


def seen(endpoint: Endpoint, now: float = 0.0) -> tuple[int, int, float | None]:
    candidate = endpoint.snapshot("m", 0, Price(), now)
    return candidate.in_flight, candidate.queued_tokens, candidate.load_age_s


def stats(running: int, queued: int) -> EndpointStats:
    return EndpointStats(running, 0, report=ReplicaReport("e", running, queued, None))


def test_an_endpoint_that_tells_nothing_has_our_load_and_no_age(endpoint: Endpoint) -> None:
    endpoint.told(EndpointStats(context_length=100), endpoint.load, now=0.0)
    with endpoint.lease(50, 0.0):
        assert seen(endpoint) == (1, 50, None)


def test_what_others_have_there_is_added_to_ours(endpoint: Endpoint) -> None:
    with endpoint.lease(500, 0.0):
        endpoint.told(stats(running=5, queued=2500), endpoint.load, now=0.0)
        assert seen(endpoint) == (5, 2500, 0.0)
    assert seen(endpoint) == (4, 2000, 0.0)


def test_a_request_of_ours_that_was_on_its_way_is_nobody_elses(endpoint: Endpoint) -> None:
    with endpoint.lease(500, 0.0):
        ours = endpoint.load
    endpoint.told(stats(running=1, queued=500), ours, now=0.0)  # it ended while we asked
    assert seen(endpoint) == (0, 0, 0.0)


def test_old_news_counts_less_and_then_nothing(endpoint: Endpoint) -> None:
    endpoint.told(stats(running=10, queued=1000), endpoint.load, now=100.0)
    assert seen(endpoint, now=100.0 + TRUSTED_S / 2) == (5, 500, TRUSTED_S / 2)
    assert seen(endpoint, now=100.0 + TRUSTED_S) == (0, 0, TRUSTED_S)


def test_what_gateways_tell_each_other_an_endpoint_has_told_as_well(endpoint: Endpoint) -> None:
    endpoint.told(stats(running=5, queued=100), endpoint.load, now=0.0)
    endpoint.elsewhere = Load(3, 700)
    with endpoint.lease(50, 0.0):
        assert seen(endpoint) == (1 + 5, 50 + 700, 0.0)


def test_an_endpoint_is_full_of_what_gateways_sent_and_what_they_promised() -> None:
    endpoint = Endpoint("a", frozenset("m"), provider=Silent(), max_in_flight=3)
    endpoint.elsewhere = Load(1, 0)
    with endpoint.lease(50, 0.0):
        assert not endpoint.full("t", 0.0)
        endpoint.promise("t")
        assert endpoint.full("t", 0.0)
        endpoint.promise("t", -1)
    endpoint.told(stats(running=50, queued=0), endpoint.load, now=0.0)  # somebody else's
    assert not endpoint.full("t", 0.0)


def test_an_engine_that_counts_requests_has_them_as_long_as_ours(endpoint: Endpoint) -> None:
    endpoint.told(EndpointStats(running=3, waiting=2, kv_usage=0.7), endpoint.load, now=0.0)
    assert seen(endpoint) == (5, 2 * 1000, 0.0)  # the first guess
    assert endpoint.snapshot("m", 0, Price(), 0.0).kv_usage == 0.7


def test_what_a_life_told_is_not_of_the_next(endpoint: Endpoint) -> None:
    endpoint.told(stats(running=10, queued=1000), endpoint.load, now=0.0)
    endpoint.gone("its process ended")
    endpoint.up(Silent())
    assert seen(endpoint) == (0, 0, None)


def test_fewer_than_ours_are_no_less_than_none() -> None:
    others = OthersLoad()
    others.told(Load(1, 10), Load(3, 500), now=0.0)
    assert others.at(0.0) == Load(0, 0)
