"""Two workers over one scheduler: who computes what, and that nobody can tell from the tokens."""

from __future__ import annotations

import queue
import random
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from itertools import count

import hypothesis.strategies as st
import numpy as np
import pytest
from hypothesis import settings
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from gateway import models
from gateway.replica.backends.base import Batch, Float32
from gateway.replica.backends.cpu import CpuBackend
from gateway.replica.engine import Engine
from gateway.replica.pace import Busy
from gateway.replica.plan import Plan
from gateway.replica.request import Finish, Request, State
from gateway.replica.sampling import Sampling
from gateway.replica.weights import Weights
from gateway.replica.workers import Workers, cores_of
from tests.support.callers import GREEDY, Caller, expected, prompt
from tests.support.fake_backend import FakeBackend
from tests.support.scheduling import World, sizes

SEEDED = Sampling(temperature=1.2, top_p=0.9, seed=7, max_tokens=12)


def planned(world: World) -> Plan:
    plan = world.plan()
    assert plan is not None
    return plan


def decoding(world: World, *names: str) -> list[Request]:
    """Adds requests and computes their prompts."""
    requests = [world.add(name, [index]) for index, name in enumerate(names)]
    while not all(request.decoding for request in requests):
        world.commit(planned(world))
    return requests


def test_one_decodes_while_the_other_prefills() -> None:
    world = World(workers=2)
    decoding(world, "a", "b")
    world.add("long", range(100, 170))
    first, second = planned(world), planned(world)
    assert (sizes(first), sizes(second)) == ({"a": 1, "b": 1}, {"long": 32})
    assert world.plan() is None
    world.commit(first)
    assert sizes(planned(world)) == {"a": 1, "b": 1}


def test_when_nobody_decodes_both_prefill() -> None:
    world = World(workers=2)
    world.add("long", range(70))
    world.add("other", range(100, 170))
    first, second = planned(world), planned(world)
    assert (sizes(first), sizes(second)) == ({"long": 32}, {"other": 32})
    world.commit(second)
    assert sizes(planned(world)) == {"other": 32}


def test_whoever_begins_to_decode_does_not_wait_for_a_chunk() -> None:
    world = World(workers=2)
    world.add("long", range(200))
    long = planned(world)
    world.add("short", range(500, 510))
    world.commit(planned(world))
    assert sizes(planned(world)) == {"short": 1}
    world.commit(long)
    assert sizes(planned(world)) == {"long": 32}


def test_answers_are_decoded_together_however_many_they_are() -> None:
    world = World(workers=2, max_running=32)
    requests = decoding(world, *(str(index) for index in range(32)))
    assert set(planned(world).requests) == set(requests)
    assert world.plan() is None


def test_a_request_in_flight_is_not_removed() -> None:
    world = World(workers=2)
    request = world.add("a", [1])
    plan = planned(world)
    with pytest.raises(AssertionError, match="reads and writes"):
        world.scheduler.remove(request)
    world.scheduler.abandon(plan)
    world.scheduler.remove(request)
    assert world.pool.owned == 0


def test_a_victim_in_flight_is_preempted_after_its_step() -> None:
    world = World(workers=2, blocks=5)
    old = world.add("old", range(15))
    world.commit(planned(world))
    new = world.add("new", range(100, 148))
    step: Plan | None = planned(world)
    chunk = planned(world)
    assert sizes(chunk) == {"new": 32}
    while step is not None:
        world.commit(step)
        step = world.plan()
    # two blocks of old are full, and it has a token for a third one
    assert (len(old.tokens), len(old.blocks), world.pool.free) == (33, 2, 0)
    assert (new.state, new.yields) == (State.RUNNING, True)
    world.commit(chunk)
    assert sizes(planned(world)) == {"old": 1}
    assert new.state is State.PREEMPTED


def test_a_victim_makes_room_even_if_others_decode_when_its_step_ends() -> None:
    world = World(workers=2, blocks=6)
    old, other = world.add("old", range(15)), world.add("other", [1])
    world.commit(planned(world))
    new = world.add("new", range(100, 132))
    step, chunk = planned(world), planned(world)
    assert sizes(chunk) == {"new": 32}
    while "old" in sizes(step):
        world.commit(step)
        step = planned(world)
    assert (sizes(step), new.yields) == ({"other": 1}, True)
    world.commit(chunk)
    assert world.plan() is None
    assert new.state is State.PREEMPTED
    world.commit(step)
    assert set(sizes(planned(world))) == {old.submission.id, other.submission.id}


def test_a_follower_waits_for_its_leader_in_flight() -> None:
    world = World(workers=2)
    world.add("first", range(32))
    follower = world.add("second", range(32))
    leading = planned(world)
    assert world.plan() is None
    world.commit(leading)
    assert sizes(planned(world)) == {"first": 1}
    assert sizes(planned(world)) == {"second": 1}
    assert follower.cached_tokens == 31


class HeldBackend(FakeBackend):
    """Each step stops, before or after it has computed, until the test lets it go on."""

    def __init__(self, *, blocks: int = 64, at_least: int = 1) -> None:
        super().__init__(blocks=blocks)
        self.arrived: queue.SimpleQueue[threading.Event] = queue.SimpleQueue()
        self._at_least = at_least  # smaller steps do not stop
        self._turns = 0

    def forward(self, batch: Batch) -> Float32:
        if len(batch) < self._at_least:
            return super().forward(batch)
        go_on = threading.Event()
        with self.in_progress(batch):
            self._turns += 1
            computed = self.compute(batch) if self._turns % 2 else None
            self.arrived.put(go_on)
            assert go_on.wait(20)
            return self.compute(batch) if computed is None else computed


@contextmanager
def started(
    *backends: FakeBackend, max_running: int = 6, chunk_tokens: int = 24
) -> Iterator[Engine]:
    engine = Engine(*backends, max_running=max_running, chunk_tokens=chunk_tokens)
    engine.start()
    try:
        yield engine
    finally:
        engine.stop()
        engine.check_integrity()
    stats = engine.stats()
    assert (stats.owned_blocks, stats.running, stats.waiting) == (0, 0, 0)
    assert stats.free_blocks + stats.cached_blocks == stats.total_blocks


def conduct(backend: HeldBackend, engine: Engine, chance: random.Random) -> None:
    """Lets the steps go on in any order until nobody is left."""
    held: list[threading.Event] = []
    while not engine.idle():
        try:
            held.append(backend.arrived.get(timeout=0.001))
        except queue.Empty:
            if held:
                held.pop(chance.randrange(len(held))).set()
            continue
        if len(held) > 1 or chance.random() < 0.3:
            held.pop(chance.randrange(len(held))).set()


@pytest.mark.parametrize("sampling", [GREEDY, SEEDED], ids=["greedy", "seeded"])
@pytest.mark.parametrize("seed", range(6))
def test_in_whatever_order_steps_end_the_tokens_are_the_same(seed: int, sampling: Sampling) -> None:
    chance = random.Random(seed)
    backend = HeldBackend(blocks=20)
    callers = [
        Caller(prompt(chance.randrange(1, 90), start=chance.randrange(2)), sampling)
        for _ in range(12)
    ]
    with started(backend, backend.fork()) as engine:
        for caller in callers:
            caller.submit(engine)
        conduct(backend, engine, chance)
    assert [caller.tokens for caller in callers] == [expected(caller) for caller in callers]


def test_a_long_prompt_does_not_hold_up_those_who_decode() -> None:
    backend = HeldBackend(at_least=24)
    answer, long = Caller(prompt(10)), Caller(prompt(90, start=1))
    with started(backend, backend.fork()) as engine:
        long.submit(engine)
        step = backend.arrived.get(timeout=10)
        answer.submit(engine)
        assert answer.over.wait(10)
        assert not long.tokens
        step.set()
        conduct(backend, engine, random.Random(0))
    assert answer.tokens == expected(answer)
    assert long.tokens == expected(long)


def test_an_idle_worker_is_told_when_there_is_something_for_it() -> None:
    backend = HeldBackend()
    leader, follower = Caller(prompt(90)), Caller((*prompt(24), 1))
    with started(backend, backend.fork()) as engine:
        engine.submit(leader.submission(), follower.submission())
        backend.arrived.get(timeout=10).set()
        steps = [backend.arrived.get(timeout=10) for _ in range(2)]
        for step in steps:
            step.set()
        conduct(backend, engine, random.Random(0))
    assert follower.tokens == expected(follower)


def test_an_abort_in_flight_takes_effect_when_the_step_is_over() -> None:
    backend = HeldBackend(at_least=24)
    with started(backend, backend.fork()) as engine:
        long = Caller(prompt(90)).submit(engine)
        step = backend.arrived.get(timeout=10)
        engine.abort(long.id)
        other = Caller(prompt(5, start=1)).submit(engine)
        assert other.over.wait(10)  # so the other worker has seen the abort
        assert not long.over.is_set()
        assert engine.stats().owned_blocks >= 6
        step.set()
        assert long.over.wait(10)
        assert long.finish is Finish.ABORTED


def test_a_failed_step_fails_nobody_elses_requests(caplog: pytest.LogCaptureFixture) -> None:
    backend = HeldBackend(at_least=24)
    backend.raises_at = 49
    with started(backend, backend.fork()) as engine:
        long = Caller((1, 2, 3) * 16).submit(engine)
        step = backend.arrived.get(timeout=10)
        bad = Caller((1, 49)).submit(engine)
        assert bad.over.wait(10)
        backend.raises_at = None
        step.set()
        conduct(backend, engine, random.Random(0))
    assert str(bad.error) == "the replica failed while computing this answer"
    assert long.tokens == expected(long)
    assert "a step of 1 requests failed" in caplog.text


def test_a_prompt_that_is_wholly_cached_is_all_but_one_token_cached() -> None:
    backend = FakeBackend()
    with started(backend, backend.fork(), chunk_tokens=64) as engine:
        callers = [Caller(prompt(48), Sampling(seed=i, max_tokens=9)) for i in range(4)]
        engine.submit(*(caller.submission() for caller in callers))
        assert engine.wait_idle(10)
    assert [caller.tokens for caller in callers] == [expected(caller) for caller in callers]
    assert [caller.counts.cached_tokens for caller in callers if caller.counts] == [0, 47, 47, 47]
    assert engine.stats().prefill_tokens == 48 + 3


def test_the_time_that_steps_share_counts_once() -> None:
    busy = Busy()
    busy.begin(10.0)
    busy.begin(11.0)
    busy.end(12.0)
    assert busy.seconds == 2.0
    busy.end(15.0)
    busy.begin(20.0)
    busy.end(21.0)
    assert busy.seconds == 6.0


def test_a_step_counts_as_busy_whether_or_not_it_fails() -> None:
    ticks = count()
    engine = Engine(FakeBackend(raises_at=49), clock=lambda: float(next(ticks)))
    for tokens in ((1, 2), (1, 49)):
        before = engine.stats().busy_s
        caller = Caller(tokens, Sampling(temperature=0, max_tokens=1)).submit(engine)
        while engine.step():
            pass
        assert caller.over.is_set()
        assert engine.stats().busy_s > before


def test_the_last_worker_to_leave_says_so() -> None:
    ends: list[str] = []

    def work(index: int) -> None:
        ends.append("work")

    workers = Workers(2, work, lambda: ends.append("over"))
    workers.start()
    workers.join(10)
    assert ends == ["work", "work", "over"]


@pytest.mark.parametrize(
    ("cores", "parts"),
    [
        ([0, 1], [[0], [1]]),
        ([2, 3, 5, 7], [[2, 5], [3, 7]]),
        ([0, 1, 2], [[0, 2], [1]]),
        ([4], [[4], [4]]),  # too few to part them
    ],
)
def test_workers_run_on_cores_of_their_own(cores: list[int], parts: list[list[int]]) -> None:
    assert [cores_of(index, 2, cores) for index in range(2)] == parts


@pytest.fixture(scope="module")
def smollm2() -> CpuBackend:
    weights = Weights.open(models.find("smollm2"))
    return CpuBackend.load(weights, blocks=256, max_tokens=128, threads=2)


@pytest.mark.parametrize("sampling", [GREEDY, SEEDED], ids=["greedy", "seeded"])
def test_real_logits_are_the_same_with_one_worker_and_with_two(
    smollm2: CpuBackend, sampling: Sampling
) -> None:
    answers = []
    for backends in ([smollm2], [smollm2, smollm2.fork()]):
        engine = Engine(*backends, chunk_tokens=64, generator=np.random.default_rng(0))
        asked = replace(sampling, logprobs=5, max_tokens=20)
        callers = [Caller(prompt(10 + 40 * index, start=index % 3), asked) for index in range(5)]
        twins = [
            Caller(prompt(96, start=5), asked) for _ in range(2)
        ]  # of one, the last block is copied
        callers += twins
        for caller in callers:
            caller.submit(engine)
        engine.start()
        assert engine.wait_idle(60)
        engine.stop()
        answers.append([caller.outputs for caller in callers])
        assert [caller.counts.cached_tokens for caller in twins if caller.counts] == [0, 95]
        assert twins[0].outputs == twins[1].outputs
    assert answers[0] == answers[1]


@dataclass
class Step:
    """In flight. Its arithmetic was done when it began, or is done when it ends."""

    plan: Plan
    batch: Batch
    logits: Float32 | None

    @classmethod
    def begin(cls, plan: Plan, backend: FakeBackend, *, early: bool) -> Step:
        for source, target in plan.copies:
            backend.copy_block(source, target)
        batch = plan.batch()
        return cls(plan, batch, backend.forward(batch) if early else None)

    def tokens(self, backend: FakeBackend) -> list[int | None]:
        logits = backend.forward(self.batch) if self.logits is None else self.logits
        return [int(row.argmax()) for row in logits]


class TwoWorkers(RuleBasedStateMachine):
    """Steps of two workers begin and end in any order, among submissions and aborts."""

    def __init__(self) -> None:
        super().__init__()
        self.backend = FakeBackend(blocks=12)
        self.world = World(blocks=12, max_running=4, chunk_tokens=20, workers=2)
        self.steps: list[Step] = []
        self.answers: list[tuple[Request, Caller]] = []

    @rule(
        start=st.integers(0, 1),
        length=st.sampled_from([1, 15, 16, 17, 32, 48, 70, 100]),
        max_tokens=st.integers(1, 40),
        salt=st.sampled_from([b"", b"a"]),
        priority=st.integers(0, 2),
    )
    def submit(self, start: int, length: int, max_tokens: int, salt: bytes, priority: int) -> None:
        caller = Caller(prompt(length, start=start), Sampling(temperature=0, max_tokens=max_tokens))
        self.world.request.limit = min(length + max_tokens, 192)
        request = self.world.add(caller.id, caller.prompt, salt=salt, priority=priority)
        self.answers.append((request, caller))

    @precondition(lambda self: self.answers)
    @rule(data=st.data())
    def abort(self, data: st.DataObject) -> None:
        request, _ = data.draw(st.sampled_from(self.answers))
        if request.in_flight:
            request.ending = lambda: None
        elif self.world.scheduler.get(request.submission.id) is request:
            request.ending = lambda: None
            self.world.scheduler.remove(request)

    @precondition(lambda self: len(self.steps) < 2)
    @rule(early=st.booleans(), seconds=st.sampled_from([0, 0.5]))
    def begin(self, early: bool, seconds: float) -> None:
        self.world.clock.advance(seconds)
        running = self.world.scheduler.running
        answering = [request for request in running if request.decoding and not request.in_flight]
        beside_decodes = any(step.plan.decodes for step in self.steps)
        plan = self.world.plan()
        if plan is None:
            assert self.steps or not list(self.world.scheduler), "somebody waits for nobody"
        else:
            self.steps.append(Step.begin(plan, self.backend, early=early))
        if not beside_decodes:
            served = plan.requests if plan is not None else []
            waits_for_room = any(request.yields for request in running)
            for request in answering:
                preempted = request.state is State.PREEMPTED
                assert request in served or preempted or waits_for_room, "a decode was held up"

    @precondition(lambda self: self.steps)
    @rule(data=st.data())
    def end(self, data: st.DataObject) -> None:
        self._end(self.steps.pop(data.draw(st.integers(0, len(self.steps) - 1))))

    def _end(self, step: Step) -> None:
        tokens = step.tokens(self.backend)
        finishes = self.world.scheduler.commit(step.plan, tokens)
        told = dict(self.answers)
        over = [request for request in step.plan.requests if request.ending]
        for request, token, finish in zip(step.plan.sampled, tokens, finishes, strict=True):
            assert token is not None
            told[request].tokens.append(token)
            if finish is not None and not request.ending:
                told[request].finish = finish
                over.append(request)
        for request in over:
            self.world.scheduler.remove(request)

    @invariant()
    def the_books_balance(self) -> None:
        self.world.scheduler.check_integrity()

    def teardown(self) -> None:
        for _ in range(2000):  # nobody starves
            while len(self.steps) < 2 and (plan := self.world.plan()) is not None:
                self.steps.append(Step.begin(plan, self.backend, early=True))
            if not self.steps:
                break
            self._end(self.steps.pop(0))
        assert self.world.pool.owned == 0
        for request, caller in self.answers:
            wanted = expected(caller)[: 192 - len(caller.prompt)]
            assert caller.tokens == wanted[: len(caller.tokens)]
            assert request.ending or (caller.tokens == wanted and caller.finish)


TestTwoWorkers = TwoWorkers.TestCase
TestTwoWorkers.settings = settings(max_examples=150, stateful_step_count=40, deadline=None)


def soak(seconds: float) -> None:
    """Clients that submit whatever they like and hang up whenever they like, and leave nothing."""
    before = {*threading.enumerate()}
    backend = FakeBackend(blocks=24)
    told: list[Caller] = []

    def client(seed: int, engine: Engine, until: float) -> None:
        chance = random.Random(seed)
        while time.monotonic() < until:
            sampling = Sampling(seed=seed, max_tokens=chance.randrange(1, 30))
            caller = Caller(
                prompt(chance.randrange(1, 120), start=chance.randrange(3)),
                sampling,
                chance.choice([b"", b"a", b"b"]),
                chance.randrange(3),
                chance.choice([None, 1, 5]),
            )
            told.append(caller.submit(engine))
            if chance.random() < 0.3:
                engine.abort(caller.id)
            elif chance.random() < 0.5:
                assert caller.over.wait(20)
                engine.abort(caller.id)
            while len([each for each in told[-20:] if not each.over.is_set()]) > 15:
                assert told[-20].over.wait(20)

    with started(backend, backend.fork(), max_running=8, chunk_tokens=32) as engine:
        until = time.monotonic() + seconds
        clients = [threading.Thread(target=client, args=(i, engine, until)) for i in range(4)]
        for each in clients:
            each.start()
        for each in clients:
            each.join()
        assert engine.wait_idle(30)
    assert not {*threading.enumerate()} - before
    assert all(caller.over.is_set() and caller.error is None for caller in told)
    whole = [caller for caller in told if caller.finish is Finish.LENGTH]
    assert len(whole) > 5 * seconds
    assert all(caller.tokens == expected(caller) for caller in whole[-50:])


def test_after_a_soak_nothing_is_left_over() -> None:
    soak(3)


@pytest.mark.prove
def test_after_a_long_soak_nothing_is_left_over() -> None:
    soak(60)


def test_a_worker_that_may_not_choose_its_cores_works_all_the_same(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def refuse(*arguments: object) -> None:
        raise PermissionError("a sandbox forbids it")

    monkeypatch.setattr("os.sched_setaffinity", refuse, raising=False)
    engine = Engine(FakeBackend())
    engine.start()
    caller = Caller(prompt(20)).submit(engine)
    assert caller.over.wait(10)
    engine.stop()
    assert caller.tokens == expected(caller)
