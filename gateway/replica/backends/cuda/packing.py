"""A step's numbers as one vector of 32-bit words, so that one copy takes them to the device.

The offsets of everything but the tables depend on the counts alone, and the tables' width stands
in the first word: a recorded graph reads steps of any width from the same places.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from gateway.replica.backends.base import Batch, Draws, Int32


@dataclass(frozen=True, slots=True)
class Counts:
    """Of one step; a graph's are those of its padded batch, and its width may be any."""

    tokens: int
    rows: int
    wanted: int  # logits
    width: int = 0  # blocks of a table

    @property
    def words(self) -> int:
        stop: int = self.tables.stop
        return stop

    @property
    def ids(self) -> slice:
        return self._section(0)

    @property
    def drawn(self) -> slice:
        return self._section(1)

    @property
    def positions(self) -> slice:
        return self._section(2)

    @property
    def rows_of(self) -> slice:
        return self._section(3)

    @property
    def singles(self) -> slice:
        return self._section(4)

    @property
    def logits_at(self) -> slice:
        return self._section(5)

    @property
    def temperatures(self) -> slice:
        return self._section(6)

    @property
    def noises(self) -> slice:
        return self._section(7)

    @property
    def tables(self) -> slice:
        return self._section(8)

    def _section(self, index: int) -> slice:
        sizes = (*[self.tokens] * 5, *[self.wanted] * 3, self.rows * self.width)
        start: int = 1 + sum(sizes[:index])
        return slice(start, start + sizes[index])


def pack(batch: Batch, draws: Draws, counts: Counts, spare: int, out: Int32) -> None:
    """Write a step to `out`, padded to `counts`: what is padding computes into block `spare`."""
    tokens, wanted, rows = len(batch), len(batch.logits_at), len(batch.tables)
    out[0] = counts.width
    for where, values in (
        (counts.ids, batch.tokens),
        (counts.drawn, np.full(tokens, -1, np.int32) if batch.drawn is None else batch.drawn),
        (counts.positions, batch.positions),
        (counts.logits_at, batch.logits_at),
        (counts.temperatures, draws.temperatures.view(np.int32)),
        (counts.noises, draws.noises.view(np.int32)),
    ):
        out[where] = 0
        out[where][: len(values)] = values
    out[counts.drawn][tokens:] = -1
    out[counts.logits_at][wanted:] = np.arange(wanted, counts.wanted)
    # each token of padding is a row of its own, so that a graph's rows are its tokens
    out[counts.rows_of][:tokens] = batch.rows
    out[counts.rows_of][tokens:] = np.arange(rows, rows + counts.tokens - tokens)
    singles = np.flatnonzero(np.bincount(out[counts.rows_of])[out[counts.rows_of]] == 1)
    out[counts.singles][: len(singles)] = singles
    tables = out[counts.tables].reshape(counts.rows, counts.width)
    tables[:rows, : batch.tables.shape[1]] = batch.tables
    tables[rows:] = spare
