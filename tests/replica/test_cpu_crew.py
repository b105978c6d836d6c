"""Threads that share a step: who helps with which, and that nobody has to."""

from __future__ import annotations

import gc
import os
import queue
import threading
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from gateway.replica.backends.cpu import CpuBackend
from gateway.replica.backends.cpu.board import (
    TOGETHER,
    Board,
    claim,
    counters,
    dismiss,
    over_tokens,
    wait,
)
from gateway.replica.backends.cpu.crew import Crew
from gateway.replica.backends.cpu.jit import jit, jit_entry
from gateway.replica.weights import Weights
from tests.support.batches import Piece, batch
from tests.support.tiny_model import TinyModel


@over_tokens
@jit
def count_up(first: int, last: int, totals: np.ndarray[tuple[int], np.dtype[np.int64]]) -> None:
    for t in range(first, last):
        totals[t] += 1


@jit_entry
def many_parts(
    board: Board, parts: int, totals: np.ndarray[tuple[int], np.dtype[np.int64]]
) -> None:
    """Each part adds one to every total, whatever thread computes it."""
    for part in range(parts):
        count_up(board, part, len(totals), totals)


@jit_entry
def claim_here(board: Board, part: int) -> int:
    return claim(board, part)


@jit_entry
def wait_here(board: Board, part: int, pieces: int) -> None:
    wait(board, part, pieces)


class Held:
    """Steps that begin, on whatever threads, and go on when the test says so."""

    def __init__(self) -> None:
        self.begun: queue.SimpleQueue[tuple[str, Board]] = queue.SimpleQueue()
        self.go_on = threading.Event()

    def step(self, name: str) -> Callable[[Board], None]:
        def compute(board: Board) -> None:
            self.begun.put((name, board))
            assert self.go_on.wait(20)

        return compute

    def threads(self, expected: int) -> dict[str, list[int]]:
        found: dict[str, list[int]] = {}
        for _ in range(expected):
            name, board = self.begun.get(timeout=10)
            found.setdefault(name, []).append(board.thread)
        assert self.begun.empty()
        return {name: sorted(threads) for name, threads in found.items()}


def in_thread(crew: Crew, step: Callable[[Board], None]) -> threading.Thread:
    thread = threading.Thread(target=crew.run, args=(step, 1))
    thread.start()
    return thread


@pytest.mark.parametrize("threads", [1, 2, 3])
def test_a_step_alone_gets_all_threads(threads: int) -> None:
    held = Held()
    running = in_thread(Crew(threads), held.step("a"))
    assert held.threads(threads) == {"a": list(range(threads))}
    held.go_on.set()
    running.join(10)


def test_a_second_step_gets_what_is_left_and_the_firsts_helpers_leave() -> None:
    held, crew = Held(), Crew(2)
    first = in_thread(crew, held.step("a"))
    boards = [held.begun.get(timeout=10)[1] for _ in range(2)]
    assert all(claim_here(board, 0) in (0, 1) for board in boards)
    second = in_thread(crew.fork(), held.step("b"))
    assert held.threads(1) == {"b": [0]}
    helper, owner = sorted(boards, key=lambda board: board.thread, reverse=True)
    assert claim_here(helper, 0) > 1000  # nothing that a part could have
    assert claim_here(owner, 0) == 2
    wait_here(helper, 0, 99)  # and it waits for nobody
    held.go_on.set()
    for each in (first, second):
        each.join(10)


def test_one_thread_computes_everything_if_the_others_come_late() -> None:
    numbers, totals = counters(5), np.zeros(10, np.int64)
    many_parts(Board(numbers, 0), 5, totals)
    assert totals.tolist() == [5] * 10
    many_parts(Board(numbers, 1), 5, totals)
    assert totals.tolist() == [5] * 10


def test_a_helper_that_is_dismissed_computes_nothing_more() -> None:
    numbers, totals = counters(5), np.zeros(10, np.int64)
    dismiss(numbers)
    many_parts(Board(numbers, 1), 5, totals)
    assert not totals.any()
    many_parts(Board(numbers, 0), 5, totals)
    assert totals.tolist() == [5] * 10


def test_with_several_threads_every_piece_is_computed_once() -> None:
    parts, crew = 3000, Crew(3)
    totals = np.zeros(7 * TOGETHER - 1, np.int64)
    crew.run(lambda board: many_parts(board, parts, totals), parts)
    assert (totals == parts).all()


def test_a_helper_keeps_off_the_core_of_the_worker_whom_it_helps() -> None:
    cores = os.sched_getaffinity(0)
    found: dict[int, set[int]] = {}

    def step(board: Board) -> None:
        found[board.thread] = os.sched_getaffinity(0)
        while len(found) < 2:
            time.sleep(0.001)

    def work() -> None:
        os.sched_setaffinity(0, {min(cores)})
        Crew(2).run(step, 1)

    worker = threading.Thread(target=work)
    worker.start()
    worker.join(10)
    assert found[0] == {min(cores)}
    assert found[1] == cores - {min(cores)} or len(cores) == 1


def test_helpers_that_would_crowd_the_other_cores_have_all_of_them() -> None:
    cores = os.sched_getaffinity(0)
    threads = len(cores) + 1  # more helpers than there are cores beside the worker's
    found: dict[int, set[int]] = {}

    def step(board: Board) -> None:
        found[board.thread] = os.sched_getaffinity(0)
        while len(found) < threads:
            time.sleep(0.001)

    def work() -> None:
        os.sched_setaffinity(0, {min(cores)})
        Crew(threads).run(step, 1)

    worker = threading.Thread(target=work)
    worker.start()
    worker.join(10)
    assert found == {0: {min(cores)}} | dict.fromkeys(range(1, threads), cores)


def test_the_load_leaves_the_helpers_to_the_worker_whom_they_help(tmp_path: Path) -> None:
    weights = Weights.open(TinyModel().write(tmp_path / "tiny.gguf"))
    before = {thread for thread in threading.enumerate() if thread.name.startswith("helper")}
    backend = CpuBackend.load(weights, blocks=4, max_tokens=32, threads=2)

    def own() -> list[threading.Thread]:
        helpers = (each for each in threading.enumerate() if each.name.startswith("helper"))
        return [each for each in helpers if each not in before]

    gc.collect()
    for each in own():
        each.join(10)
    assert not own()
    backend.forward(batch(Piece([1, 2, 3], 0, [0])))
    assert len(own()) == 1


def test_a_step_whose_helper_cannot_start_leaves_nothing_to_a_later_one(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    crew, totals, later = Crew(2), np.zeros(10, np.int64), np.zeros(10, np.int64)

    def refuse(thread: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    with monkeypatch.context() as patch:
        patch.setattr(threading.Thread, "start", refuse)
        crew.run(lambda board: many_parts(board, 5, totals), 5)
    assert totals.tolist() == [5] * 10
    begun: list[int] = []

    def step(board: Board) -> None:
        begun.append(board.thread)
        many_parts(board, 5, later)
        while len(begun) < 2:
            time.sleep(0.001)

    crew.run(step, 5)
    assert sorted(begun) == [0, 1]
    assert totals.tolist() == later.tolist() == [5] * 10


def test_helpers_end_with_their_backend(tmp_path: Path) -> None:
    weights = Weights.open(TinyModel().write(tmp_path / "tiny.gguf"))
    gc.collect()
    before = {*threading.enumerate()}
    backend = CpuBackend.load(weights, blocks=4, max_tokens=32, threads=3)
    forks = [backend, backend.fork()]
    for each in forks:
        each.forward(batch(Piece([1, 2, 3], 0, [0])))
    helpers = {*threading.enumerate()} - before
    assert helpers
    del backend, forks, each
    gc.collect()
    for helper in helpers:
        helper.join(10)
    assert not {*threading.enumerate()} & helpers
