"""What a step works on: tensors of the model, of the pool, and of the step itself."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from gateway.replica.backends.base import BLOCK_SIZE, Batch
from gateway.replica.backends.cuda.packing import Counts
from gateway.replica.spec import ModelSpec


@dataclass(frozen=True, slots=True)
class Layer:
    """Matrices are [outputs, inputs]; those that share an input are one. None: it has none."""

    attention_norm: Tensor
    qkv: Tensor  # queries, keys, values: [(heads + 2·kv heads)·head_dim, hidden]
    qkv_bias: Tensor | None
    query_norm: Tensor | None  # [head_dim], and so is the next
    key_norm: Tensor | None
    attention_out: Tensor
    feed_forward_norm: Tensor
    gate_up: Tensor  # [2·feed_forward, hidden]
    down: Tensor


@dataclass(frozen=True, slots=True)
class Model:
    spec: ModelSpec
    embedding: Tensor
    layers: Sequence[Layer]
    output_norm: Tensor
    output: Tensor  # the embedding itself where they are tied
    cosines: Tensor  # [context, head_dim/2] float32, and so are the sines
    sines: Tensor


@dataclass(frozen=True, slots=True)
class Pool:
    """[layers, blocks + 1, kv heads, 16, head_dim] each. The last block is nobody's: a padded
    batch computes into it."""

    keys: Tensor
    values: Tensor

    @classmethod
    def empty(cls, spec: ModelSpec, blocks: int, dtype: torch.dtype, device: str) -> Pool:
        shape = (spec.layers, blocks + 1, spec.kv_heads, BLOCK_SIZE, spec.head_dim)
        return cls(*(torch.zeros(shape, dtype=dtype, device=device) for _ in range(2)))

    def copy_block(self, source: int, target: int) -> None:
        for part in (self.keys, self.values):
            part[:, target].copy_(part[:, source])


@dataclass(frozen=True, slots=True)
class Span:
    """Tokens [first, first + count) of a batch: those of one row, which begin at `start`."""

    row: int
    first: int
    count: int
    start: int

    @property
    def end(self) -> int:
        return self.start + self.count


@dataclass(frozen=True, slots=True)
class Step:
    """One step's numbers on the device, as views of the one vector that packing.py fills."""

    width: Tensor  # [1]: blocks of a table
    ids: Tensor
    drawn: Tensor
    positions: Tensor
    rows: Tensor
    singles: Tensor  # indices of tokens that are alone in their row
    logits_at: Tensor
    temperatures: Tensor  # float32, and so are the noises
    noises: Tensor
    tables: Tensor  # [rows · width]; in a graph whatever its length
    spans: Sequence[Span]  # the other tokens
    widths: int  # `width`, for those who may look from the host; 0 in a graph

    @classmethod
    def of(cls, words: Tensor, counts: Counts, batch: Batch | None) -> Step:
        """`batch` is None in a graph: every token is a row of its own."""
        spans = [] if batch is None else [span for span in spans_of(batch) if span.count > 1]
        singles = counts.tokens - sum(span.count for span in spans)
        return cls(
            width=words[:1],
            ids=words[counts.ids],
            drawn=words[counts.drawn],
            positions=words[counts.positions],
            rows=words[counts.rows_of],
            singles=words[counts.singles][:singles],
            logits_at=words[counts.logits_at],
            temperatures=words[counts.temperatures].view(torch.float32),
            noises=words[counts.noises].view(torch.float32),
            tables=words[counts.tables.start :] if batch is None else words[counts.tables],
            spans=spans,
            widths=counts.width,
        )


def spans_of(batch: Batch) -> list[Span]:
    """The rows of a batch, each a run of tokens."""
    spans: list[Span] = []
    for index, (row, position) in enumerate(
        zip(batch.rows.tolist(), batch.positions.tolist(), strict=True)
    ):
        if spans and spans[-1].row == row:
            last = spans.pop()
            spans.append(Span(row, last.first, last.count + 1, last.start))
        else:
            spans.append(Span(row, index, 1, position))
    return spans
