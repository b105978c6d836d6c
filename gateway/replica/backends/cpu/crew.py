"""Threads that help with a step, on the cores on which no other step is in progress."""

from __future__ import annotations

import logging
import os
import threading
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from copy import copy
from typing import Self

from gateway.replica.backends.cpu.board import Board, Counters, counters, dismiss

logger = logging.getLogger(__name__)


class Crew:
    """Lends a backend's steps the threads that the steps of its forks leave idle.

    At most `threads` threads compute, for the backend and all its forks together. A new step gets
    those that are left, and whoever helps with another one leaves it: he would be in the way.
    """

    def __init__(self, threads: int) -> None:
        self._threads = threads
        self._steps: list[Counters] = []  # of those in progress; all forks share it
        self._lock = threading.Lock()
        self._helpers = _helpers(threads)

    def fork(self) -> Self:
        twin = copy(self)
        twin._helpers = _helpers(self._threads)
        return twin

    def run(self, step: Callable[[Board], None], parts: int) -> None:
        """Call `step` here and, if cores are idle, on threads that join it late or not at all.

        It returns when all of the step is computed.
        """
        mine = counters(parts)
        with self._lock:
            for other in self._steps:
                dismiss(other)
            self._steps.append(mine)
            idle = self._threads - len(self._steps)
        asked = self._ask(step, mine, idle)
        try:
            step(Board(mine, 0))
        finally:
            dismiss(mine)  # whoever comes from now on must find nothing to do
            with self._lock:
                self._steps[:] = [each for each in self._steps if each is not mine]
            for each in asked:
                each.cancel()

    def _ask(
        self, step: Callable[[Board], None], numbers: Counters, idle: int
    ) -> list[Future[None]]:
        try:
            return [self._helpers.submit(step, Board(numbers, 1 + k)) for k in range(idle)]
        except RuntimeError as error:  # no thread can be started; it only costs speed
            logger.debug("nobody helps with a step: %s", error)
            return []


def _helpers(threads: int) -> ThreadPoolExecutor:
    """Its threads begin with the first step, and end when nobody has it any more."""
    most = max(1, threads - 1)
    return ThreadPoolExecutor(most, "helper", initializer=_settle, initargs=(most,))


def _settle(helpers: int) -> None:
    """Keeps this thread off the cores of the worker whom it helps (replica/workers.py), if each of
    the helpers can have one of the others: a worker has more cores than it takes where there are
    many, and then they need those too.
    """
    if not hasattr(os, "sched_setaffinity"):
        return
    try:
        cores = os.sched_getaffinity(os.getpid())
        others = cores - os.sched_getaffinity(0)  # 0: as its creator
        os.sched_setaffinity(0, others if len(others) >= helpers else cores)
    except OSError as error:  # a sandbox may forbid it; it only costs speed
        logger.info("a helper is not kept off its worker's cores: %s", error)
