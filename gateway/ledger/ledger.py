"""The observer that keeps the books: it never waits for the disk."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path

from gateway.domain import Outcome
from gateway.ledger.record import Record
from gateway.ledger.store import append, opened
from gateway.telemetry.batches import Batches

CAPACITY = 50_000
"""Records that may wait for the disk: some 100 MB at the most, usually less than 50."""

DRAIN_S = 30.0


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
        capacity: int = CAPACITY,
        period_s: float = 0.5,
    ) -> None:
        self.file = file
        self._clock = clock
        self._wall = wall
        self._batches: Batches[Record] = Batches(
            "ledger rows", self._write, capacity=capacity, period_s=period_s, again=True
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

    def close(self) -> None:
        """Write what is left."""
        self._batches.close(DRAIN_S)

    def _write(self, records: list[Record]) -> None:
        with opened(self.file, write=True) as connection:
            append(connection, records)
