"""The engine's threads: how they start, where they run, and how they end."""

from __future__ import annotations

import logging
import os
import threading
import time
from collections.abc import Callable, Sequence

logger = logging.getLogger(__name__)


class Workers:
    """`count` threads that live as long as `work(index)` takes; the last one then calls `over`."""

    def __init__(self, count: int, work: Callable[[int], None], over: Callable[[], None]) -> None:
        self._work = work
        self._over = over
        self._left = count
        self._lock = threading.Lock()
        self._threads: list[threading.Thread] = []

    def start(self) -> None:
        if self._threads:
            raise RuntimeError("the engine has been started before")
        for index in range(self._left):
            name = f"engine-{index}"
            thread = threading.Thread(target=self._run, args=(index,), name=name, daemon=True)
            self._threads.append(thread)
        for thread in self._threads:
            thread.start()

    def join(self, timeout: float) -> None:
        """Waits for their end, or calls `over` if they were never started.

        Raises TimeoutError after `timeout` seconds.
        """
        if not self._threads:
            self._over()
        deadline = time.monotonic() + timeout
        for thread in self._threads:
            thread.join(max(0.0, deadline - time.monotonic()))
        if any(thread.is_alive() for thread in self._threads):
            raise TimeoutError(f"the engine's steps did not end within {timeout} s")

    def _run(self, index: int) -> None:
        try:
            _settle(index, len(self._threads))
            self._work(index)
        finally:
            with self._lock:
                self._left -= 1
                is_last = not self._left
            if is_last:
                self._over()


def _settle(index: int, count: int) -> None:
    """Keeps this thread to its cores, where the system lets it."""
    if not hasattr(os, "sched_setaffinity"):
        return
    try:
        cores = sorted(os.sched_getaffinity(0))
        os.sched_setaffinity(0, cores_of(index, count, cores))  # 0: this thread
    except OSError as error:  # a sandbox may forbid it; it only costs speed
        logger.info("worker %d is not kept to its cores: %s", index, error)


def cores_of(index: int, count: int, cores: Sequence[int]) -> Sequence[int]:
    """The part of `cores` on which one of `count` workers runs; all of them if they are too few.

    A thread wakes where the one that woke it runs. So Linux puts two workers on one core time and
    again and needs a while to part them: steps of 3 ms took 7 beside an idle core. Only threads
    that share the work are kept apart; what else runs can still evade them.
    """
    return cores[index::count] if len(cores) >= count else cores
