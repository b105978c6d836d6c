"""A minute of everything at once: nothing lost, nothing leaked."""

import asyncio
import os
import random
import time

import httpx
import pytest

from tests.support.gateways import Running, gateway
from tests.support.upstream import Upstream

pytestmark = [pytest.mark.anyio, pytest.mark.prove]

SECONDS = 60
AT_ONCE = 100
PIECES = tuple(f"piece {i} " for i in range(20))


async def one(g: Running, client: httpx.AsyncClient, draw: random.Random) -> None:
    """One request, streamed or not; three in ten hang up somewhere in it."""
    body = {
        "model": "m",
        "messages": [{"role": "user", "content": f"question {draw.random()}"}],
        "stream": draw.random() < 0.7,
    }
    patience = draw.uniform(0, 0.3) if draw.random() < 0.3 else 30
    try:
        async with (
            asyncio.timeout(patience),
            client.stream("POST", f"{g.url}/v1/chat/completions", json=body) as response,
        ):
            text = (await response.aread()).decode()
    except TimeoutError:
        return
    assert response.status_code in (200, 502), text
    if response.status_code == 200 and body["stream"] and "upstream_broken" not in text:
        assert [piece in text for piece in PIECES] == [True] * len(PIECES)
        assert text.endswith("data: [DONE]\n\n")


async def test_nothing_is_lost_or_leaked_in_a_minute_of_everything_at_once():
    draw = random.Random(1)
    good = Upstream(pieces=PIECES, gap_s=0.01)
    broken = Upstream(pieces=PIECES, gap_s=0.01, break_at=7)
    refusing = Upstream(status=503)
    async with (
        gateway(good, good, broken, refusing, policy="least_busy") as g,
        httpx.AsyncClient(timeout=60, limits=httpx.Limits(max_connections=None)) as client,
    ):
        for _ in range(AT_ONCE):
            await one(g, client, draw)
        before = descriptors()
        until = time.monotonic() + SECONDS

        async def again_and_again() -> None:
            while time.monotonic() < until:
                await one(g, client, draw)

        async with asyncio.TaskGroup() as tasks:
            for _ in range(AT_ONCE):
                tasks.create_task(again_and_again())
        await asyncio.sleep(6)  # idle connections to endpoints are closed after four seconds
        assert g.in_flight() == dict.fromkeys(g.in_flight(), 0)
        assert all(e.queued_tokens == 0 for e in g.gateway.fleet.endpoints.values())
        assert good.running == broken.running == 0
        assert all(outcome.ended for outcome in g.settled.outcomes)
        assert descriptors() <= before + 2 * AT_ONCE  # our own client's connections, both ends


def descriptors() -> int:
    return len(os.listdir("/proc/self/fd"))
