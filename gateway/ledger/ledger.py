"""The observer that keeps the books: it never waits for the disk."""

from __future__ import annotations

import logging
import sqlite3
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

from gateway.domain import Outcome
from gateway.ledger.record import Record
from gateway.ledger.store import LedgerError, opened, prune, write
from gateway.telemetry.batches import Batches

logger = logging.getLogger(__name__)

CAPACITY = 50_000
"""Records that may wait for the disk: some 100 MB at the most, usually less than 50."""

DRAIN_S = 30.0

STEP = 200
"""Exchanges that are deleted at once."""


def prepare(file: Path) -> None:
    """Make the file if it is not there. Raises LedgerError where it cannot be written."""
    with opened(file, write=True):
        pass


class Ledger:
    def __init__(
        self,
        file: Path,
        clock: Callable[[], float],
        wall: Callable[[], float] = time.time,
        *,
        keep_s: float | None = None,
        size: int | None = None,
        capacity: int = CAPACITY,
        period_s: float = 0.5,
    ) -> None:
        self.file = file
        self._keep_s = keep_s
        self._size = size
        self._closing = False
        self._clock = clock
        self._wall = wall
        self._batches: Batches[Record] = Batches(
            "ledger rows",
            partial(write, file),
            capacity=capacity,
            period_s=period_s,
            again=True,
        )

    def start(self) -> None:
        self._batches.start()

    @property
    def dropped(self) -> int:
        return self._batches.dropped

    @property
    def written(self) -> int:
        return self._batches.written

    def settled(self, outcome: Outcome) -> None:
        at = self._wall() - (self._clock() - outcome.started)
        self._batches.put(Record.of(outcome, at))

    def prune(self) -> None:
        """Delete what is older than it is to be kept, and what there is no room for: on a thread of
        its own, in steps that a writer does not notice."""
        if self._keep_s is None and self._size is None:
            return
        before = -1.0 if self._keep_s is None else self._wall() - self._keep_s
        try:
            with opened(self.file, write=True) as connection:
                while not self._closing and prune(connection, before, self._size, STEP) == STEP:
                    pass
        except (LedgerError, sqlite3.Error) as error:
            logger.warning("old exchanges could not be deleted from the ledger: %s", error)

    def close(self) -> None:
        """Write what is left."""
        self._closing = True
        self._batches.close(DRAIN_S)
