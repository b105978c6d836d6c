"""Two replicas of the real model beside two emulated providers, under one objective."""

import random
import time
from collections import Counter
from statistics import median

import anyio
import pytest

from gateway.config.tree import Replicas
from gateway.rules import always
from gateway.tariffs import Tariff
from routing_policies.base import Price
from routing_policies.build import build_policy
from routing_policies.catalog import Catalog
from tests.support.gateways import Running, gateway
from tests.support.upstream import Upstream

pytestmark = pytest.mark.anyio

POLICY = {
    "filters": ["serves_model", "healthy"],
    "minimize": {"waiting": 1, "dollars": 1},
    "pick": {"lowest": {"explore": "20%", "stale": "50ms"}},
}
OURS = {"smollm2-0", "smollm2-1"}
FREE, DEAR = Tariff(), Tariff(Price(input=100_000))  # a dollar for a short prompt


async def asks(g: Running, name: str, count: int) -> Counter[str]:
    """So many short prompts that nobody has seen; who answered them."""
    went = Counter[str]()
    for number in range(count):
        raw = await g.sdk.chat.completions.with_raw_response.create(
            model="smollm2",
            messages=[{"role": "user", "content": f"{name} {number}"}],
            stream=True,
            max_tokens=3,
        )
        async for _ in raw.parse():
            pass
        went[raw.headers["x-gateway-endpoint"]] += 1
    return went


async def ready(g: Running) -> None:
    deadline = time.monotonic() + 300
    while not all(g.gateway.fleet.endpoints[name].healthy for name in OURS):
        assert time.monotonic() < deadline
        await anyio.sleep(0.1)


async def test_who_is_slowed_or_repriced_loses_the_traffic_and_gets_it_back():
    """Within 60 requests each time, of which a fifth may go to see how the others are. Nobody is
    told of a change: it shows in the answers, or in the prices."""
    quick, slow = Upstream(delay_s=0.0), Upstream(delay_s=0.5)
    async with gateway(
        quick,
        slow,
        rules=always(build_policy("mine", POLICY, Catalog.load())),
        models=("smollm2",),
        replicas={"smollm2": Replicas("smollm2", count=2, kv_tokens=2048)},
        draws=random.Random(1),
    ) as g:
        await ready(g)
        endpoint = g.gateway.fleet.endpoints["u0"]

        await asks(g, "first", 40)
        assert (await asks(g, "quick", 20))["u0"] >= 12
        quick.delay_s = 0.5
        await asks(g, "slowed", 60)
        went = await asks(g, "ours", 20)
        assert sum(went[name] for name in OURS) >= 12
        quick.delay_s = 0.0
        await asks(g, "mended", 60)
        assert (await asks(g, "quick again", 20))["u0"] >= 12

        endpoint.tariffs = {"smollm2": DEAR}
        went = await asks(g, "dear", 20)
        assert went["u0"] == 0
        endpoint.tariffs = {"smollm2": FREE}
        assert (await asks(g, "free again", 20))["u0"] >= 10

        outcomes = await g.settled.wait_for(260)
    assert all(outcome.error is None for outcome in outcomes)
    attempts = [outcome.attempts[-1] for outcome in outcomes[-40:]]
    assert median(abs(a.billed_usd - a.expected_cost_usd) for a in attempts) < 1e-3
