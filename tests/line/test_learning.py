"""Endpoints are chosen by what their answers have taught, live."""

import asyncio
from collections import Counter

import pytest

from routing_policies.base import Price
from tests.support.gateways import Running, gateway
from tests.support.upstream import Upstream

pytestmark = pytest.mark.anyio


async def ask(g: Running, number: int) -> str:
    """A prompt that nobody has seen, streamed; returns who answered."""
    raw = await g.sdk.chat.completions.with_raw_response.create(
        model="m", messages=[{"role": "user", "content": f"question {number}"}], stream=True
    )
    async for _ in raw.parse():
        pass
    return raw.headers["x-gateway-endpoint"]


async def asks(g: Running, first: int, count: int) -> Counter[str]:
    return Counter([await ask(g, first + i) for i in range(count)])


async def test_an_endpoint_that_slows_down_loses_its_traffic_and_gets_it_back():
    """Within 30 requests, in each direction; the odd one still goes to see."""
    first, second = Upstream(delay_s=0.0), Upstream(delay_s=0.15)
    async with gateway(first, second, policy="fastest") as g:
        await asks(g, 0, 12)
        assert (await asks(g, 50, 8))["u0"] >= 6
        first.delay_s = 0.6
        await asks(g, 100, 30)
        assert (await asks(g, 150, 8))["u1"] >= 6
        first.delay_s, second.delay_s = 0.0, 0.8
        await asks(g, 200, 30)
        assert (await asks(g, 250, 8))["u0"] >= 6


async def test_the_cheaper_of_two_equals_is_asked_until_it_is_dearer():
    dear, cheap = Upstream(), Upstream()
    async with gateway(dear, cheap, policy="cheapest") as g:
        endpoints = g.gateway.fleet.endpoints
        for name, price in (("u0", 5.0), ("u1", 1.0)):
            endpoints[name].prices = {"m": Price(price, price)}
        assert {await ask(g, i) for i in range(5)} == {"u1"}
        endpoints["u1"].prices = {"m": Price(9.0, 9.0)}
        assert {await ask(g, 10 + i) for i in range(5)} == {"u0"}


async def test_each_decision_is_kept_in_numbers_beside_what_happened():
    async with gateway(Upstream(delay_s=0.05), Upstream(), policy="balanced") as g:
        for i in range(3):
            await ask(g, i)
        g.gateway.fleet.endpoints["u1"].gone("killed")
        await ask(g, 4)
        outcome = (await g.settled.wait_for(4))[-1]
    chosen, dropped = outcome.considered
    assert (chosen.endpoint, chosen.dropped_by) == ("u0", None)
    assert (dropped.endpoint, dropped.dropped_by) == ("u1", "healthy")
    assert chosen.ttft_s > 0
    attempt = outcome.attempts[0]
    assert attempt.expected_ttft_s == chosen.ttft_s
    assert attempt.last_event >= attempt.first_event >= attempt.started + 0.05


async def test_concurrent_requests_spread_over_equals():
    upstreams = [Upstream(delay_s=0.1) for _ in range(3)]
    async with gateway(*upstreams, policy="balanced", endpoint={"dedicated": True}) as g:
        await asyncio.gather(*(ask(g, i) for i in range(12)))
    assert all(2 <= len(u.received) <= 6 for u in upstreams)
