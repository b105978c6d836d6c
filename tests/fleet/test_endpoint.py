from __future__ import annotations

import pytest

from gateway.domain import EndpointStats
from gateway.errors import UpstreamOverloaded
from gateway.fleet.breaker import IN_A_ROW
from gateway.fleet.endpoint import Endpoint
from routing_policies.base import Candidate, Price
from tests.support.providers import Silent

NOW = 1000.0


def load(endpoint: Endpoint) -> tuple[int, int]:
    return endpoint.in_flight, endpoint.queued_tokens


@pytest.fixture
def endpoint() -> Endpoint:
    return Endpoint("a", frozenset("m"), provider=Silent())


def test_a_lease_counts_from_the_choice_to_the_last_byte(endpoint: Endpoint) -> None:
    with endpoint.lease(100, NOW) as first:
        assert load(endpoint) == (1, 100)
        with endpoint.lease(7, NOW):
            assert load(endpoint) == (2, 107)
            first.first_event(NOW)
            assert load(endpoint) == (2, 7)  # the prompt is computed, the answer is not
        assert load(endpoint) == (1, 0)
    assert load(endpoint) == (0, 0)


def test_the_first_event_counts_once(endpoint: Endpoint) -> None:
    with endpoint.lease(50, NOW), endpoint.lease(100, NOW) as lease:
        lease.first_event(NOW)
        lease.first_event(NOW)
        assert load(endpoint) == (2, 50)
    assert load(endpoint) == (0, 0)


def test_active_tokens_are_prompts_and_what_was_answered_so_far(endpoint: Endpoint) -> None:
    with endpoint.lease(100, NOW, cached_tokens=40) as lease:
        assert endpoint.active_tokens == 140
        lease.first_event(NOW)
        lease.answered(1)
        lease.answered(1)
        with endpoint.lease(7, NOW):
            assert endpoint.active_tokens == 149
        assert endpoint.active_tokens == 142
    assert endpoint.active_tokens == 0


@pytest.mark.parametrize("answering", [False, True])
def test_a_lease_that_ends_badly_is_given_back_too(endpoint: Endpoint, answering: bool) -> None:
    def break_off() -> None:
        with endpoint.lease(100, NOW) as lease:
            if answering:
                lease.first_event(NOW)
            raise ConnectionError

    with pytest.raises(ConnectionError):
        break_off()
    assert load(endpoint) == (0, 0)


def test_a_lease_keeps_the_provider_that_it_began_with(endpoint: Endpoint) -> None:
    before = endpoint.provider
    with endpoint.lease(1, NOW) as lease:
        endpoint.up(Silent())
        assert lease.provider is before


def test_an_endpoint_is_healthy_between_up_and_down() -> None:
    endpoint = Endpoint("a", frozenset("m"))

    def state() -> tuple[bool, str | None]:
        return endpoint.healthy, endpoint.down_because

    assert state() == (False, None)  # nobody to talk to yet
    endpoint.up(Silent())
    assert state() == (True, None)
    endpoint.down("it does not answer")
    assert state() == (False, "it does not answer")
    endpoint.up(Silent())
    assert state() == (True, None)


def test_a_snapshot_is_what_policies_see(endpoint: Endpoint) -> None:
    endpoint.context_length = 2048
    with endpoint.lease(100, NOW):
        endpoint.told(EndpointStats(waiting=2, kv_usage=0.25), endpoint.load, NOW)
        seen = endpoint.snapshot("m", 30, Price(input=1), NOW)
    assert seen == Candidate(
        endpoint="a",
        models=frozenset("m"),
        healthy=True,
        context_length=2048,
        in_flight=1,
        queued_tokens=100,
        cached_tokens=30,
        price=Price(input=1),
        active_tokens=100,
        waiting=2,
        kv_usage=0.25,
    )


def test_one_that_is_overloaded_and_says_to_come_back_at_once_has_failed(
    endpoint: Endpoint,
) -> None:
    for _ in range(IN_A_ROW):
        endpoint.failed("m", UpstreamOverloaded("503", retry_after_s=0.0), NOW)
    assert endpoint.unavailable("m", NOW) == "ejected"
