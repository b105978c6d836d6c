"""Loads that are made up: their shape, and that a seed makes them again."""

from __future__ import annotations

import random
from collections import Counter

import pytest

from gateway.replay.loads import Agents, made_up


@pytest.mark.parametrize("name", ["agents", "hot"])
def test_a_seed_makes_the_same_load_again(name: str) -> None:
    one, same, other = (
        made_up(name, requests=200, families=3, draws=random.Random(seed)) for seed in (1, 1, 2)
    )
    assert one == same != other


@pytest.mark.parametrize("name", ["agents", "hot"])
def test_requests_come_in_order_with_an_id_for_each_block(name: str) -> None:
    trace = made_up(name, requests=500, families=3, draws=random.Random(1))
    arrivals = [r.arrival_s for r in trace.requests]
    assert arrivals == sorted(arrivals)
    assert all(len(r.blocks) == -(-r.prompt_tokens // 512) for r in trace.requests)


def test_hot_prefixes_are_as_many_as_asked_for() -> None:
    trace = made_up("hot", requests=300, families=5, draws=random.Random(1))
    prefixes = Counter(r.blocks[:32] for r in trace.requests)
    assert len(prefixes) == 5
    assert trace.ideal_hit() > 0.9


def test_agents_grow_their_conversations_and_share_nothing_between_sessions() -> None:
    trace = made_up("agents", requests=1000, families=1, draws=random.Random(1))
    assert 0.85 < trace.ideal_hit() < 0.97
    sessions = {r.blocks[0]: r.prompt_tokens for r in trace.requests}  # the last turn seen
    assert len(sessions) > 20
    assert max(sessions.values()) > 20_000


def test_sessions_follow_each_other_at_their_rate() -> None:
    sparse, dense = (
        made_up_rate(Agents(sessions_per_s=rate), requests=2000) for rate in (0.05, 0.5)
    )
    assert 5 < dense / sparse < 20


def made_up_rate(agents: Agents, *, requests: int) -> float:
    stream = agents.requests(random.Random(1))
    arrivals = [next(stream).arrival_s for _ in range(requests)]
    return requests / arrivals[-1]
