"""From the event loop to somewhere slow, without waiting: a bounded queue, a thread behind it."""

from __future__ import annotations

import logging
import threading
from collections import deque
from collections.abc import Callable
from typing import Generic, TypeVar

logger = logging.getLogger(__name__)

T = TypeVar("T")


class Batches(Generic[T]):
    """`put` never waits and never raises. `write` gets the items in order, on the thread.

    What does not fit, and what `write` could not write (it raised), is counted as dropped. With
    `again`, what could not be written is kept and tried again, until it is to end.
    """

    def __init__(
        self,
        name: str,
        write: Callable[[list[T]], None],
        *,
        capacity: int = 10_000,
        batch: int = 512,
        period_s: float = 1.0,
        again: bool = False,
    ) -> None:
        self.name = name
        self.written = 0
        self._write = write
        self._capacity = capacity
        self._batch = batch
        self._period_s = period_s
        self._again = again
        self._failing = False  # said once, and when it is over
        self._items: deque[T] = deque()
        self._refused = 0  # by `put`, on the event loop's thread
        self._failed = 0  # by `write`, on ours
        self._given_up = 0
        self._stir = threading.Event()
        self._closing = False
        self._thread = threading.Thread(target=self._work, name=name, daemon=True)

    def start(self) -> None:
        self._thread.start()

    @property
    def dropped(self) -> int:
        return self._refused + self._failed + self._given_up

    def put(self, item: T) -> None:
        if self._closing or len(self._items) >= self._capacity:
            self._refused += 1
            return
        self._items.append(item)
        if len(self._items) >= self._batch and not self._failing:
            self._stir.set()

    def close(self, timeout_s: float) -> None:
        """Write what is left; what is left of that after so many seconds is dropped."""
        if not self._thread.is_alive():
            return
        self._closing = True
        self._stir.set()
        self._thread.join(timeout_s)
        if self._thread.is_alive():
            self._given_up += len(self._items)
            self._items.clear()
        if self.dropped:
            logger.warning("%s: %d were dropped", self.name, self.dropped)

    def _work(self) -> None:
        while not self._closing:
            self._stir.wait(self._period_s)
            self._stir.clear()
            self._write_all()
        self._write_all()  # what came before `closing` was seen

    def _write_all(self) -> None:
        while self._items:
            batch = [self._items.popleft() for _ in range(min(self._batch, len(self._items)))]
            try:
                self._write(batch)
            except Exception as error:  # a rim: whatever is behind it must not end the thread
                if not self._failing:
                    logger.warning("%s cannot be written: %s", self.name, error)
                self._failing = True
                if self._again and not self._closing:
                    self._items.extendleft(reversed(batch))
                    return
                self._failed += len(batch)
            else:
                self.written += len(batch)
                if self._failing:
                    logger.warning("%s are written again; %d were dropped", self.name, self.dropped)
                self._failing = False
