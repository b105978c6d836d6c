"""The dispatcher over providers without a network, in virtual time."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from typing import Any, ClassVar, TypeVar

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from gateway.domain import Ended, Principal, Usage
from gateway.errors import (
    DeadlineExceeded,
    InvalidRequest,
    UpstreamBroken,
    UpstreamBusy,
    UpstreamCold,
    UpstreamError,
    UpstreamKeyRefused,
    UpstreamRefused,
    UpstreamUnreachable,
)
from gateway.fleet.breaker import FIRST_S, IN_A_ROW
from gateway.providers.base import Continuation
from tests.support.fake_providers import ANSWER, Client, Watched, World
from tests.support.virtual_time import VirtualLoop

T = TypeVar("T")


def run(story: Callable[[Callable[[], float]], Coroutine[Any, Any, T]]) -> T:
    loop = VirtualLoop()
    try:
        return loop.run_until_complete(story(loop.time))
    finally:
        loop.close()


TOOK_WORK = [UpstreamRefused("500"), UpstreamBroken("cut")]


@pytest.mark.parametrize("error", TOOK_WORK)
@pytest.mark.parametrize("requests", [1, 10, 400])
def test_when_everything_fails_endpoints_see_a_fifth_more_than_clients_ask(
    error: UpstreamError, requests: int
) -> None:
    async def story(clock: Callable[[], float]) -> int:
        world = World(clock, count=3)
        for fake in world.fakes.values():
            fake.refuses = error
        clients = await asyncio.gather(*(world.ask() for _ in range(requests)))
        assert all(isinstance(client.error, UpstreamError) for client in clients)
        return sum(len(fake.asked) for fake in world.fakes.values())

    assert requests < run(story) <= 1.2 * requests + 3


def test_models_to_fall_back_on_are_no_way_around_the_budget() -> None:
    async def story(clock: Callable[[], float]) -> int:
        world = World(clock, count=2, fallback={"models": ["n"]})
        for endpoint, fake in zip(
            world.fleet.endpoints.values(), world.fakes.values(), strict=True
        ):
            endpoint.models = frozenset("mn")
            fake.refuses = UpstreamRefused("500")
        await asyncio.gather(*(world.ask() for _ in range(100)))
        return sum(len(fake.asked) for fake in world.fakes.values())

    assert run(story) <= 123


def test_whoever_answers_stands_last_also_when_it_was_asked_first() -> None:
    async def story(clock: Callable[[], float]) -> None:
        world = World(clock, count=2, **HEDGED)
        world.fakes["e0"].first_s, world.fakes["e1"].first_s = 1.2, 30.0
        client = await world.ask()
        assert [(a.endpoint, a.ended) for a in client.outcome.attempts] == [
            ("e1", Ended.OVERTAKEN),
            ("e0", Ended.FINISHED),
        ]

    run(story)


def test_refusals_before_any_work_spend_no_budget() -> None:
    async def story(clock: Callable[[], float]) -> None:
        world = World(clock, count=3)
        world.fakes["e0"].refuses = world.fakes["e1"].refuses = UpstreamUnreachable("no")
        clients = await asyncio.gather(*(world.ask() for _ in range(50)))
        assert [client.text for client in clients] == ["".join(ANSWER)] * 50

    run(story)


def test_a_caller_error_is_asked_of_nobody_else() -> None:
    async def story(clock: Callable[[], float]) -> None:
        world = World(clock, count=3)
        for fake in world.fakes.values():
            fake.refuses = InvalidRequest("top_k")
        client = await world.ask()
        assert client.error is not None
        assert client.error.message == "top_k"
        assert sum(len(fake.asked) for fake in world.fakes.values()) == 1

    run(story)


def test_who_says_when_to_come_back_is_left_alone_until_then() -> None:
    async def story(clock: Callable[[], float]) -> None:
        world = World(clock, count=1)
        world.fakes["e0"].refuses = UpstreamBusy("at its limit", retry_after_s=20)
        await world.ask()
        world.fakes["e0"].refuses = None
        await asyncio.sleep(15)
        client = await world.ask()
        assert isinstance(client.error, UpstreamBusy)
        assert client.error.retry_after_s == pytest.approx(5)
        assert len(world.fakes["e0"].asked) == 1
        await asyncio.sleep(6)
        assert (await world.ask()).text == "".join(ANSWER)

    run(story)


def test_an_ejected_endpoint_is_found_to_be_back_by_a_probe() -> None:
    async def story(clock: Callable[[], float]) -> None:
        world = World(clock, count=2)
        bad, good = world.fakes.values()
        bad.refuses = UpstreamRefused("500")
        while not world.fleet.endpoints["e0"].breaker.ejected(clock()):
            await world.ask()
        assert len(bad.asked) == IN_A_ROW
        for _ in range(2):
            await world.ask()
        assert len(bad.asked) == IN_A_ROW
        bad.refuses = None
        await asyncio.sleep(FIRST_S * 1.2)
        clients = await asyncio.gather(*(world.ask() for _ in range(9)))
        probes = [a for c in clients for a in c.outcome.attempts if a.probe]
        assert [(a.endpoint, a.failed) for a in probes] == [("e0", False)]
        assert good.asked

    run(story)


def test_probes_that_fail_are_ever_further_apart() -> None:
    async def story(clock: Callable[[], float]) -> int:
        world = World(clock, count=2)
        world.fakes["e0"].refuses = UpstreamUnreachable("no")
        for _ in range(300):
            await world.ask()
            await asyncio.sleep(1.0)
        return len(world.fakes["e0"].asked)

    assert IN_A_ROW + 3 < run(story) < IN_A_ROW + 10


def test_who_may_reach_only_an_ejected_endpoint_is_answered_by_it() -> None:
    async def story(clock: Callable[[], float]) -> None:
        world = World(clock, count=2)
        ejected = world.fleet.endpoints["e0"]
        assert isinstance(ejected, Watched)
        ejected.others = lambda name: False
        world.principal = Principal("acme", "key", endpoints=frozenset({"e0"}))
        for _ in range(IN_A_ROW):
            ejected.breaker.failed(clock())
        client = await world.ask()
        assert (client.error, client.text) == (None, "".join(ANSWER))
        assert [(a.endpoint, a.probe) for a in client.outcome.attempts] == [("e0", False)]

    run(story)


def test_an_ejected_endpoint_is_no_way_out_for_one_failed_try() -> None:
    async def story(clock: Callable[[], float]) -> None:
        world = World(clock, count=2)
        for _ in range(IN_A_ROW):
            world.fleet.endpoints["e0"].breaker.failed(clock())
        world.fakes["e1"].refuses = UpstreamUnreachable("no")
        await world.ask()
        assert not world.fakes["e0"].asked

    run(story)


def test_a_silent_endpoint_leaves_half_of_the_time_to_another() -> None:
    async def story(clock: Callable[[], float]) -> None:
        world = World(clock, count=2)
        world.fakes["e0"].first_s = 1e6
        client = await world.ask(headers={"x-stainless-read-timeout": "600"})
        assert client.text == "".join(ANSWER)
        first, second = client.outcome.attempts
        assert (first.error, first.failed) == ("upstream_timeout", True)
        assert second.started - first.started == pytest.approx(300, abs=1)

    run(story)


@pytest.mark.parametrize("stream", [True, False])
def test_an_endpoint_that_is_silent_until_the_deadline_is_ejected(stream: bool) -> None:
    async def story(clock: Callable[[], float]) -> None:
        world = World(clock, count=1)
        world.fakes["e0"].first_s = 1e6
        for _ in range(IN_A_ROW):
            assert not world.fleet.endpoints["e0"].breaker.ejected(clock())
            client = await world.ask(stream=stream, headers={"x-request-timeout": "600"})
            assert isinstance(client.error, DeadlineExceeded)
            (attempt,) = client.outcome.attempts
            assert (attempt.ended, attempt.error) == (Ended.FAILED, "upstream_timeout")
        assert world.fleet.endpoints["e0"].breaker.ejected(clock())

    run(story)


def test_a_deadline_that_nobody_could_keep_is_no_endpoints_failure() -> None:
    async def story(clock: Callable[[], float]) -> None:
        world = World(clock, count=2)
        for fake in world.fakes.values():
            fake.first_s = 2.0
        client = await world.ask(headers={"x-request-timeout": "1"})
        assert isinstance(client.error, DeadlineExceeded)
        assert [(a.ended, a.failed) for a in client.outcome.attempts] == [(Ended.HUNG_UP, False)]

    run(story)


def test_when_everybody_is_ejected_everybody_is_asked_and_the_decision_says_so() -> None:
    async def story(clock: Callable[[], float]) -> None:
        world = World(clock, count=2)
        for fake in world.fakes.values():
            fake.refuses = UpstreamUnreachable("no")
        for _ in range(IN_A_ROW):
            await world.ask()
        assert all(e.breaker.ejected(clock()) for e in world.fleet.endpoints.values())
        for fake in world.fakes.values():
            fake.refuses = None
        client = await world.ask()
        assert client.text == "".join(ANSWER)
        assert {c.unavailable for c in client.outcome.considered} == {"ejected"}

    run(story)


def test_a_stream_waits_for_somebody_who_can_take_it_up() -> None:
    async def story(clock: Callable[[], float]) -> None:
        world = World(clock, count=1)
        (fake,), (endpoint,) = world.fakes.values(), world.fleet.endpoints.values()
        fake.breaks_at = 3
        asking = asyncio.create_task(world.ask())
        await asyncio.sleep(1.0)
        endpoint.gone("killed")
        fake.breaks_at = None
        await asyncio.sleep(4.0)
        endpoint.up(fake)
        client = await asking
        assert (client.text, client.finishes) == ("".join(ANSWER), 1)

    run(story)


def test_who_goes_on_from_text_has_its_usage_made_whole() -> None:
    async def story(clock: Callable[[], float]) -> None:
        world = World(clock, count=2)
        first, second = world.fakes.values()
        for name, fake in world.fakes.items():
            fake.continuation = Continuation.TEXT
            world.fleet.endpoints[name].up(fake)
        first.breaks_at = 2
        client = await world.ask()
        ((_, _, request),) = second.asked
        assert request.delivered is not None
        assert (request.delivered.text, request.delivered.tokens) == ("It was ", 2)
        assert (client.text, client.roles, client.finishes) == ("".join(ANSWER), 1, 1)
        assert client.usage == Usage(10, 6, 0)
        assert client.outcome.attempts[1].billed == Usage(12, 4, 0)

    run(story)


def test_an_answer_goes_on_exactly_where_somebody_can() -> None:
    async def story(clock: Callable[[], float]) -> None:
        world = World(clock, count=3)
        world.fakes["e1"].continuation = Continuation.TEXT
        world.fleet.endpoints["e1"].up(world.fakes["e1"])
        world.fakes["e0"].breaks_at = 2
        assert (await world.ask()).text == "".join(ANSWER)
        assert (len(world.fakes["e1"].asked), len(world.fakes["e2"].asked)) == (0, 1)

    run(story)


def test_a_deadline_ends_an_exchange_wherever_it_is() -> None:
    async def story(clock: Callable[[], float]) -> None:
        world = World(clock, count=2)
        for seconds, text in (("0.3", ""), ("0.75", "It was ")):
            client = await world.ask(headers={"x-request-timeout": seconds})
            assert isinstance(client.error, DeadlineExceeded)
            assert client.text == text
        patient = await world.ask(headers={"x-stainless-read-timeout": "0.7"})
        assert patient.text == "".join(ANSWER), "its first byte was there in time"
        assert not any(e.in_flight for e in world.fleet.endpoints.values())

    run(story)


HEDGED: dict[str, Any] = {"fallback": {"hedge": {"after": "1s", "at_most": "50%"}}}


def test_a_hedge_overtakes_an_endpoint_that_is_late_and_ends_it_at_once() -> None:
    async def story(clock: Callable[[], float]) -> None:
        world = World(clock, count=3, **HEDGED)
        world.fakes["e0"].first_s = 30.0
        began = clock()
        client = await world.ask()
        assert client.text == "".join(ANSWER)
        assert clock() - began == pytest.approx(1 + 0.5 + 0.1 * len(ANSWER))
        late, hedge = client.outcome.attempts  # whoever answers is the last
        assert (late.ended, hedge.ended) == (Ended.OVERTAKEN, Ended.FINISHED)
        assert (late.hedge, hedge.hedge) == (False, True)
        assert not any(e.in_flight for e in world.fleet.endpoints.values())

    run(story)


def test_hedges_are_a_share_of_the_requests() -> None:
    async def story(clock: Callable[[], float]) -> int:
        world = World(clock, count=2, **HEDGED)
        for fake in world.fakes.values():
            fake.first_s = 3.0
        clients = await asyncio.gather(*(world.ask() for _ in range(20)))
        assert all(client.text == "".join(ANSWER) for client in clients)
        return sum(a.hedge for client in clients for a in client.outcome.attempts)

    assert run(story) == 10


def test_no_hedge_goes_where_both_tries_would_be_billed() -> None:
    async def story(clock: Callable[[], float]) -> None:
        world = World(clock, count=2, **HEDGED)
        world.fakes["e0"].first_s = 3.0
        for endpoint in world.fleet.endpoints.values():
            endpoint.dedicated = False
        client = await world.ask()
        assert [a.endpoint for a in client.outcome.attempts] == ["e0"]

    run(story)


def test_when_one_of_two_fails_the_other_answers() -> None:
    async def story(clock: Callable[[], float]) -> None:
        world = World(clock, count=2, **HEDGED)
        for late, broken in (("e0", "e1"), ("e1", "e0")):
            world.fakes[late].first_s, world.fakes[late].refuses = 4.0, None
            world.fakes[broken].first_s = 1.5
            world.fakes[broken].refuses = UpstreamRefused("500")
            client = await world.ask()
            assert client.text == "".join(ANSWER)

    run(story)


def test_whoever_breaks_off_is_noted_and_not_the_one_it_overtook() -> None:
    async def story(clock: Callable[[], float]) -> None:
        world = World(clock, count=3, **HEDGED)
        late, hedge, third = world.fakes.values()
        late.first_s, late.breaks_at = 1.5, 2  # its first token is there at 1.6
        hedge.first_s, hedge.refuses = 0.6, UpstreamRefused("500")  # sent at 1.0
        client = await world.ask()
        assert client.text == "".join(ANSWER)
        by = {a.endpoint: a for a in client.outcome.attempts}
        assert (by["e0"].error, by["e1"].error) == ("upstream_broken", "upstream_refused")
        assert (len(late.asked), len(hedge.asked), len(third.asked)) == (1, 1, 1)

    run(story)


def test_a_hang_up_ends_both() -> None:
    async def story(clock: Callable[[], float]) -> None:
        world = World(clock, count=2, **HEDGED)
        for fake in world.fakes.values():
            fake.first_s = 30.0
        asking = asyncio.create_task(world.ask())
        await asyncio.sleep(2.0)
        assert [fake.open_now for fake in world.fakes.values()] == [1, 1]
        asking.cancel()
        await asyncio.wait([asking])
        assert [fake.open_now for fake in world.fakes.values()] == [0, 0]
        (client,) = world.clients.values()
        assert [a.ended for a in client.outcome.attempts] == [Ended.HUNG_UP] * 2
        assert not any(e.in_flight for e in world.fleet.endpoints.values())

    run(story)


MOMENT_S = 1e-6
"""The virtual clock moves when there is nothing left to do: a try that was given up before it began
has let go of its lease by then."""

BEHAVIOURS: list[dict[str, Any]] = [
    {},
    {"first_s": 3.0},
    {"refuses": UpstreamUnreachable("no")},
    {"refuses": UpstreamRefused("500")},
    {"refuses": UpstreamBusy("limit", retry_after_s=2)},
    {"refuses": UpstreamBusy("limit")},
    {"refuses": UpstreamCold("cold", retry_after_s=3)},
    {"refuses": UpstreamKeyRefused("key")},
    {"refuses": InvalidRequest("bad")},
    *({"breaks_at": at} for at in range(len(ANSWER))),
]


class Dispatching(RuleBasedStateMachine):
    """Clients come, leave and wait while endpoints fail, go and come back."""

    policy: ClassVar[dict[str, Any]] = {}

    def __init__(self) -> None:
        super().__init__()
        self.loop = VirtualLoop()
        self.world = World(self.loop.time, count=3, **self.policy)
        self.asking: list[asyncio.Task[Client]] = []
        self.left: set[asyncio.Task[Client]] = set()

    names = st.sampled_from(["e0", "e1", "e2"])

    @rule(name=names, behaviour=st.sampled_from(BEHAVIOURS))
    def behave(self, name: str, behaviour: dict[str, Any]) -> None:
        fake = self.world.fakes[name]
        fake.refuses = fake.breaks_at = None
        fake.first_s = 0.5
        for key, value in behaviour.items():
            setattr(fake, key, value)

    @rule(stream=st.booleans(), count=st.sampled_from([1, 1, 5]))
    def ask(self, stream: bool, count: int) -> None:
        for _ in range(count):
            self.asking.append(self.loop.create_task(self.world.ask(stream=stream)))
        self.pass_time(MOMENT_S)

    @precondition(lambda self: any(not task.done() for task in self.asking))
    @rule(data=st.data())
    def hang_up(self, data: st.DataObject) -> None:
        waiting = [task for task in self.asking if not task.done()]
        task = data.draw(st.sampled_from(waiting))
        task.cancel()
        self.left.add(task)
        self.pass_time(MOMENT_S)

    @rule(name=names)
    def go(self, name: str) -> None:
        self.world.fleet.endpoints[name].gone("killed")

    @rule(name=names)
    def come(self, name: str) -> None:
        self.world.fleet.endpoints[name].up(self.world.fakes[name])

    @rule(name=names, drained=st.booleans())
    def drain(self, name: str, drained: bool) -> None:
        self.world.fleet.endpoints[name].drained = drained

    @rule(seconds=st.sampled_from([0.05, 0.3, 1.0, 7.0]))
    def pass_time(self, seconds: float) -> None:
        self.loop.run_until_complete(asyncio.sleep(seconds))

    @invariant()
    def leases_are_what_is_open(self) -> None:
        for name, fake in self.world.fakes.items():
            endpoint = self.world.fleet.endpoints[name]
            waiting = self.world.dispatcher._joiner.resuming[name]  # it holds a lease for its turn
            assert endpoint.in_flight >= fake.open_now
            if not waiting.locked():
                assert endpoint.in_flight == fake.open_now
            assert endpoint.queued_tokens >= 0

    @invariant()
    def what_a_client_has_is_the_answers_beginning(self) -> None:
        for client in self.world.clients.values():
            assert "".join(ANSWER).startswith(client.text)
            assert client.token_ids == tuple(range(len(client.token_ids)))
            assert client.roles <= 1
            assert client.finishes <= 1

    def teardown(self) -> None:
        self.pass_time(4000.0)
        assert all(task.done() for task in self.asking), "no request is lost"
        for task in self.asking:
            if task not in self.left:
                self._check(task.result())
        for name, client in self.world.clients.items():
            assert client.settled == 1, f"{name} is settled once"
        for endpoint in self.world.fleet.endpoints.values():
            assert (endpoint.in_flight, endpoint.queued_tokens) == (0, 0)
        assert not any(fake.open_now for fake in self.world.fakes.values())
        self.loop.close()

    def _check(self, client: Client) -> None:
        """Answered or refused, one of the two; and sent again only for what was missing."""
        assert (client.error is None) is (client.text == "".join(ANSWER) and client.finishes == 1)
        first, *others = client.outcome.attempts or [None]
        assert first is None or not first.resumed
        begun = 0
        for attempt in client.outcome.attempts:
            assert attempt.resumed is (begun > 0)
            begun += attempt.delivered_tokens
        assert len(others) <= 60


Dispatching.TestCase.settings = settings(max_examples=60, stateful_step_count=30, deadline=None)
TestDispatching = Dispatching.TestCase


class Hedging(Dispatching):
    """The same, where a late answer is raced."""

    policy = HEDGED


Hedging.TestCase.settings = Dispatching.TestCase.settings
TestHedging = Hedging.TestCase
