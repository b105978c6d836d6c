"""The two homes of meters do the same; what a server's loss may and may not do."""

from __future__ import annotations

import asyncio
import os
import signal
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import AsyncExitStack, asynccontextmanager

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gateway.admission.meters import Charge, Kind, Meter
from gateway.state.connect import connect
from gateway.state.embedded import Embedded, embedded
from gateway.state.memory import MemoryMeters
from gateway.state.shared import SharedMeters
from tests.support.clock import ManualClock

pytestmark = pytest.mark.anyio

PER_DAY = Meter("r", Kind.RATE, limit=1000, window_s=86_400)
IN_FLIGHT = Meter("h", Kind.HELD, limit=20)


@pytest.fixture
def server() -> Iterator[Embedded]:
    with embedded() as running:
        yield running


@asynccontextmanager
async def sharing(server: Embedded, count: int, **options) -> AsyncIterator[list[SharedMeters]]:
    """So many gateways' meters; generous deadlines, since other programs use this machine."""
    options = {"deadline_s": 2.0, **options}
    async with AsyncExitStack() as stack:
        gateways = []
        for index in range(count):
            redis = connect(server.url, options["deadline_s"])
            stack.push_async_callback(redis.aclose)
            meters = SharedMeters(redis, f"g{index}", **options)
            await stack.enter_async_context(meters.running())
            gateways.append(meters)
        await until(lambda: all(meters.gateways == count for meters in gateways))
        yield gateways


async def until(condition, seconds: float = 30) -> None:
    async with asyncio.timeout(seconds):
        while not condition():  # noqa: ASYNC110  # nobody tells
            await asyncio.sleep(0.01)


def granted(verdicts) -> int:
    return sum(v.refused_by is None for v in verdicts)


# The arithmetic, on a clock that tests move.


async def test_a_bucket_lets_its_limit_through_at_once_and_then_at_its_rate():
    clock = ManualClock()
    meters = MemoryMeters(clock)
    one = [Charge(Meter("r", Kind.RATE, limit=10, window_s=60), 1)]
    assert granted([await meters.take(one) for _ in range(15)]) == 10
    refused = await meters.take(one)
    assert refused.retry_after_s == pytest.approx(6)
    clock.advance(5.9)
    assert (await meters.take(one)).refused_by == 0
    clock.advance(0.2)
    assert (await meters.take(one)).refused_by is None
    clock.advance(3600)
    assert granted([await meters.take(one) for _ in range(15)]) == 10, "no more than one window's"


async def test_more_than_the_whole_limit_passes_on_a_full_bucket_and_is_paid_off_first():
    clock = ManualClock()
    meters = MemoryMeters(clock)
    tokens = Meter("t", Kind.RATE, limit=100, window_s=60)
    assert (await meters.take([Charge(tokens, 300)])).refused_by is None
    assert (await meters.take([Charge(tokens, 1)])).retry_after_s == pytest.approx(120.6)
    clock.advance(120.7)
    assert (await meters.take([Charge(tokens, 1)])).refused_by is None
    assert (await meters.take([Charge(tokens, 300)])).refused_by == 0, "not full now"


async def test_all_charges_are_made_or_none():
    meters = MemoryMeters(ManualClock())
    two = [Charge(Meter("a", Kind.RATE, 10, 60), 1), Charge(Meter("b", Kind.HELD, 1), 1)]
    assert granted([await meters.take(two) for _ in range(3)]) == 1
    (left, _) = (await meters.take([Charge(m.meter, 0) for m in two])).left
    assert left == pytest.approx(9)


async def test_what_is_left_of_a_budget_can_be_taken_without_a_refusal():
    meters = MemoryMeters(ManualClock())
    budget = Meter("usd", Kind.SPEND, limit=1.0, ends=1e12)
    taken = [(await meters.take([Charge(budget, 0.4, at_most=True)])).granted[0] for _ in range(4)]
    assert taken == pytest.approx([0.4, 0.4, 0.2, 0.0])
    meters.give([Charge(budget, -0.3)])
    assert (await meters.take([Charge(budget, 1, at_most=True)])).granted[0] == pytest.approx(0.3)


METERS = [
    Meter("rate", Kind.RATE, limit=50, window_s=1e6),
    Meter("spend", Kind.SPEND, limit=7.5, ends=1e12),
    Meter("held", Kind.HELD, limit=5),
]
CHARGES = st.lists(
    st.builds(
        Charge,
        st.sampled_from(METERS),
        st.integers(0, 9).map(float),
        st.just(False) | st.booleans(),
    ),
    min_size=1,
    max_size=3,
    unique_by=lambda charge: charge.meter.key,
)


@pytest.fixture(scope="module")
def one_server() -> Iterator[Embedded]:
    with embedded() as running:
        yield running


@settings(max_examples=25, deadline=None)
@given(st.lists(st.tuples(st.booleans(), CHARGES), max_size=12))
def test_memory_and_server_decide_alike(one_server, steps):
    async def run() -> None:
        memory = MemoryMeters(time.time)
        async with sharing(one_server, 1, prefix=f"{{{os.urandom(6).hex()}}}:") as (shared,):
            for is_take, charges in steps:
                if is_take:
                    mine, theirs = await memory.take(charges), await shared.take(charges)
                    assert mine.refused_by == theirs.refused_by
                    assert mine.granted == pytest.approx(theirs.granted, abs=1e-3)
                    assert mine.left == pytest.approx(theirs.left, abs=1e-3)
                else:
                    back = [Charge(c.meter, -c.amount) for c in charges]
                    memory.give(back)
                    shared.give(back)

    with pytest.MonkeyPatch.context() as patch:  # no trip is decided alone
        patch.setattr("gateway.state.shared.PATIENCE_S", 2.0)
        patch.setattr("gateway.state.shared.GIVEN_UP_S", 30.0)
        asyncio.run(run())


# Shared.


async def test_four_gateways_let_no_more_through_than_the_limit(server):
    one = [Charge(PER_DAY, 1), Charge(Meter("t", Kind.RATE, 50_000, 86_400), 49)]
    async with sharing(server, 4) as gateways:
        verdicts = []
        for _ in range(40):
            verdicts += await asyncio.gather(*(g.take(one) for _ in range(10) for g in gateways))
    in_time = [v for v in verdicts if not v.alone]
    assert len(in_time) > 1000
    assert granted(in_time) <= 1010
    assert granted(verdicts) >= 1000


async def test_of_what_a_dead_gateway_took_only_what_runs_at_a_time_is_free_again(
    server, monkeypatch
):
    spent = Meter("d", Kind.SPEND, limit=1.0, ends=time.time() + 3600)
    monkeypatch.setattr("gateway.state.shared.LEASE_S", 1.5)
    async with sharing(server, 1) as (living,):
        redis = connect(server.url, 5.0)
        dying = SharedMeters(redis, "dying", deadline_s=2.0)
        async with dying.running():
            assert granted([await dying.take([Charge(IN_FLIGHT, 1)]) for _ in range(30)]) == 20
            await dying.take([Charge(spent, 0.25)])  # an endpoint may bill it
            assert (await living.take([Charge(IN_FLIGHT, 1)])).refused_by == 0
        await redis.aclose()

        async def free() -> bool:
            return (await living.take([Charge(IN_FLIGHT, 1)])).refused_by is None

        async with asyncio.timeout(10):
            while not await free():  # noqa: ASYNC110
                await asyncio.sleep(0.05)
        assert (await living.take([Charge(spent, 0.0)])).left == (0.75,)


async def test_a_hang_up_while_it_is_asked_takes_nothing(server):
    async with sharing(server, 1) as (gateway,):
        tasks = [asyncio.create_task(gateway.take([Charge(IN_FLIGHT, 1)])) for _ in range(20)]
        await asyncio.sleep(0)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        await asyncio.sleep(0.1)
        verdict = await gateway.take([Charge(IN_FLIGHT, 0)])
    assert verdict.left == (20,)


# Lost.


def kill(server: Embedded) -> None:
    server.stop()


def pause(server: Embedded) -> None:
    assert server.process is not None
    server.process.send_signal(signal.SIGSTOP)


def back(server: Embedded) -> None:
    if server.process is None:
        server.start()
    else:
        server.process.send_signal(signal.SIGCONT)


@pytest.mark.parametrize("lose", [kill, pause])
async def test_a_lost_server_delays_nobody_and_the_counts_are_right_when_it_is_back(server, lose):
    budget = Meter("usd", Kind.SPEND, limit=1000, ends=time.time() + 86_400)
    charges = [Charge(PER_DAY, 1), Charge(IN_FLIGHT, 1), Charge(budget, 1)]
    deadline = 0.05  # as far from this machine's hiccups as from the assertion below
    async with sharing(server, 2, deadline_s=deadline) as (a, b):
        for _ in range(5):
            assert (await a.take(charges)).refused_by is None
        lose(server)
        waits = []
        verdicts = []
        for gateway in (a, b, a, b):
            started = asyncio.get_running_loop().time()
            verdicts.append(await gateway.take(charges))
            waits.append(asyncio.get_running_loop().time() - started)
        await until(lambda: a.lost and b.lost)
        verdicts += [await gateway.take(charges) for gateway in (a, b)]
        assert granted(verdicts) == 6, "it fails open"
        assert all(v.alone for v in verdicts)
        a.give([Charge(IN_FLIGHT, -1), Charge(budget, -0.5)])

        back(server)
        await until(lambda: not a.lost and not b.lost)
        a.deadline_s = b.deadline_s = 2.0
        nothing = [Charge(c.meter, 0) for c in charges]
        right = pytest.approx((1000 - 11, 20 - 10, 1000 - 10.5), abs=0.4)
        async with asyncio.timeout(20):
            while (await a.take(nothing)).left != right:  # noqa: ASYNC110
                await asyncio.sleep(0.1)  # what came in during a beat goes with the next one
        assert (await b.take(nothing)).left == right


async def test_while_it_is_lost_every_gateway_enforces_its_share(server):
    async with sharing(server, 4) as gateways:
        kill(server)
        await until(lambda: all(g.lost for g in gateways))
        each = [
            granted([await g.take([Charge(PER_DAY, 1), Charge(IN_FLIGHT, 1)]) for _ in range(30)])
            for g in gateways
        ]
        rates = [
            granted([await g.take([Charge(PER_DAY, 1)]) for _ in range(400)]) for g in gateways
        ]
    assert each == [5, 5, 5, 5]
    assert rates == [245, 245, 245, 245]


async def test_what_fails_closed_is_refused_while_it_is_lost(server):
    async with sharing(server, 1, closed=frozenset({Kind.SPEND})) as (gateway,):
        kill(server)
        await until(lambda: gateway.lost)
        budget = Meter("usd", Kind.SPEND, limit=10, ends=1e12)
        rates = await gateway.take([Charge(PER_DAY, 1)])
        at_most = await gateway.take([Charge(budget, 1, at_most=True)])
        whole = await gateway.take([Charge(budget, 1)])
    assert rates.refused_by is None
    assert at_most.granted == (0.0,)
    assert (whole.refused_by, whole.alone) == (0, True)


async def test_a_slow_server_costs_the_deadline_and_no_count(server):
    """Slower than anyone waits, and not lost: each request goes by the gateway's share."""
    async with sharing(server, 1, deadline_s=0.001) as (gateway,):
        slow = connect(server.url, 10.0)
        sleeping = asyncio.create_task(slow.eval(BUSY, 0))
        verdicts = []
        async with asyncio.timeout(10):
            while not any(v.alone for v in verdicts):
                if sleeping.done():  # before this program was given the time to ask
                    sleeping = asyncio.create_task(slow.eval(BUSY, 0))
                verdicts.append(await gateway.take([Charge(PER_DAY, 1)]))
        await sleeping
        gateway.deadline_s = 2.0  # and this one comes after them all
        await until(lambda: not gateway.lost)
        left = (await gateway.take([Charge(PER_DAY, 0)])).left
        await slow.aclose()
    assert granted(verdicts) == len(verdicts)
    assert left[0] == pytest.approx(1000 - len(verdicts), abs=0.3)


BUSY = """
local function now() local t = redis.call('TIME') return t[1] * 1000 + t[2] / 1000 end
local till = now() + 40
while now() < till do end
"""
