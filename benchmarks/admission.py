"""
Sharing: a tenant beside a greedy one, and three times more than there is room for.

One endpoint of 16 places whose requests take a known time, so that capacity is known; gateway,
endpoint and callers are in this process. `python -m benchmarks.admission`.
"""

from __future__ import annotations

import asyncio
import json
import resource
import statistics
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace
from time import perf_counter

import httpx

from gateway.config.bind import Seconds, Secret
from gateway.config.tree import Key, Patience, Queue
from tests.support.gateways import Running, gateway
from tests.support.upstream import Upstream

PLACES, FIRST_S, PIECES, GAP_S = 16, 0.4, 6, 0.2
SERVICE_S = FIRST_S + GAP_S * (PIECES + 1)
CAPACITY = PLACES / SERVICE_S  # requests per second
WARM_S = 10.0
CLASSES = ("interactive", "standard", "batch")
KEYS = tuple(
    Key(f"{tenant}-{name}", Secret(f"sk-{tenant}-{name}"), tenant=tenant, request_class=name)
    for tenant in ("quiet", "noisy")
    for name in CLASSES
)


@dataclass
class Seen:
    """What callers of one kind saw."""

    first_s: list[float] = field(default_factory=list)  # of those answered
    refused: int = 0
    with_advice: int = 0  # refusals that say when to come back

    def p(self, share: float) -> float:
        return sorted(self.first_s)[min(len(self.first_s) - 1, int(share * len(self.first_s)))]


@asynccontextmanager
async def world(size: int, patience: Patience) -> AsyncIterator[tuple[Running, httpx.AsyncClient]]:
    upstream = Upstream(pieces=("word ",) * PIECES, delay_s=FIRST_S - GAP_S, gap_s=GAP_S)
    queue = Queue(size=size, patience=patience)
    limits = httpx.Limits(max_connections=None, max_keepalive_connections=200)
    async with (
        gateway(upstream, keys=KEYS, endpoint={"max_in_flight": PLACES}, queue=queue) as g,
        httpx.AsyncClient(timeout=60, limits=limits) as client,
    ):
        yield g, client


async def ask(g: Running, client: httpx.AsyncClient, key: str, seen: Seen) -> None:
    body = {"model": "m", "messages": [{"role": "user", "content": "hi"}], "stream": True}
    headers = {"authorization": f"Bearer sk-{key}", "content-type": "application/json"}
    started = perf_counter()
    url = f"{g.url}/v1/chat/completions"
    async with client.stream("POST", url, headers=headers, content=json.dumps(body)) as answer:
        if answer.status_code != 200:
            seen.refused += 1
            seen.with_advice += "retry-after" in answer.headers
            return
        first = None
        async for line in answer.aiter_lines():
            first = first or (perf_counter() if line.startswith("data:") else None)
        assert first is not None
        seen.first_s.append(first - started)


async def at_rate(per_s: float, seconds: float, act: Callable[[int], Awaitable[None]]) -> None:
    """Open loop: the next one does not wait for the last."""
    started = perf_counter()
    async with asyncio.TaskGroup() as group:
        for index in range(int(per_s * seconds)):
            await asyncio.sleep(max(0.0, started + index / per_s - perf_counter()))
            group.create_task(act(index))  # type: ignore[arg-type]


async def noisy_neighbour(seconds: float) -> dict[str, float]:
    """One tenant at half of its share; and with it another at 20 times its own."""
    share = CAPACITY / 2
    alone, beside, noise = Seen(), Seen(), Seen()
    async with world(200, Patience()) as (g, client):
        await at_rate(share / 2, seconds, lambda _: ask(g, client, "quiet-standard", alone))
        async with asyncio.TaskGroup() as group:
            group.create_task(
                at_rate(share * 20, seconds, lambda _: ask(g, client, "noisy-standard", noise))
            )
            await asyncio.sleep(2)
            await at_rate(
                share / 2, seconds - 4, lambda _: ask(g, client, "quiet-standard", beside)
            )
    return {
        "alone p99 s": alone.p(0.99),
        "beside p99 s": beside.p(0.99),
        "ratio": beside.p(0.99) / alone.p(0.99),
        "refused of the quiet": beside.refused,
        "refused of the noisy": noise.refused,
        "answered of the noisy": len(noise.first_s),
    }


async def overload(seconds: float) -> dict[str, float]:
    """Three times the capacity, a third of it in each class."""
    seen = {priority: Seen() for priority in CLASSES}
    patience = Patience(Seconds(5), Seconds(10), Seconds(20))
    async with world(300, patience) as (g, client):

        async def one(index: int) -> None:
            priority = CLASSES[index % 3]
            await ask(g, client, f"quiet-{priority}", seen[priority])

        load = asyncio.create_task(at_rate(CAPACITY * 3, WARM_S + seconds, one))
        await asyncio.sleep(WARM_S)  # full, and the queue knows its pace
        for known in seen.values():
            known.first_s.clear()
            known.refused = known.with_advice = 0
        before, started = _rss_mb(), perf_counter()
        await asyncio.sleep(seconds)
        elapsed, after = perf_counter() - started, _rss_mb()
        # What waited when the load ended is answered later, and says nothing of its order.
        counted = {name: replace(known, first_s=[*known.first_s]) for name, known in seen.items()}
        await load
    answered = sum(len(s.first_s) for s in counted.values())
    refused = sum(s.refused for s in counted.values())
    return {
        "goodput of capacity": answered / (CAPACITY * elapsed),
        **{
            f"{name} answered": len(s.first_s) / (CAPACITY * elapsed) for name, s in counted.items()
        },
        "interactive median s": statistics.median(counted["interactive"].first_s),
        "refusals with retry-after": sum(s.with_advice for s in counted.values()) / max(1, refused),
        "grown MB": after - before,
    }


def _rss_mb() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def main() -> None:
    print(f"capacity {CAPACITY:.1f} requests/s, first token {FIRST_S} s")
    for name, result in (
        ("noisy neighbour", asyncio.run(noisy_neighbour(30))),
        ("overload", asyncio.run(overload(60))),
    ):
        print(name, {key: round(value, 3) for key, value in result.items()})


if __name__ == "__main__":
    main()
