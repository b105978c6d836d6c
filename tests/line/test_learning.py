"""Endpoints are chosen by what their answers have taught, live."""

import asyncio
import random

import pytest

from gateway.domain import BilledBy
from gateway.rules import always
from gateway.tariffs import Tariff
from routing_policies.base import Price
from routing_policies.build import build_policy
from routing_policies.catalog import Catalog
from tests.support.gateways import gateway
from tests.support.traffic import ask, ask_until_most_go_to
from tests.support.upstream import Upstream

pytestmark = pytest.mark.anyio


CURIOUS = {
    "filters": ["serves_model", "healthy"],
    "minimize": {"waiting": 1},
    "pick": {"lowest": {"explore": "20%", "stale": "50ms"}},
}


async def test_an_endpoint_that_slows_down_loses_its_traffic_and_gets_it_back():
    """Within 60 requests each time, of which a fifth may go to see how the other one is. What tells
    them apart is far more than a busy machine adds."""
    first, second = Upstream(delay_s=0.0), Upstream(delay_s=0.3)
    curious = always(build_policy("curious", CURIOUS, Catalog.load()))
    async with gateway(first, second, rules=curious, draws=random.Random(1)) as g:
        await ask_until_most_go_to({"u0"}, g)
        first.delay_s = 1.2
        await ask_until_most_go_to({"u1"}, g)
        first.delay_s = 0.0
        await ask_until_most_go_to({"u0"}, g)


async def test_the_cheaper_of_two_equals_is_asked_until_it_is_dearer():
    dear, cheap = Upstream(), Upstream()
    async with gateway(dear, cheap, policy="cheapest") as g:
        endpoints = g.gateway.fleet.endpoints
        for name, price in (("u0", 5.0), ("u1", 1.0)):
            endpoints[name].tariffs = {"m": Tariff(Price(price, price))}
        assert {await ask(g) for i in range(5)} == {"u1"}
        endpoints["u1"].tariffs = {"m": Tariff(Price(9.0, 9.0))}
        assert {await ask(g) for i in range(5)} == {"u0"}


async def test_each_decision_is_kept_in_numbers_beside_what_happened():
    async with gateway(Upstream(delay_s=0.05), Upstream(), policy="balanced") as g:
        for _ in range(3):
            await ask(g)
        g.gateway.fleet.endpoints["u1"].gone("killed")
        await ask(g)
        outcome = (await g.settled.wait_for(4))[-1]
    chosen, dropped = outcome.considered
    assert (chosen.endpoint, chosen.dropped_by) == ("u0", None)
    assert (dropped.endpoint, dropped.dropped_by) == ("u1", "healthy")
    assert chosen.ttft_s > 0
    attempt = outcome.attempts[0]
    assert attempt.expected_ttft_s == chosen.ttft_s
    assert attempt.ttft_s >= 0.05
    assert (attempt.billed_usd, attempt.billed_by) == (0.0, BilledBy.TARIFF)
    assert attempt.cached_tokens == 3  # as the upstream told
    assert attempt.expected_ttft_s == chosen.ttft_s
    assert attempt.last_event >= attempt.first_event >= attempt.started + 0.05


async def test_concurrent_requests_spread_over_equals():
    upstreams = [Upstream(delay_s=0.1) for _ in range(3)]
    async with gateway(*upstreams, policy="balanced", endpoint={"dedicated": True}) as g:
        await asyncio.gather(*(ask(g) for i in range(12)))
    assert all(2 <= len(u.received) <= 6 for u in upstreams)
