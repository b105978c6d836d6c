"""Who is told of an exchange that is over: at once, or a moment later together with others."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Iterable, Sequence
from typing import Protocol

from gateway.domain import Outcome

logger = logging.getLogger(__name__)

WITHIN_S, TOGETHER = 0.05, 32
"""Nobody who reads along notices the one; the other keeps the event loop for a few milliseconds."""


class Observer(Protocol):
    def settled(self, outcome: Outcome) -> None:
        """An exchange is over. Called once for each, whatever ended it; never waits."""
        ...


def tell(observers: Iterable[Observer], outcomes: Sequence[Outcome]) -> None:
    """Cannot be interrupted: nothing here waits."""
    for observer in observers:
        for outcome in outcomes:
            try:
                observer.settled(outcome)
            except Exception:  # a rim: one observer's defect must not cost another its record
                logger.exception("%s did not take the outcome", type(observer).__name__)


class Later:
    """Tells those that only keep records, of up to TOGETHER exchanges in one go.

    What a request runs and reads is more than a core's own cache holds, so most of its time goes
    into fetching that anew. An observer that is told of many pays so for the first alone, which is
    an eighth of a request's time: docs/performance.md has the figures.
    """

    def __init__(self, observers: Sequence[Observer]) -> None:
        self._observers = observers
        self._waiting: list[Outcome] = []
        self._timer: asyncio.TimerHandle | None = None
        self._closed = False

    def settled(self, outcome: Outcome) -> None:
        self._waiting.append(outcome)
        if self._closed or len(self._waiting) >= TOGETHER:
            self.catch_up()
        elif self._timer is None:
            self._timer = asyncio.get_running_loop().call_later(WITHIN_S, self.catch_up)

    def catch_up(self) -> None:
        """For whoever reads what they have kept."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        waiting, self._waiting = self._waiting, []
        tell(self._observers, waiting)

    def close(self) -> None:
        """From here on they are told at once."""
        self._closed = True
        self.catch_up()
