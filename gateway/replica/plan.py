"""What one step computes, and the arrays that tell the backend."""

from __future__ import annotations

from array import array
from dataclasses import dataclass

import numpy as np

from gateway.replica.backends.base import Batch
from gateway.replica.request import Request


@dataclass(frozen=True, slots=True)
class Row:
    """One request's part of a step: its tokens [start, stop)."""

    request: Request
    start: int
    stop: int
    prefill: bool  # not just the token that was sampled last
    sampled: bool  # the request has caught up after this step and gets a token

    @classmethod
    def of(cls, request: Request, budget: int) -> Row:
        """As many of the request's missing tokens as the budget allows."""
        start = request.computed
        stop = start + min(request.missing, budget)
        return cls(request, start, stop, not request.decoding, stop == len(request.tokens))

    def __len__(self) -> int:
        return self.stop - self.start


@dataclass(frozen=True, slots=True)
class Plan:
    """One step's rows. Valid until it is committed, and for one commit."""

    rows: tuple[Row, ...]

    @property
    def sampled(self) -> list[Request]:
        """Who gets a token, in the order of the step's logits."""
        return [row.request for row in self.rows if row.sampled]

    @property
    def prefill_tokens(self) -> int:
        return sum(len(row) for row in self.rows if row.prefill)

    def batch(self) -> Batch:
        """The step as the backend takes it. A copy: later changes of the tables do not show."""
        tokens = array("i")
        positions: list[int] = []
        rows: list[int] = []
        logits_at: list[int] = []
        most = max(len(row.request.blocks) for row in self.rows)
        tables = np.zeros((len(self.rows), most), np.int32)
        for index, row in enumerate(self.rows):
            tokens.extend(row.request.tokens[row.start : row.stop])
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
        )
