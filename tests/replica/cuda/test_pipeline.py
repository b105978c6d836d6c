"""Steps ahead of their tokens: the real engine and pipeline over a device that computes late."""

from __future__ import annotations

import logging
import random
import threading
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from gateway.replica.backends.base import Batch, DeviceLost, DrawingBackend, Draws
from gateway.replica.backends.cuda.packing import Counts, pack
from gateway.replica.backends.cuda.pipeline import Pipeline, sizes_up_to
from gateway.replica.constraint import Mask
from gateway.replica.engine import Engine
from gateway.replica.request import Finish
from gateway.replica.sampling import Sampling
from tests.support.batches import Piece, batch
from tests.support.callers import GREEDY, Caller, expected, prompt
from tests.support.fake_backend import FakeBackend
from tests.support.fake_device import FakeGpu

SEEDED = Sampling(temperature=1.3, seed=5, max_tokens=40)


def run(engine: Engine, *callers: Caller) -> None:
    for caller in callers:
        caller.submit(engine)
    for _ in range(2000):
        more = engine.step()
        engine.check_integrity()
        if not more:
            return
    pytest.fail("the engine did not finish")


def test_the_engine_knows_who_draws() -> None:
    assert isinstance(FakeGpu(), DrawingBackend)
    assert not isinstance(FakeBackend(), DrawingBackend)


@pytest.mark.parametrize("sampling", [GREEDY, SEEDED], ids=["greedy", "seeded"])
def test_tokens_are_those_of_the_naive_computation(sampling: Sampling) -> None:
    gpu = FakeGpu()
    callers = [Caller(prompt(5 + 9 * i, start=i), sampling) for i in range(6)]
    run(Engine(gpu, chunk_tokens=40, max_running=5), *callers)
    assert [c.tokens for c in callers] == [expected(c) for c in callers]


def test_a_step_is_launched_before_the_one_before_it_is_read() -> None:
    gpu = FakeGpu()
    caller = Caller(prompt(20), Sampling(temperature=0, max_tokens=30)).submit(
        engine := Engine(gpu)
    )
    engine.step()
    assert (gpu.launched, len(caller.tokens)) == (2, 1)
    engine.step()
    assert (gpu.launched, len(caller.tokens)) == (3, 2)
    run(engine)
    assert caller.tokens == expected(caller)
    # the limit is known beforehand: nothing is computed in vain
    assert (gpu.launched, gpu.followed) == (30, 29)
    assert gpu.device.recorded == {1: 29, 2: 0, 4: 0, 8: 0}
    assert gpu.device.computed == 1


def test_who_stops_is_in_one_step_for_nothing_and_then_frees_its_blocks() -> None:
    tokens = expected(Caller(prompt(20)))
    sampling = Sampling(temperature=0, max_tokens=12, stop_tokens=frozenset({tokens[5]}))
    caller = Caller(prompt(20), sampling)
    other = Caller(prompt(30, start=1), Sampling(temperature=0, max_tokens=40))
    gpu = FakeGpu()
    engine = Engine(gpu)
    run(engine, caller, other)
    assert (caller.tokens, caller.finish) == (tokens[:6], Finish.STOP)
    assert other.tokens == expected(other)
    assert engine.stats().owned_blocks == 0
    assert caller.counts is not None
    assert caller.counts.completion_tokens == 6


def test_a_caller_that_has_seen_enough_gets_no_further_token() -> None:
    callers = [Caller(prompt(10, start=i), enough_after=n) for i, n in enumerate((1, 7, 16))]
    for caller in callers:
        caller.sampling = Sampling(temperature=0, max_tokens=60)
    run(Engine(FakeGpu()), *callers)
    assert [len(caller.tokens) for caller in callers] == [1, 7, 16]
    assert [caller.finish for caller in callers] == [Finish.STOP] * 3


def test_whoever_comes_joins_the_step_ahead() -> None:
    engine = Engine(gpu := FakeGpu())
    first = Caller(prompt(20), Sampling(temperature=0, max_tokens=30)).submit(engine)
    for _ in range(5):
        engine.step()
    second = Caller(prompt(20, start=3)).submit(engine)
    engine.step()
    engine.step()
    assert len(second.tokens) == 1
    run(engine)
    assert [first.tokens, second.tokens] == [expected(first), expected(second)]
    assert gpu.followed == gpu.launched - 1


def test_an_abort_takes_effect_when_no_step_has_the_request() -> None:
    engine = Engine(FakeGpu())
    caller = Caller(prompt(20), Sampling(temperature=0, max_tokens=60)).submit(engine)
    for _ in range(4):
        engine.step()
    engine.abort(caller.id)
    run(engine)
    assert (caller.finish, len(caller.tokens)) == (Finish.ABORTED, 4)
    assert engine.stats().owned_blocks == 0


@pytest.mark.parametrize("seed", range(8))
def test_in_a_small_pool_with_aborts_and_late_comers_tokens_stay_the_same(seed: int) -> None:
    chance = random.Random(seed)
    gpu = FakeGpu(blocks=14)
    engine = Engine(gpu, chunk_tokens=24, max_running=6)
    callers = [
        Caller(
            prompt(chance.randrange(1, 90), start=chance.randrange(3)),
            chance.choice(
                [GREEDY, SEEDED, GREEDY, SEEDED, Sampling(seed=3, top_k=5, max_tokens=9)]
            ),
        )
        for _ in range(14)
    ]
    gone = set()
    waiting = list(callers)
    while waiting or not engine.idle():
        if waiting and chance.random() < 0.3:
            waiting.pop().submit(engine)
        if chance.random() < 0.03:
            gone.add((victim := chance.choice(callers)).id)
            engine.abort(victim.id)
        engine.step()
        engine.check_integrity()
    for caller in callers:
        wanted = expected(caller)
        assert caller.tokens == (wanted[: len(caller.tokens)] if caller.id in gone else wanted)
    assert gpu.followed
    assert engine.stats().owned_blocks == 0


def test_preempted_requests_go_on_where_they_were() -> None:
    engine = Engine(FakeGpu(blocks=8))
    sampling = Sampling(temperature=0, max_tokens=40)
    callers = [Caller(prompt(20, start=i), sampling) for i in range(4)]
    run(engine, *callers)
    assert engine.stats().preemptions > 0
    assert [c.tokens for c in callers] == [expected(c) for c in callers]


def test_an_answer_can_be_continued_elsewhere_after_any_token() -> None:
    whole = Caller(prompt(20), SEEDED)
    run(Engine(FakeGpu()), whole)
    for cut in range(0, len(whole.tokens), 7):
        rest = Caller(prompt(20), SEEDED, continued=tuple(whole.tokens[:cut]))
        run(Engine(FakeGpu()), rest)
        assert rest.tokens == whole.tokens[cut:]


HOSTS = [
    Sampling(temperature=0, max_tokens=12, logprobs=2),
    Sampling(temperature=1.1, seed=4, max_tokens=12, top_p=0.9),
    Sampling(temperature=0, max_tokens=12, repetition_penalty=1.3),
    Sampling(temperature=0, max_tokens=12, logit_bias={3: 5.0}),
]


@pytest.mark.parametrize("sampling", HOSTS)
def test_what_takes_the_host_is_sampled_there(sampling: Sampling) -> None:
    asked, plain = Caller(prompt(20), sampling), Caller(prompt(30, start=2), SEEDED)
    engine = Engine(FakeGpu())
    plain.submit(engine)
    for _ in range(6):
        engine.step()
    run(engine, asked)
    assert [asked.tokens, plain.tokens] == [expected(asked), expected(plain)]
    assert all((output.logprobs is None) == (sampling.logprobs is None) for output in asked.outputs)


class Rising:
    """A grammar of rising tokens, 6 of them; it ends on the last."""

    def __init__(self) -> None:
        self.taken = [-1]

    @property
    def ended(self) -> bool:
        return len(self.taken) == 7

    def mask(self) -> Mask:
        ids = np.arange(50)
        return (ids > self.taken[-1]) & (ids <= 43 + len(self.taken))  # room for the others

    def take(self, token: int) -> None:
        self.taken.append(token)


def test_a_sequence_under_a_grammar_is_sampled_on_the_host_and_its_neighbours_keep_theirs() -> None:
    plain = Caller(prompt(30, start=2), SEEDED)
    held = Caller(prompt(20), Sampling(temperature=1.1, seed=4, max_tokens=40))
    gpu = FakeGpu()
    engine = Engine(gpu)
    plain.submit(engine)
    for _ in range(6):
        engine.step()
    engine.submit(replace(held.submission(), constraint=Rising()))
    run(engine)
    assert plain.tokens == expected(plain)
    assert held.finish is Finish.STOP
    assert held.tokens == sorted(set(held.tokens))
    assert len(held.tokens) == 6
    assert gpu.followed > 0  # before it came and after it had gone


def test_recording_tells_how_far_it_has_come() -> None:
    gpu, told = FakeGpu(), []
    Pipeline(gpu.device, (1, 2, 4), max_tokens=8, max_width=1, spare=64, progress=told.append)
    assert told == [0, 1 / 3, 2 / 3]


def test_min_tokens_takes_the_host_only_until_they_are_there() -> None:
    tokens = expected(Caller(prompt(20)))
    stop = frozenset({tokens[0], tokens[9]})
    caller = Caller(
        prompt(20), Sampling(temperature=0, max_tokens=12, min_tokens=4, stop_tokens=stop)
    )
    gpu = FakeGpu()
    run(Engine(gpu), caller)
    assert caller.tokens == expected_until(caller, stop)
    assert 0 < gpu.followed < len(caller.tokens)


def expected_until(caller: Caller, stop: frozenset[int]) -> list[int]:
    tokens = expected(caller)
    ends = [n for n, token in enumerate(tokens) if token in stop and n >= 4]
    return tokens[: ends[0] + 1] if ends else tokens


def test_logits_that_are_not_finite_end_their_request_alone() -> None:
    bad, good = Caller((1, 49)), Caller(prompt(9, start=1))
    gpu = FakeGpu(nan_at=49)
    run(Engine(gpu), bad, good)
    assert bad.error is not None
    assert not bad.tokens
    assert good.tokens == expected(good)


def test_a_failed_step_fails_the_one_ahead_of_it_too(caplog: pytest.LogCaptureFixture) -> None:
    gpu = FakeGpu()
    engine = Engine(gpu)
    caller = Caller(prompt(9), Sampling(temperature=0, max_tokens=30)).submit(engine)
    engine.step()
    gpu.raises_at = caller.tokens[0]
    run(engine)
    assert str(caller.error) == "the replica failed while computing this answer"
    assert "a step of 1 requests failed" in caplog.text
    assert engine.stats().owned_blocks == 0


class Broken:
    """Raises in the call that is `n` calls away, and only there."""

    def __init__(self, call: Callable[..., Any], n: int, error: Exception) -> None:
        self._call, self._left, self._error = call, n, error

    def __call__(self, *arguments: object) -> object:
        self._left -= 1
        if self._left == 0:
            raise self._error
        return self._call(*arguments)


@pytest.mark.parametrize("n", [1, 2], ids=["the step", "the one ahead"])
def test_after_a_step_that_cannot_be_launched_the_engine_goes_on(
    monkeypatch: pytest.MonkeyPatch, n: int
) -> None:
    gpu = FakeGpu()
    engine = Engine(gpu)
    caller = Caller(prompt(9), Sampling(temperature=0, max_tokens=30)).submit(engine)
    engine.step()
    monkeypatch.setattr(gpu, "launch", Broken(gpu.launch, n, RuntimeError("told to fail")))
    run(engine)
    assert str(caller.error) == "the replica failed while computing this answer"
    after = [Caller(prompt(9, start=i)) for i in range(4)]
    for each in after:
        run(engine, each)
    assert [each.tokens for each in after] == [expected(each) for each in after]


def test_after_a_step_that_fails_on_the_device_the_engine_goes_on() -> None:
    gpu = FakeGpu()
    engine = Engine(gpu)
    failing = Caller(prompt(9), Sampling(temperature=0, max_tokens=30)).submit(engine)
    engine.step()
    gpu.raises_at = failing.tokens[0]
    run(engine)
    gpu.raises_at = None
    after = [Caller(prompt(9, start=i)) for i in range(4)]
    for each in after:
        run(engine, each)
    assert [each.tokens for each in after] == [expected(each) for each in after]


@pytest.mark.parametrize("beside", [False, True], ids=["alone", "in the step ahead"])
def test_a_block_that_cannot_be_copied_fails_who_needs_it(
    monkeypatch: pytest.MonkeyPatch, *, beside: bool
) -> None:
    gpu = FakeGpu()
    engine = Engine(gpu)
    run(engine, Caller(prompt(32)))
    if beside:
        Caller(prompt(9, start=1), Sampling(temperature=0, max_tokens=30)).submit(engine)
        engine.step()
    monkeypatch.setattr(gpu, "copy_block", Broken(gpu.copy_block, 1, RuntimeError("no memory")))
    needs = Caller(prompt(32))
    run(engine, needs)
    assert str(needs.error) == "the replica failed while computing this answer"
    assert engine.stats().owned_blocks == 0
    run(engine, again := Caller(prompt(32)))
    assert again.tokens == expected(again)


@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
@pytest.mark.parametrize("beside", [False, True], ids=["alone", "in the step ahead"])
def test_a_device_that_is_lost_while_a_block_is_copied_leaves_nobody_untold(
    monkeypatch: pytest.MonkeyPatch, *, beside: bool
) -> None:
    gpu, ended = FakeGpu(), threading.Event()
    engine = Engine(gpu)
    run(engine, Caller(prompt(32)))
    callers = []
    if beside:
        long = Sampling(temperature=0, max_tokens=200)
        callers.append(Caller(prompt(9, start=1), long).submit(engine))
        engine.step()
    monkeypatch.setattr(gpu, "copy_block", Broken(gpu.copy_block, 1, DeviceLost("told to be lost")))
    callers.append(Caller(prompt(32)).submit(engine))
    engine.start(on_end=ended.set)
    assert ended.wait(10)
    engine.stop()  # or its thread's last word may be heard in another test
    assert engine.idle()
    assert all(caller.error is not None for caller in callers)
    assert not engine.accepting


@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
def test_a_lost_device_ends_the_engine_and_everybody_is_told() -> None:
    gpu, ended = FakeGpu(), threading.Event()
    engine = Engine(gpu)
    gpu.device.lost = True
    caller = Caller(prompt(9)).submit(engine)
    engine.start(on_end=ended.set)
    assert ended.wait(10)
    engine.stop()
    assert str(caller.error) == "the replica failed while computing this answer"
    assert not engine.accepting


def test_an_engine_that_is_stopped_tells_those_in_the_step_ahead() -> None:
    engine = Engine(FakeGpu())
    caller = Caller(prompt(9), Sampling(temperature=0, max_tokens=200)).submit(engine)
    engine.step()
    engine.stop()
    assert caller.finish is Finish.ABORTED


def test_a_thread_of_its_own_keeps_steps_ahead() -> None:
    logging.getLogger("gateway.replica.workers").setLevel(logging.WARNING)
    gpu = FakeGpu()
    engine = Engine(gpu, max_running=8)
    engine.start()
    callers = [Caller(prompt(7 + i, start=i), SEEDED).submit(engine) for i in range(6)]
    assert engine.wait_idle(20)
    engine.stop()
    assert [c.tokens for c in callers] == [expected(c) for c in callers]
    assert gpu.followed > 30


def test_a_step_ahead_that_was_for_nothing_counts_no_token() -> None:
    engine = Engine(FakeGpu())
    stop = expected(Caller(prompt(9)))[5]
    sampling = Sampling(temperature=0, max_tokens=40, stop_tokens=frozenset({stop}))
    run(engine, ended := Caller(prompt(9), sampling))
    assert ended.finish is Finish.STOP
    assert engine.stats().decode_tokens == len(ended.tokens)


def test_a_third_step_waits_for_the_first() -> None:
    gpu = FakeGpu()
    one = batch(Piece([1], 0, [0]))
    draws = Draws(np.zeros(1, np.float32), np.zeros(1, np.float32))
    first = gpu.launch(one, draws)
    gpu.launch(one, draws)
    with pytest.raises(RuntimeError, match="2 steps are on their way; one must be waited for"):
        gpu.launch(one, draws)
    first.tokens()
    gpu.launch(one, draws)


def test_only_single_tokens_whose_logits_are_wanted_are_recorded() -> None:
    pipeline = FakeGpu(sizes=(1, 4)).pipeline
    singles = [Piece([n], 3, [n]) for n in range(5)]
    assert [pipeline.size_for(batch(*singles[:n])) for n in range(1, 6)] == [1, 4, 4, 4, None]
    assert pipeline.size_for(batch(Piece([1, 2], 0, [0]))) is None
    unwanted = batch(singles[0])
    unwanted = Batch(
        unwanted.tokens, unwanted.positions, unwanted.rows, unwanted.tables, np.zeros(0, np.int32)
    )
    assert pipeline.size_for(unwanted) is None


def test_recorded_batches_leave_at_most_an_eighth_of_padding_where_it_costs() -> None:
    sizes = sizes_up_to(256)
    assert (sizes[0], sizes[-1]) == (1, 256)
    for wanted in range(64, 257):
        padded = min(size for size in sizes if size >= wanted)
        assert padded - wanted < 16
    assert sizes_up_to(3) == [1, 2, 3]
    assert sizes_up_to(1) == [1]


def test_padding_computes_into_the_spare_block() -> None:
    counts = Counts(4, 4, 4, 3)
    words = np.full(counts.words, 77, np.int32)
    two = batch(Piece([5], 20, [1, 2]), Piece([6], 33, [3, 4, 5]))
    draws = Draws(np.array([0, 0.5], np.float32), np.array([0, 0.25], np.float32))
    pack(two, draws, counts, spare=9, out=words)
    assert words[0] == 3
    assert words[counts.ids].tolist() == [5, 6, 0, 0]
    assert words[counts.drawn].tolist() == [-1] * 4
    assert words[counts.positions].tolist() == [20, 33, 0, 0]
    assert words[counts.rows_of].tolist() == [0, 1, 2, 3]
    assert words[counts.singles].tolist() == [0, 1, 2, 3]
    assert words[counts.logits_at].tolist() == [0, 1, 2, 3]
    assert words[counts.temperatures].view(np.float32).tolist() == [0, 0.5, 0, 0]
    assert words[counts.noises].view(np.float32).tolist() == [0, 0.25, 0, 0]
    assert words[counts.tables].reshape(4, 3).tolist() == [[1, 2, 0], [3, 4, 5], [9] * 3, [9] * 3]
