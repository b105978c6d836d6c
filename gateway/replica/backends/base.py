"""
The seam between scheduling and arithmetic.

A backend owns the weights and the pool of KV blocks. It knows no hashes, no requests and no
tenants; the scheduler that fills in a `Batch` knows no tensors.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol, Self, runtime_checkable

import numpy as np
from numpy.typing import NDArray

from gateway.replica.spec import ModelSpec

BLOCK_SIZE = 16
"""Tokens of KV in one block. 16 lanes of float32 fill an AVX-512 register, and vLLM uses 16 too."""

Int32 = NDArray[np.int32]
Float32 = NDArray[np.float32]


@dataclass(frozen=True, slots=True)
class Batch:
    """One step's work: T tokens of R sequences, in any mix of prefill chunks and single tokens.

    Tokens of one sequence stand together and in order; token t belongs to row `rows[t]`, stands at
    `positions[t]` in its sequence and writes its KV to block `tables[rows[t], positions[t] // 16]`.
    Every earlier position of that sequence is already in the pool or earlier in this batch.
    """

    tokens: Int32  # [T]
    positions: Int32  # [T]
    rows: Int32  # [T], index into tables
    tables: Int32  # [R, most blocks of any row], block ids; unused entries are 0
    logits_at: Int32  # [S], indices into tokens whose logits are wanted
    drawn: Int32 | None = None
    """[T], where a token is one that the step launched before draws: its index among those, else
    -1. None: every token is known."""

    def __len__(self) -> int:
        return len(self.tokens)


class Backend(Protocol):
    """Loaded once; each thread that computes with it has a fork of its own.

    What is in a block is known to nobody here: callers see to it that of the steps in progress
    none writes to a block that another one reads or writes.
    """

    spec: ModelSpec
    blocks: int
    """Blocks in the KV pool; ids are 0 .. blocks-1."""

    max_tokens: int
    """Most tokens that one `forward` takes (its scratch memory is sized for them)."""

    def forward(self, batch: Batch) -> Float32:
        """Write the batch's KV and return logits [S, vocabulary], one row per `logits_at`.

        The array is the caller's until the next call. The result for a token must not depend on
        what else is in the batch, on how its prompt was cut into chunks, nor on block ids.
        """
        ...

    def copy_block(self, source: int, target: int) -> None:
        """Give one block the KV of another one."""
        ...

    def fork(self) -> Self:
        """One for another thread: the same weights and pool, but scratch memory of its own."""
        ...


@dataclass(frozen=True, slots=True)
class Draws:
    """How a step's tokens are chosen where its logits are, without the host: [S] each."""

    temperatures: Float32  # 0: the likeliest token
    noises: Float32  # in [0, 1): where in the distribution's cumulated sum the token lies


class DeviceLost(Exception):
    """Raised by a backend that can compute nothing any more; it ends the engine."""


class Drawn(Protocol):
    """A step on its way."""

    def tokens(self) -> list[int | None]:
        """Waits for them: one per `logits_at`, None where the logits are not finite."""
        ...


@runtime_checkable
class DrawingBackend(Backend, Protocol):
    """One that chooses tokens itself and need not be waited for: steps run in launch order."""

    def launch(self, batch: Batch, draws: Draws) -> Drawn:
        """As `forward`, but returns at once; the next `launch` may name the tokens as `drawn`."""
        ...
