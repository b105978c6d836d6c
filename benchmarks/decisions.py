"""CPU time of a decision: what the gateway does for each request before it sends it anywhere.

`python -m benchmarks.decisions`. A decision is `Fleet.snapshot` (the placement index's longest
matches, a token estimate, a candidate for each endpoint) and `Policy.decide`, over endpoints that
have learnt, half of which hold a part of the prompt. Hashing, from the parsed body to its prefix
keys, is stated apart: it grows with the prompt, and a decision should not.
"""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Sequence
from typing import Any

from gateway.config.load import PACKAGED, load_policy
from gateway.domain import InferenceRequest, Operation, PrefixKey
from gateway.fleet.endpoint import Endpoint
from gateway.fleet.fleet import Fleet
from gateway.fleet.learning import Observation
from gateway.fleet.placement import PlacementIndex
from gateway.replay.gateways import MODEL, TOKEN_BYTES, Unconnected
from gateway.replay.metrics import percentile
from gateway.wire.prefix import chat_parts, prefix_keys
from routing_policies.base import Context
from routing_policies.catalog import Catalog
from routing_policies.policy import Policy

POLICIES = ("balanced", "cache_aware")
CANDIDATES = (4, 16, 64)
PROMPT_TOKENS = (1_000, 16_000, 100_000)
TURN_TOKENS = 500
REPEATS = 3_000
TENANT_KEY = bytes(32)


def main() -> None:
    bodies = {tokens: conversation(tokens) for tokens in PROMPT_TOKENS}
    catalog = Catalog.load()
    print("µs of CPU, p50 / p99", *(f"{tokens:>12,} tokens" for tokens in PROMPT_TOKENS))
    cells = [measured(lambda b=body: hashed(b), REPEATS // 10) for body in bodies.values()]
    print(f"{'hashing':<20}", *(f"{_pair(cell):>19}" for cell in cells))
    for name in POLICIES:
        policy = load_policy(PACKAGED / f"{name}.yaml", catalog)
        for count in CANDIDATES:
            cells = [deciding(policy, count, hashed(body)) for body in bodies.values()]
            print(f"{name:<16} {count:>3}", *(f"{_pair(cell):>19}" for cell in cells))


def conversation(tokens: int) -> dict[str, Any]:
    """A chat of so many tokens, in turns."""
    text = random.Random(0).randbytes(TURN_TOKENS * TOKEN_BYTES // 2).hex()
    turn = {"role": "user", "content": text}
    return {"model": MODEL, "messages": [turn] * (tokens // TURN_TOKENS)}


def hashed(body: dict[str, Any]) -> tuple[PrefixKey, ...]:
    return prefix_keys(chat_parts(MODEL, body), TENANT_KEY)


def deciding(policy: Policy, count: int, prefix: tuple[PrefixKey, ...]) -> Sequence[float]:
    """Of a request that begins like others before it, among so many candidates."""
    request = InferenceRequest(
        operation=Operation.CHAT,
        model=MODEL,
        forwarded={},
        stream=True,
        include_usage=True,
        max_tokens=None,
        prompt_size=prefix[-1].size,
        prefix=prefix,
        cache_salt="",
    )
    fleet, draws = _fleet(count, request), random.Random(0)

    def decide() -> None:
        asked, candidates, _ = fleet.snapshot(request)
        policy.decide(asked, candidates, Context(now=0.0, draw=draws.random()))

    return measured(decide, REPEATS)


def _fleet(count: int, request: InferenceRequest) -> Fleet:
    provider, draws, index = Unconnected(), random.Random(1), PlacementIndex()
    endpoints = [
        Endpoint(f"endpoint-{i}", frozenset({MODEL}), provider=provider, dedicated=True)
        for i in range(count)
    ]
    for place, endpoint in enumerate(endpoints):
        endpoint.in_flight, endpoint.queued_tokens = draws.randrange(20), draws.randrange(20_000)
        for _ in range(20):
            endpoint.learning.answered(_observation(draws), now=0.0)
        if place % 2:
            known = request.prefix[: draws.randint(1, len(request.prefix))]
            index.place(endpoint.name, known, 0.0, known[-1].size // TOKEN_BYTES)
    return Fleet(endpoints, index, lambda: 0.0)


def _observation(draws: random.Random) -> Observation:
    return Observation(
        first_event_s=draws.uniform(0.1, 1),
        streamed=True,
        output_s=draws.uniform(1, 5),
        prompt_tokens=draws.randint(100, 10_000),
        cached_tokens=50,
        output_tokens=100,
        queued_tokens=draws.randrange(10_000),
        in_flight=draws.randrange(20),
        expected_first_s=0.5,
        expected_cached_tokens=60,
    )


def measured(act: Callable[[], object], repeats: int) -> Sequence[float]:
    """Microseconds of this process's CPU for each of so many calls, in order."""
    for _ in range(repeats // 10):
        act()
    spent = []
    for _ in range(repeats):
        started = time.process_time_ns()
        act()
        spent.append((time.process_time_ns() - started) / 1000)
    return sorted(spent)


def _pair(spent: Sequence[float]) -> str:
    return f"{percentile(spent, 0.5):.0f} / {percentile(spent, 0.99):.0f}"


if __name__ == "__main__":
    main()
