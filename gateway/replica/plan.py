"""What one step computes, and the arrays that tell the backend."""

from __future__ import annotations

from array import array
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from gateway.replica.backends.base import BLOCK_SIZE, Batch
from gateway.replica.request import Request


@dataclass(frozen=True, slots=True)
class Row:
    """One request's part of a step: its tokens [start, stop)."""

    request: Request
    start: int
    stop: int
    prefill: bool  # not just the token that was sampled last
    sampled: bool  # the request has caught up after this step and gets a token
    source: int | None = None  # the block whose KV belongs into the row's first one beforehand
    drawn: int | None = None  # its token is the one that the step before samples at this place

    @classmethod
    def of(cls, request: Request, budget: int, source: int | None = None) -> Row:
        """As many of the request's missing tokens as the budget allows."""
        start = request.computed
        stop = start + min(request.missing, budget)
        sampled = stop == len(request.tokens)
        return cls(request, start, stop, not request.decoding, sampled, source)

    def after(self, place: int) -> Row:
        """The request's next token, which this row samples; `place` is among the step's samples."""
        return Row(self.request, self.stop, self.stop + 1, False, True, drawn=place)

    def __len__(self) -> int:
        return self.stop - self.start

    @property
    def written(self) -> array[int]:
        """The blocks that the step writes to."""
        return self.request.blocks[self.start // BLOCK_SIZE : -(-self.stop // BLOCK_SIZE)]


@dataclass(frozen=True, slots=True, eq=False)
class Plan:
    """One step's rows. In flight from `Scheduler.plan` to the one `commit` or `abandon`."""

    rows: tuple[Row, ...]

    @property
    def requests(self) -> list[Request]:
        return [row.request for row in self.rows]

    @property
    def sampled(self) -> list[Request]:
        """Who gets a token, in the order of the step's logits."""
        return [row.request for row in self.rows if row.sampled]

    @property
    def decodes(self) -> bool:
        """Whether all rows are single tokens of answers."""
        return not any(row.prefill for row in self.rows)

    @property
    def copies(self) -> list[tuple[int, int]]:
        """Source and target of the blocks to copy before any later step begins."""
        return [(row.source, row.written[0]) for row in self.rows if row.source is not None]

    @property
    def prefill_tokens(self) -> int:
        return sum(len(row) for row in self.rows if row.prefill)

    def batch(self) -> Batch:
        """The step as the backend takes it.

        Of a row that follows a step in flight the token is not known yet: where it is drawn is.
        """
        tokens = array("i")
        drawn: list[int] = []
        positions: list[int] = []
        rows: list[int] = []
        logits_at: list[int] = []
        most = max(len(row.request.blocks) for row in self.rows)
        tables = np.zeros((len(self.rows), most), np.int32)
        for index, row in enumerate(self.rows):
            known = row.request.tokens[row.start : row.stop]
            tokens.extend(known or [0])
            drawn.extend([-1] * len(known) or [-1 if row.drawn is None else row.drawn])
            positions.extend(range(row.start, row.stop))
            rows.extend([index] * len(row))
            tables[index, : len(row.request.blocks)] = np.frombuffer(row.request.blocks, np.int32)
            if row.sampled:
                logits_at.append(len(tokens) - 1)
        return Batch(
            tokens=np.array(tokens, np.int32),
            positions=np.array(positions, np.int32),
            rows=np.array(rows, np.int32),
            tables=tables,
            logits_at=np.array(logits_at, np.int32),
            drawn=np.array(drawn, np.int32) if max(drawn) >= 0 else None,
        )


def check_apart(plans: Sequence[Plan]) -> None:
    """Raises AssertionError unless these steps can be computed at once."""
    rows = [row for plan in plans for row in plan.rows]
    held = Counter(block for row in rows for block in row.request.blocks)
    assert len({row.request.number for row in rows}) == len(rows), "a request is in one step"
    assert all(held[block] == 1 for row in rows for block in row.written), "no shared writes"
