from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Iterator
from typing import Any

import hypothesis.strategies as st
import numpy as np
import pytest
from hypothesis import settings
from hypothesis.stateful import RuleBasedStateMachine, precondition, rule

from gateway.errors import ContextLengthExceeded, InvalidRequest, RateLimited, Unavailable
from gateway.replica.backends.base import Batch, Float32
from gateway.replica.engine import Engine
from gateway.replica.intake import Intake
from gateway.replica.request import Counts, Finish, Submission
from gateway.replica.sampler import logprobs_of
from gateway.replica.sampling import Sampling
from tests.support.callers import GREEDY, Caller, expected, prompt
from tests.support.clock import ManualClock
from tests.support.fake_backend import FakeBackend


class SlowBackend(FakeBackend):
    """Takes 0.1 s per token by the manual clock, and waits at its gate while that is shut."""

    def __init__(self, clock: ManualClock) -> None:
        super().__init__(max_tokens=256)
        self._clock = clock
        self.entered = threading.Event()
        self.gate = threading.Event()
        self.gate.set()

    def forward(self, batch: Batch) -> Float32:
        self._clock.advance(len(batch) / 10)
        self.entered.set()
        assert self.gate.wait(10)
        return super().forward(batch)


def submission(
    name: str, on_finish: Callable[[Finish, Counts], None] = lambda finish, counts: None
) -> Submission:
    sampling = Sampling(max_tokens=1)
    return Submission(name, (1,), sampling, lambda token: False, on_finish, lambda error: None)


def run(engine: Engine, *callers: Caller, most_steps: int = 2000) -> None:
    for caller in callers:
        caller.submit(engine)
    for _ in range(most_steps):
        engine.check_integrity()
        if not engine.step():
            return
    pytest.fail("the engine did not finish")


def test_greedy_tokens_are_those_of_the_naive_computation() -> None:
    caller = Caller(prompt(40))
    run(Engine(FakeBackend()), caller)
    assert caller.tokens == expected(caller)
    assert (caller.finish, caller.counts) == (Finish.LENGTH, Counts(40, 0, 12))


@pytest.mark.parametrize("chunk_tokens", [1, 5, 16, 17, 100])
def test_chunks_of_any_size_give_the_same_tokens(chunk_tokens: int) -> None:
    caller = Caller(prompt(70))
    run(Engine(FakeBackend(), chunk_tokens=chunk_tokens, max_running=1), caller)
    assert caller.tokens == expected(caller)


def test_a_batch_gives_the_same_tokens_as_each_alone() -> None:
    callers = [Caller(prompt(5 + 9 * i, start=i)) for i in range(8)]
    run(Engine(FakeBackend(), chunk_tokens=20, max_running=5), *callers)
    assert [c.tokens for c in callers] == [expected(c) for c in callers]


def test_a_cached_prefix_gives_the_same_tokens_and_is_counted() -> None:
    engine = Engine(FakeBackend())
    first, second = Caller(prompt(60)), Caller(prompt(60))
    run(engine, first)
    run(engine, second)
    assert first.tokens == second.tokens == expected(first)
    assert first.counts == Counts(60, 0, 12)
    assert second.counts == Counts(60, 48, 12)


def test_equal_prompts_at_once_are_computed_once() -> None:
    backend = FakeBackend(max_tokens=256)
    engine = Engine(backend, chunk_tokens=64)
    callers = [Caller((*prompt(96), i)) for i in range(4)]
    run(engine, *callers)
    assert [c.tokens for c in callers] == [expected(c) for c in callers]
    assert engine.stats().prefill_tokens == 96 + 4
    assert engine.stats().owned_blocks == 0


def test_salts_never_share_a_block() -> None:
    engine = Engine(FakeBackend())
    callers = [Caller(prompt(40), salt=salt) for salt in (b"", b"a", b"b")]
    for caller in callers:
        run(engine, caller)
    assert [c.counts.cached_tokens for c in callers if c.counts] == [0, 0, 0]


def test_preempted_requests_go_on_where_they_were() -> None:
    backend = FakeBackend(blocks=8)
    engine = Engine(backend)
    sampling = Sampling(temperature=0, max_tokens=40)
    callers = [Caller(prompt(20, start=i), sampling) for i in range(4)]
    run(engine, *callers)
    assert engine.stats().preemptions > 0
    assert [c.tokens for c in callers] == [expected(c) for c in callers]


EVERYTHING = Sampling(
    temperature=1.3,
    top_p=0.95,
    top_k=40,
    min_p=0.001,
    repetition_penalty=1.2,
    presence_penalty=0.3,
    frequency_penalty=0.1,
    logit_bias={3: 2.0, 9: -100.0},
    seed=5,
    max_tokens=40,
    min_tokens=4,
)


@pytest.mark.parametrize(
    "seeded", [Sampling(temperature=1.3, top_p=0.9, seed=5, max_tokens=40), EVERYTHING]
)
def test_a_seed_gives_the_same_tokens_alone_in_a_batch_and_after_preemption(
    seeded: Sampling,
) -> None:
    alone = Caller(prompt(20), seeded)
    run(Engine(FakeBackend(), generator=np.random.default_rng(1)), alone)
    others = [Caller(prompt(20, start=i), Sampling(max_tokens=40)) for i in (1, 2, 3)]
    crowded = Caller(prompt(20), seeded)
    engine = Engine(FakeBackend(blocks=8), generator=np.random.default_rng(2))
    run(engine, *others, crowded)
    assert engine.stats().preemptions > 0
    assert crowded.tokens == alone.tokens == expected(alone)
    assert len(set(alone.tokens)) > 5
    assert seeded is not EVERYTHING or 9 not in alone.tokens


@pytest.mark.parametrize("sampling", [GREEDY, EVERYTHING])
def test_an_answer_can_be_continued_elsewhere_after_any_token(sampling: Sampling) -> None:
    whole = Caller(prompt(20), sampling)
    run(Engine(FakeBackend()), whole)
    for cut in range(len(whole.tokens)):
        rest = Caller(prompt(20), sampling, continued=tuple(whole.tokens[:cut]))
        run(Engine(FakeBackend()), rest)
        assert rest.tokens == whole.tokens[cut:]
        assert (rest.finish, rest.counts) == (whole.finish, whole.counts)


def test_continued_tokens_that_the_cache_holds_are_not_cached_prompt_tokens() -> None:
    engine = Engine(FakeBackend())
    whole = Caller(prompt(20), Sampling(temperature=0, max_tokens=40))
    run(engine, whole)
    rest = Caller(prompt(20), whole.sampling, continued=tuple(whole.tokens[:36]))
    run(engine, rest)
    assert rest.tokens == whole.tokens[36:]
    assert rest.counts == Counts(20, 20, 40)


def test_min_tokens_counts_what_was_continued() -> None:
    tokens = expected(Caller(prompt(20)))
    stop = frozenset({tokens[5]})
    caller = Caller(prompt(20), Sampling(temperature=0, min_tokens=5, stop_tokens=stop))
    caller.continued = tuple(tokens[:5])
    run(Engine(FakeBackend()), caller)
    assert (caller.tokens, caller.finish) == ([tokens[5]], Finish.STOP)


def test_log_probabilities_come_with_the_tokens_that_asked_for_them() -> None:
    asked = Caller(prompt(20), Sampling(temperature=0, max_tokens=3, logprobs=2, logit_bias={4: 9}))
    plain = Caller(prompt(20), GREEDY)
    run(Engine(FakeBackend()), asked, plain)
    assert [output.logprobs for output in plain.outputs] == [None] * 12
    for index, output in enumerate(asked.outputs):
        row = FakeBackend().naive_logits([*prompt(20), *asked.tokens[:index]])
        assert output.logprobs == logprobs_of(row, output.token, 2)


def test_several_answers_to_one_prompt_compute_it_once() -> None:
    engine = Engine(FakeBackend())
    callers = [Caller(prompt(100), Sampling(seed=i, max_tokens=12)) for i in range(4)]
    engine.submit(*(caller.submission() for caller in callers))
    run(engine)
    assert [c.tokens for c in callers] == [expected(c) for c in callers]
    # full blocks are shared; the last one of 4 tokens is private, and everyone's own
    assert engine.stats().prefill_tokens == 100 + 3 * 4
    assert [c.counts.cached_tokens for c in callers if c.counts] == [0, 96, 96, 96]


def test_submissions_come_in_together_or_not_at_all() -> None:
    engine = Engine(FakeBackend(), max_queued=3, max_queued_tokens=100)
    Caller(prompt(10)).submit(engine)
    more = [Caller(prompt(60)) for _ in range(3)]
    with pytest.raises(RateLimited):
        engine.submit(*(caller.submission() for caller in more))
    engine.submit(*(caller.submission() for caller in more[:2]))  # their prompt counts once
    run(engine)
    assert [caller.finish for caller in more] == [Finish.LENGTH, Finish.LENGTH, None]


@pytest.mark.parametrize(
    ("changes", "param"),
    [
        ({"sampling": Sampling(logit_bias={50: 1.0})}, "logit_bias"),
        ({"sampling": Sampling(stop_tokens=frozenset({50}))}, "stop_token_ids"),
        ({"continued": (50,)}, "continue_token_ids"),
    ],
)
def test_tokens_that_the_model_does_not_have_are_refused_by_name(
    changes: dict[str, Any], param: str
) -> None:
    with pytest.raises(InvalidRequest, match=f"^{param}: token ids must be from 0 to 49") as caught:
        Caller((1,), **changes).submit(Engine(FakeBackend()))
    assert caught.value.param == param


def test_without_a_seed_the_engines_generator_draws() -> None:
    tokens = []
    for seed in (1, 1, 2):
        caller = Caller(prompt(20), Sampling(max_tokens=20))
        run(Engine(FakeBackend(), generator=np.random.default_rng(seed)), caller)
        tokens.append(caller.tokens)
    assert tokens[0] == tokens[1] != tokens[2]


def test_a_stop_token_is_told_as_the_end_and_counted() -> None:
    tokens = expected(Caller(prompt(20)))
    stop = tokens[4]
    first = tokens.index(stop)
    sampling = Sampling(temperature=0, stop_tokens=frozenset({stop}))
    caller = Caller(prompt(20), sampling)
    run(Engine(FakeBackend()), caller)
    assert (caller.tokens, caller.finish) == (tokens[: first + 1], Finish.STOP)
    assert [output.finish for output in caller.outputs[-2:]] == [None, Finish.STOP]
    assert caller.counts == Counts(20, 0, first + 1)


def test_a_caller_that_has_seen_enough_ends_its_request() -> None:
    caller = Caller(prompt(20), enough_after=3)
    run(Engine(FakeBackend()), caller)
    assert (len(caller.tokens), caller.finish) == (3, Finish.STOP)


def test_without_max_tokens_an_answer_fills_the_context() -> None:
    caller = Caller(prompt(20), Sampling(temperature=0))
    run(Engine(FakeBackend(context_length=64)), caller)
    assert (len(caller.tokens), caller.finish) == (44, Finish.LENGTH)


def test_a_pool_smaller_than_the_context_is_the_limit() -> None:
    engine = Engine(FakeBackend(blocks=3, context_length=1000))
    caller = Caller(prompt(47), Sampling(temperature=0))
    run(engine, caller)
    assert (engine.stats().context_length, len(caller.tokens)) == (48, 1)
    with pytest.raises(ContextLengthExceeded, match=r"48 tokens.*at most 48"):
        Caller(prompt(48)).submit(engine)


@pytest.mark.parametrize("bad", [(), (50,), (-1,)])
def test_a_prompt_must_have_tokens_of_the_vocabulary(bad: tuple[int, ...]) -> None:
    with pytest.raises(InvalidRequest):
        Caller(bad).submit(Engine(FakeBackend()))


def test_an_aborted_request_is_told_once_and_frees_its_blocks() -> None:
    engine = Engine(FakeBackend())
    caller = Caller(prompt(40)).submit(engine)
    engine.step()
    engine.abort(caller.id)
    engine.abort(caller.id)
    assert not engine.step()
    assert caller.finish is Finish.ABORTED
    assert engine.stats().owned_blocks == 0
    engine.abort(caller.id)
    engine.abort("unknown")


def test_a_request_can_be_aborted_before_it_ran() -> None:
    engine = Engine(FakeBackend())
    caller = Caller(prompt(40)).submit(engine)
    engine.abort(caller.id)
    assert not engine.step()
    assert (caller.finish, caller.counts) == (Finish.ABORTED, Counts(40, 0, 0))


def test_a_caller_may_submit_and_abort_from_its_callbacks() -> None:
    engine = Engine(FakeBackend())
    second, unwanted = Caller(prompt(10)), Caller(prompt(10)).submit(engine)

    def finished(finish: Finish, counts: Counts) -> None:
        second.submit(engine)
        engine.abort(unwanted.id)

    engine.submit(submission("first", finished))
    run(engine)
    assert second.tokens == expected(second)
    assert unwanted.finish is Finish.ABORTED


def test_an_id_is_used_once_at_a_time() -> None:
    engine = Engine(FakeBackend())
    caller = Caller(prompt(4)).submit(engine)
    with pytest.raises(ValueError, match="in progress"):
        caller.submit(engine)
    run(engine)
    caller.over.clear()
    caller.submit(engine)


def test_a_request_with_broken_logits_fails_alone() -> None:
    backend = FakeBackend(nan_at=49)
    engine = Engine(backend)
    good, bad = Caller((1, 2, 3), Sampling(temperature=0, max_tokens=1)), Caller((1, 49))
    run(engine, good, bad)
    assert good.finish is Finish.LENGTH
    assert "finite" in str(bad.error)
    assert engine.stats().owned_blocks == 0


def test_a_failed_step_fails_what_runs_and_the_engine_lives_on(
    caplog: pytest.LogCaptureFixture,
) -> None:
    engine = Engine(FakeBackend(raises_at=49), max_running=2)
    first, bad, later = Caller((1, 2)), Caller((1, 49)), Caller((1, 3))
    with caplog.at_level(logging.ERROR):
        run(engine, first, bad, later)
    assert str(first.error) == str(bad.error) == "the replica failed while computing this answer"
    assert isinstance(first.error and first.error.__cause__, RuntimeError)
    assert later.tokens == expected(later)
    assert engine.stats().owned_blocks == 0
    assert "a step of 2 requests failed" in caplog.text


def test_a_full_queue_refuses_and_says_when_to_come_back() -> None:
    clock = ManualClock()
    engine = Engine(SlowBackend(clock), clock=clock, max_queued=2, max_running=1)
    Caller(prompt(100)).submit(engine)
    engine.step()  # 100 tokens in 10 s
    for start in (1, 2):
        Caller(prompt(200, start=start)).submit(engine)
    with pytest.raises(RateLimited, match="2 requests, 400 tokens") as refused:
        Caller(prompt(3)).submit(engine)
    assert refused.value.retry_after_s == pytest.approx(20)


def test_the_queue_is_bounded_in_tokens_but_an_empty_one_takes_any_prompt() -> None:
    engine = Engine(FakeBackend(), max_queued_tokens=50)
    Caller(prompt(200)).submit(engine)
    with pytest.raises(RateLimited) as refused:
        Caller(prompt(3)).submit(engine)
    assert refused.value.retry_after_s == 1  # nothing is known yet
    run(engine)
    Caller(prompt(30, start=1)).submit(engine)
    Caller(prompt(20, start=2)).submit(engine)


def test_requests_on_their_way_to_the_scheduler_count_as_queued() -> None:
    intake = Intake(max_requests=1, max_tokens=100)
    intake.put(submission("first"))
    intake.take()
    with pytest.raises(RateLimited):
        intake.put(submission("second"))
    intake.report(requests=0, tokens=0)
    intake.put(submission("third"))


def test_draining_takes_nothing_new_and_finishes_the_rest() -> None:
    engine = Engine(FakeBackend())
    caller = Caller(prompt(20)).submit(engine)
    engine.drain()
    with pytest.raises(Unavailable):
        Caller(prompt(20)).submit(engine)
    run(engine)
    assert caller.finish is Finish.LENGTH


def test_stats_count_blocks_and_tokens() -> None:
    clock = ManualClock()
    engine = Engine(FakeBackend(blocks=8), clock=clock)
    assert engine.stats().horizon_age_s is None
    run(engine, Caller(prompt(50)))
    stats = engine.stats()
    assert (stats.total_blocks, stats.free_blocks, stats.cached_blocks) == (8, 5, 3)
    assert (stats.prefill_tokens, stats.decode_tokens) == (50, 12)
    clock.advance(5)
    run(engine, Caller(prompt(100, start=3)))
    clock.advance(2)
    assert engine.stats().horizon_age_s == 7
    assert engine.stats().epoch != Engine(FakeBackend()).stats().epoch


def test_a_step_larger_than_the_backend_takes_is_refused_at_once() -> None:
    with pytest.raises(ValueError, match="at most the backend's 64"):
        Engine(FakeBackend(max_tokens=64), chunk_tokens=65)


@pytest.fixture
def started() -> Iterator[Engine]:
    engine = Engine(FakeBackend(blocks=24), max_running=6, chunk_tokens=24)
    engine.start()
    yield engine
    engine.stop()
    engine.check_integrity()


def test_many_threads_may_submit_and_abort(started: Engine) -> None:
    callers = [
        [Caller(prompt(10 + 7 * i, start=thread % 2)) for i in range(6)] for thread in range(4)
    ]

    def client(mine: list[Caller]) -> None:
        for caller in mine:
            caller.submit(started)
        started.abort(mine[-1].id)

    threads = [threading.Thread(target=client, args=(mine,)) for mine in callers]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert started.wait_idle(timeout=20)
    for mine in callers:
        assert [c.tokens for c in mine[:-1]] == [expected(c) for c in mine[:-1]]
        assert mine[-1].finish in (Finish.ABORTED, Finish.LENGTH)
    assert started.stats().owned_blocks == 0


def test_stopping_aborts_what_is_left() -> None:
    backend = SlowBackend(ManualClock())
    backend.gate.clear()
    engine = Engine(backend)
    engine.start()
    with pytest.raises(RuntimeError, match="started before"):
        engine.start()
    callers = [Caller(prompt(40)).submit(engine) for _ in range(3)]
    assert backend.entered.wait(10)
    with pytest.raises(TimeoutError):
        engine.stop(timeout=0.05)
    backend.gate.set()
    assert all(caller.over.wait(10) for caller in callers)
    engine.stop()
    assert {caller.finish for caller in callers} == {Finish.ABORTED}
    with pytest.raises(Unavailable):
        Caller(prompt(4)).submit(engine)


def test_an_engine_that_never_started_can_be_stopped() -> None:
    engine = Engine(FakeBackend())
    caller = Caller(prompt(4)).submit(engine)
    engine.stop()
    assert caller.finish is Finish.ABORTED
    assert engine.idle()


class Life(RuleBasedStateMachine):
    """Any mix of submissions, aborts and steps: the books balance and every answer is right."""

    def __init__(self) -> None:
        super().__init__()
        self.clock = ManualClock()
        self.engine = Engine(
            FakeBackend(blocks=12), clock=self.clock, max_running=4, chunk_tokens=20
        )
        self.callers: list[Caller] = []

    # few prompts that share beginnings, so that hits, equal blocks and evictions are frequent
    @rule(
        start=st.integers(0, 1),
        length=st.integers(1, 100),
        max_tokens=st.integers(1, 40),
        salt=st.sampled_from([b"", b"a"]),
        priority=st.integers(0, 2),
    )
    def submit(self, start: int, length: int, max_tokens: int, salt: bytes, priority: int) -> None:
        sampling = Sampling(temperature=0, max_tokens=max_tokens)
        caller = Caller(prompt(length, start=start), sampling, salt, priority)
        self.callers.append(caller.submit(self.engine))

    @precondition(lambda self: self.callers)
    @rule(data=st.data())
    def abort(self, data: st.DataObject) -> None:
        self.engine.abort(data.draw(st.sampled_from(self.callers)).id)

    @rule(steps=st.integers(1, 12))
    def step(self, steps: int) -> None:
        for _ in range(steps):
            self.clock.advance(0.5)
            self.engine.step()
            self.engine.check_integrity()

    def teardown(self) -> None:
        run(self.engine)
        for caller in self.callers:
            assert caller.over.is_set()
            assert caller.error is None
            wanted = expected(caller)[: 192 - len(caller.prompt)]
            assert caller.tokens == wanted[: len(caller.tokens)]
            assert caller.finish is Finish.ABORTED or caller.tokens == wanted
        assert self.engine.stats().owned_blocks == 0


TestLife = Life.TestCase
TestLife.settings = settings(max_examples=120, stateful_step_count=25, deadline=None)


def test_choices_of_one_prompt_do_not_fill_the_queue_for_the_next_caller() -> None:
    engine = Engine(FakeBackend(), max_queued_tokens=100)
    many = [Caller(prompt(70)).submission() for _ in range(8)]
    engine.submit(*many)
    Caller(prompt(20, start=5)).submit(engine)
    engine.step()
    assert engine.stats().queued_tokens <= 70 + 8 * 6 + 20
    with pytest.raises(RateLimited):
        Caller(prompt(90, start=3)).submit(engine)


def test_equal_prompts_of_two_callers_count_once_before_they_are_planned_too() -> None:
    engine = Engine(FakeBackend(), max_queued_tokens=100)
    for _ in range(5):
        Caller(prompt(60)).submit(engine)
    with pytest.raises(RateLimited):
        Caller(prompt(60), salt=b"another tenant's").submit(engine)


def test_logprobs_are_computed_while_the_engine_is_free(monkeypatch: pytest.MonkeyPatch) -> None:
    engine = Engine(FakeBackend())
    free: list[bool] = []

    def watched(*arguments: Any) -> Any:
        free.append(not engine._lock.locked())
        return logprobs_of(*arguments)

    monkeypatch.setattr("gateway.replica.engine.logprobs_of", watched)
    caller = Caller(prompt(5), Sampling(temperature=0, max_tokens=3, logprobs=2))
    run(engine, caller)
    assert free == [True] * 3
    assert all(output.logprobs is not None for output in caller.outputs)


@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
def test_a_dead_worker_ends_the_engine_and_says_so() -> None:
    ended = threading.Event()

    def fall(output: object) -> bool:
        raise SystemExit  # no error of a step: the thread ends

    engine = Engine(FakeBackend())
    engine.start(on_end=ended.set)
    assert engine.accepting
    sampling = Sampling(max_tokens=2)
    engine.submit(
        Submission("a", (1,), sampling, fall, lambda finish, counts: None, lambda error: None)
    )
    assert ended.wait(10)
    engine.stop()
    assert not engine.accepting
    with pytest.raises(Unavailable):
        Caller(prompt(3)).submit(engine)
