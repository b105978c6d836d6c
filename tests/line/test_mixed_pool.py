"""Machines of ours beside two providers, under one objective."""

import random
import time
from pathlib import Path
from statistics import median

import anyio
import pytest

from gateway.config import load
from gateway.config.tree import Replicas
from gateway.reload import Source
from tests.support.edits import edit
from tests.support.gateways import Running, gateway
from tests.support.traffic import ask, ask_until_most_go_to, asks
from tests.support.upstream import Upstream

pytestmark = pytest.mark.anyio

POLICY = """
filters: [serves_model, healthy]
minimize: {waiting: 1, dollars: 1}
pick: {lowest: {explore: 20%, stale: 50ms}}
"""
CONFIG = """
policy: mine
policies: ./policies
endpoints:
"""
ENDPOINT = '  u%d: {base_url: "http://unused", models: [m], prices: {m: {input: %d, output: 0}}}\n'
FREE, DEAR = 0, 100_000  # per million tokens: a dollar for a short prompt


class Prices:
    """A config file; a running gateway takes what is edited there."""

    def __init__(self, folder: Path, endpoints: int) -> None:
        (folder / "policies").mkdir()
        (folder / "policies" / "mine.yaml").write_text(POLICY)
        self._file, self._endpoints = folder / "config.yaml", endpoints
        self.write(FREE)
        self.source = Source(self._file, lambda: load(self._file))
        self.config, self.rules = self.source.read()

    def write(self, first: int) -> None:
        others = (ENDPOINT % (index, FREE) for index in range(1, self._endpoints))
        edit(self._file, CONFIG + ENDPOINT % (0, first) + "".join(others))

    async def edit(self, g: Running, first: int) -> None:
        """Takes effect while requests go on."""
        before = g.gateway.live.generation
        self.write(first)
        with anyio.fail_after(30):
            while g.gateway.live.generation == before:
                await ask(g)


async def lose_and_regain(
    g: Running, quick: Upstream, ours: set[str], prices: Prices, slow_s: float, within: int
) -> None:
    """Within so many requests each time, of which a fifth may go to see how others are. Nobody is
    told of a change: it shows in the answers, or in the prices."""
    await ask_until_most_go_to({"u0"}, g, within)
    quick.delay_s = slow_s
    await ask_until_most_go_to(ours, g, within)
    quick.delay_s = 0.0
    await ask_until_most_go_to({"u0"}, g, within)

    await prices.edit(g, DEAR)
    assert (await asks(g, 20))["u0"] == 0
    await prices.edit(g, FREE)
    await ask_until_most_go_to({"u0"}, g, within)

    outcomes = g.settled.outcomes
    assert all(outcome.error is None for outcome in outcomes)
    attempts = [outcome.attempts[-1] for outcome in outcomes[-40:]]
    assert median(abs(a.billed_usd - a.expected_cost_usd) for a in attempts) < 1e-3


async def test_who_is_slowed_or_repriced_loses_the_traffic_and_gets_it_back(tmp_path: Path):
    quick, slow, *ours = (Upstream(delay_s=delay) for delay in (0.0, 1.0, 0.2, 0.2))
    prices = Prices(tmp_path, 4)
    pool = gateway(
        *(quick, slow, *ours), rules=prices.rules, source=prices.source, draws=random.Random(1)
    )
    async with pool as g:
        await lose_and_regain(g, quick, {"u2", "u3"}, prices, slow_s=1.0, within=60)


@pytest.mark.prove
async def test_so_does_who_stands_beside_two_replicas_of_the_real_model(tmp_path: Path):
    quick, slow = Upstream(delay_s=0.0), Upstream(delay_s=1.0)
    prices = Prices(tmp_path, 2)
    replicas = {"m": Replicas("smollm2", count=2, kv_tokens=2048)}
    pool = gateway(
        *(quick, slow),
        rules=prices.rules,
        source=prices.source,
        replicas=replicas,
        draws=random.Random(1),
    )
    async with pool as g:
        ours = {"m-0", "m-1"}
        deadline = time.monotonic() + 300
        while not all(g.gateway.fleet.endpoints[name].healthy for name in ours):
            assert time.monotonic() < deadline
            await anyio.sleep(0.1)
        await lose_and_regain(g, quick, ours, prices, slow_s=0.5, within=100)
