"""What decisions expected beside what happened, live: `python -m benchmarks.predicted`.

A gateway with two replicas of SmolLM2, priced as a provider would, and one client. Twenty
conversations of ten turns that take turns, streamed, under the policy `cache_aware`. A request is
asked when the one before it is over, so that nothing queues but what the machine makes queue.
"""

from __future__ import annotations

import argparse
import asyncio
from collections import Counter
from statistics import median

from gateway.config.tree import Replicas
from gateway.tariffs import Tariff
from routing_policies.base import Price
from tests.support.gateways import Running, gateway

WORDS = "the sea was calm and the ship went on under a sky of grey and green "


async def ask(g: Running, history: list[dict[str, str]], number: int) -> None:
    history.append({"role": "user", "content": f"Question {number}. {WORDS * 4}"})
    text = ""
    patient = g.sdk.with_options(timeout=300)
    async for chunk in await patient.chat.completions.create(
        model="smollm2", messages=history, stream=True, max_tokens=16
    ):
        text += (chunk.choices and chunk.choices[0].delta.content) or ""
    history.append({"role": "assistant", "content": text})


async def main(requests: int) -> None:
    async with gateway(
        policy="cache_aware",
        models=("smollm2",),
        replicas={"smollm2": Replicas("smollm2", count=2)},
    ) as g:
        endpoints = g.gateway.fleet.endpoints
        for endpoint in endpoints.values():
            endpoint.tariffs = {"smollm2": Tariff(Price(0.3, 0.6, cached=0.03))}
        while not all(e.healthy for e in endpoints.values()):  # noqa: ASYNC110 - another process
            await asyncio.sleep(0.1)
        histories: list[list[dict[str, str]]] = [[] for _ in range(20)]
        for number in range(requests):
            await ask(g, histories[number % len(histories)], number)
        attempts = [o.attempts[-1] for o in await g.settled.wait_for(requests)]
    print("endpoints:", dict(Counter(a.endpoint for a in attempts)))
    rows = (
        ("first token, ms", [(1e3 * (a.ttft_s or 0), 1e3 * a.expected_ttft_s) for a in attempts]),
        (
            "cost, micro-dollars",
            [(1e6 * a.billed_usd, 1e6 * a.expected_cost_usd) for a in attempts],
        ),
        ("cached tokens", [(a.cached_tokens or 0, a.expected_cached_tokens) for a in attempts]),
    )
    for name, pairs in rows:
        for part, some in (("all", pairs), ("last half", pairs[len(pairs) // 2 :])):
            error = median(abs(happened - expected) for happened, expected in some)
            usual = median(happened for happened, _ in some)
            print(f"{name}, {part}: median error {error:.3g}, median {usual:.3g}")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--requests", type=int, default=200)
    asyncio.run(main(parser.parse_args().requests))
