"""The whole loop: same seed same answers, nothing lost, and what an oracle knows."""

from __future__ import annotations

import dataclasses
import random
from collections.abc import Sequence
from dataclasses import replace

import hypothesis.strategies as st
import pytest
from hypothesis import given, settings

from gateway.replay.gateways import Load, NobodyLeft, Setup
from gateway.replay.hosted import HostedSpec
from gateway.replay.loads import made_up
from gateway.replay.machines import Machines
from gateway.replay.metrics import summarise
from gateway.replay.replica import Replica, ReplicaSpec
from gateway.replay.simulation import Answer, Simulation
from gateway.replay.trace import Trace, TraceRequest
from tests.replay.drive import packaged, sample

CACHE_AWARE = packaged("cache_aware")
ENDLESS = ReplicaSpec(cache_tokens=10**9)
HOSTED = HostedSpec(ttft_s=0.2)


def run(
    trace: Trace,
    *,
    machines: Machines | None = None,
    setup: Setup | None = None,
    policy: str = "cache_aware",
    seed: int = 0,
) -> tuple[Simulation, Sequence[Answer]]:
    simulation = Simulation(trace, packaged(policy), machines or Machines(), setup or Setup(), seed)
    return simulation, simulation.run()


def busy(kind: str) -> Trace:
    """The sample at a rate that fills eight replicas."""
    return sample(kind).jittered(random.Random(0)).at_load(1.5)


@pytest.mark.parametrize("policy", ["cache_aware", "peer_p2c", "balanced"])
def test_a_seed_gives_the_same_answers_again(policy: str) -> None:
    trace = busy("synthetic").limited(200)
    assert run(trace, policy=policy)[1] == run(trace, policy=policy)[1]


def test_another_seed_draws_otherwise() -> None:
    trace = busy("conversation").limited(200)
    one, other = (run(trace, policy="peer_p2c", seed=seed)[1] for seed in (1, 2))
    assert [a.endpoint for a in one] != [a.endpoint for a in other]


@settings(deadline=None, max_examples=30)
@given(
    st.integers(1, 4),
    st.sampled_from(["own", "exact", 0.5]),
    st.booleans(),
    st.integers(0, 100),
    st.sampled_from(["cache_aware", "peer_sglang", "peer_p2c"]),
)
def test_every_request_is_answered_once_and_every_counter_returns_to_nothing(
    gateways: int, counters: float | str, shared_index: bool, seed: int, policy: str
) -> None:
    trace = made_up("agents", requests=60, families=1, draws=random.Random(seed)).at_load(20)
    machines = Machines(ReplicaSpec(cache_tokens=100_000), 3, {"away": HOSTED})
    setup = Setup(gateways, counters, shared_index)
    simulation, answers = run(trace, machines=machines, setup=setup, policy=policy, seed=seed)
    assert [answer.request for answer in answers] == trace.requests
    for answer in answers:
        assert answer.request.arrival_s < answer.first_s <= answer.last_s
        assert 0 <= answer.cached_tokens < answer.request.prompt_tokens
    for gateway in simulation.gateways:
        assert set(gateway.load().values()) <= {Load()}
    for server in simulation.servers.values():
        assert server.due is None
        if isinstance(server, Replica):
            assert server.cache.in_use == 0
            assert server.cache.used <= server.cache.capacity


@pytest.mark.parametrize("kind", ["conversation", "synthetic"])
def test_one_replica_with_an_endless_cache_reuses_all_that_can_be_reused(kind: str) -> None:
    # So slow an arrival that no two requests compute the same block at once.
    trace = sample(kind).limited(300)
    apart = [replace(r, arrival_s=1000.0 * i) for i, r in enumerate(trace.requests)]
    trace = replace(trace, requests=apart)
    _, answers = run(trace, machines=Machines(ENDLESS, 1))
    cached = sum(a.cached_tokens for a in answers) / sum(r.prompt_tokens for r in apart)
    assert cached == pytest.approx(trace.ideal_hit())


def test_no_policy_finds_more_than_the_ideal() -> None:
    trace = busy("synthetic")
    _, answers = run(trace)
    cached = sum(a.cached_tokens for a in answers)
    assert cached <= trace.ideal_hit() * sum(r.prompt_tokens for r in trace.requests)


@pytest.mark.parametrize("kind", ["conversation", "synthetic"])
def test_counting_cached_tokens_beats_counting_requests(kind: str) -> None:
    trace = busy(kind)
    aware, blind = (summarise(run(trace, policy=p)[1], 8) for p in ("cache_aware", "least_busy"))
    assert aware.goodput > blind.goodput
    assert aware.hit > 2 * blind.hit
    assert aware.e2e_mean < blind.e2e_mean


@pytest.mark.parametrize(("policy", "busiest"), [("peer_sglang", 8.0), ("peer_mooncake", 8.0)])
def test_one_hot_prefix_sends_everything_to_one_replica_under_a_threshold(
    policy: str, busiest: float
) -> None:
    hot = made_up("hot", requests=400, families=1, draws=random.Random(0)).at_load(1 / 8)
    assert summarise(run(hot, policy=policy)[1], 8).spread == pytest.approx(busiest)
    assert summarise(run(hot)[1], 8).spread < 5


def test_gateways_that_share_nothing_find_less_than_those_that_share_all() -> None:
    trace = busy("synthetic")
    apart = summarise(run(trace, setup=Setup(8, "own", shared_index=False))[1], 8)
    together = summarise(run(trace, setup=Setup(8, "exact", shared_index=True))[1], 8)
    assert apart.hit < together.hit
    assert apart.goodput < together.goodput


def test_a_look_at_the_others_shows_what_they_had_at_that_time() -> None:
    requests = [TraceRequest(float(i), 30_000, 2000) for i in range(20)]
    setup = Setup(2, 5.0, shared_index=False)
    simulation, _ = run(Trace("t", requests, 512), setup=setup)
    assert all(
        gateway.others.keys() == simulation.servers.keys() for gateway in simulation.gateways
    )


def test_an_overloaded_pool_pays_for_a_provider() -> None:
    trace = sample("conversation").at_load(4.0)
    machines = Machines(replicas=2, hosted={"away": HOSTED})
    answers = run(trace, machines=machines, policy="balanced")[1]
    paid = [a for a in answers if a.endpoint == "away"]
    assert paid
    assert all(a.cost_usd > 0 for a in paid)
    assert all(a.cost_usd == 0 for a in answers if a.endpoint != "away")


def test_a_policy_that_turns_everybody_away_is_told() -> None:
    policy = dataclasses.replace(CACHE_AWARE, filters={"nobody": _Nobody()})
    simulation = Simulation(sample("synthetic"), policy, Machines(), Setup(), 0)
    with pytest.raises(NobodyLeft, match="cache_aware dropped every endpoint: nobody"):
        simulation.run()


class _Nobody:
    def keep(self, request: object, candidate: object) -> bool:
        return False


@pytest.mark.parametrize(
    ("make", "told"),
    [
        (lambda: Machines(replicas=0), "at least one replica"),
        (lambda: Machines(hosted={"replica-0": HOSTED}), "is a replica's name"),
        (lambda: Setup(count=0), "at least one gateway"),
        (lambda: Setup(counters="some"), "own, exact, or a number"),
        (lambda: Setup(counters=0.0), "above 0"),
    ],
)
def test_what_cannot_be_simulated_is_refused(make: object, told: str) -> None:
    assert callable(make)
    with pytest.raises(ValueError, match=told):
        make()
