"""Batches for a backend, written as sequences of tokens."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from gateway.replica.backends.base import BLOCK_SIZE, Backend, Batch, Float32

Float64 = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Piece:
    """Tokens of one sequence that stand from `start` on, in the blocks of `table`."""

    tokens: Sequence[int]
    start: int
    table: Sequence[int]


def batch(*pieces: Piece) -> Batch:
    """The pieces as one batch that wants every token's logits."""
    tables = np.zeros((len(pieces), max(len(piece.table) for piece in pieces)), np.int32)
    for row, piece in enumerate(pieces):
        tables[row, : len(piece.table)] = piece.table
    lengths = [len(piece.tokens) for piece in pieces]
    return Batch(
        tokens=np.array([token for piece in pieces for token in piece.tokens], np.int32),
        positions=np.array(
            [piece.start + i for piece in pieces for i in range(len(piece.tokens))], np.int32
        ),
        rows=np.repeat(np.arange(len(pieces), dtype=np.int32), lengths),
        tables=tables,
        logits_at=np.arange(sum(lengths), dtype=np.int32),
    )


def in_chunks(
    backend: Backend, tokens: Sequence[int], size: int, table: Sequence[int] | None = None
) -> Float32:
    """The logits of every token of one sequence that is computed `size` tokens at a time."""
    if table is None:
        table = range(-(-len(tokens) // BLOCK_SIZE))
    return np.concatenate(
        [
            backend.forward(batch(Piece(tokens[start : start + size], start, table))).copy()
            for start in range(0, len(tokens), size)
        ]
    )


def log_softmax(logits: Float32) -> Float64:
    wide: Float64 = logits.astype(np.float64)
    wide -= wide.max(-1, keepdims=True)
    wide -= np.log(np.exp(wide).sum(-1, keepdims=True))
    return wide


def divergences(true: Float32, other: Float32) -> Float64:
    """Kullback-Leibler divergence of each row, in nats."""
    p, q = log_softmax(true), log_softmax(other)
    result: Float64 = (np.exp(p) * (p - q)).sum(-1)
    return result
