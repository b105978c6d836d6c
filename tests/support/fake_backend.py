"""A backend without weights whose every logit depends on every token of its sequence.

Like real KV, a slot's content is a function of the tokens up to its position; and like real
attention, a step reads all slots of its sequence back through the block table. So a wrong table,
a stale block or a write to the wrong slot changes the tokens that come out. Of steps at the same
time it checks that none writes to a block that another one reads or writes.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from hashlib import blake2b
from typing import Self

import numpy as np

from gateway.replica.backends.base import BLOCK_SIZE, Batch, Float32
from gateway.replica.spec import ModelSpec, Rope


def tiny_spec(*, vocabulary: int = 50, context_length: int = 256) -> ModelSpec:
    return ModelSpec(
        architecture="llama",
        layers=1,
        hidden=8,
        heads=1,
        kv_heads=1,
        head_dim=8,
        feed_forward=8,
        vocabulary=vocabulary,
        context_length=context_length,
        rope=Rope((1.0,)),
        norm_epsilon=1e-5,
        tied_embeddings=True,
        fingerprint="fake",
    )


class FakeBackend:
    """`batches` are the steps so far; a step with token `raises_at` raises, `nan_at` gives NaN."""

    def __init__(
        self,
        *,
        blocks: int = 64,
        vocabulary: int = 50,
        context_length: int = 256,
        max_tokens: int = 128,
        raises_at: int | None = None,
        nan_at: int | None = None,
    ) -> None:
        self.spec = tiny_spec(vocabulary=vocabulary, context_length=context_length)
        self.blocks = blocks
        self.max_tokens = max_tokens
        self.raises_at = raises_at
        self.nan_at = nan_at
        self.batches: list[Batch] = []
        self._pool = [b""] * (blocks * BLOCK_SIZE)
        self._in_progress: dict[int, Batch] = {}

    def copy_block(self, source: int, target: int) -> None:
        start, end = source * BLOCK_SIZE, target * BLOCK_SIZE
        self._pool[end : end + BLOCK_SIZE] = self._pool[start : start + BLOCK_SIZE]

    def fork(self) -> Self:
        return self

    def forward(self, batch: Batch) -> Float32:
        with self.in_progress(batch):
            return self.compute(batch)

    @contextmanager
    def in_progress(self, batch: Batch) -> Iterator[None]:
        """Nobody else may write what this step reads from here on, nor touch what it writes."""
        for other in [*self._in_progress.values()]:
            assert _blocks(batch).isdisjoint(_written(other)), "a step touches what another writes"
            assert _written(batch).isdisjoint(_blocks(other)), "a step writes what another reads"
        self._in_progress[id(batch)] = batch
        try:
            yield
        finally:
            del self._in_progress[id(batch)]

    def compute(self, batch: Batch) -> Float32:
        assert 0 < len(batch) <= self.max_tokens
        self.batches.append(batch)
        if self.raises_at is not None and self.raises_at in batch.tokens:
            raise RuntimeError("the fake backend was told to fail")
        slots = [
            int(batch.tables[row, position // BLOCK_SIZE]) * BLOCK_SIZE + int(position) % BLOCK_SIZE
            for row, position in zip(batch.rows, batch.positions, strict=True)
        ]
        assert len(set(slots)) == len(slots), "two tokens of one step write the same slot"
        logits = []
        for index, slot in enumerate(slots):
            past = self._read(batch, index)
            self._pool[slot] = _kv(past[-1] if past else b"", int(batch.tokens[index]))
            if index in batch.logits_at:
                logits.append(self._logits([*past, self._pool[slot]], int(batch.tokens[index])))
        return np.array(logits, np.float32).reshape(-1, self.spec.vocabulary)

    def naive_logits(self, tokens: Sequence[int]) -> Float32:
        """What must come out after `tokens` [n]: [vocabulary], computed without any pool."""
        kv: list[bytes] = []
        for token in tokens:
            kv.append(_kv(kv[-1] if kv else b"", token))
        return _from_kv(kv, self.spec.vocabulary)

    def _read(self, batch: Batch, index: int) -> list[bytes]:
        table = batch.tables[batch.rows[index]]
        return [
            self._pool[int(table[position // BLOCK_SIZE]) * BLOCK_SIZE + position % BLOCK_SIZE]
            for position in range(batch.positions[index])
        ]

    def _logits(self, kv: list[bytes], token: int) -> Float32:
        logits = _from_kv(kv, self.spec.vocabulary)
        if token == self.nan_at:
            logits[0] = np.nan
        return logits


def _written(batch: Batch) -> set[int]:
    return set(batch.tables[batch.rows, batch.positions // BLOCK_SIZE].tolist())


def _blocks(batch: Batch) -> set[int]:
    """All that it reads or writes: the tables as far as its tokens reach."""
    ends = {
        int(row): int(position) for row, position in zip(batch.rows, batch.positions, strict=True)
    }
    return {
        int(block)
        for row, last in ends.items()
        for block in batch.tables[row, : last // BLOCK_SIZE + 1]
    }


def _kv(before: bytes, token: int) -> bytes:
    return blake2b(before + token.to_bytes(4, "little"), digest_size=8).digest()


def _from_kv(kv: Sequence[bytes], vocabulary: int) -> Float32:
    digest = blake2b(b"".join(kv), digest_size=8).digest()
    noise = np.random.Philox(key=int.from_bytes(digest, "little"))
    return np.random.Generator(noise).standard_normal(vocabulary, np.float32)
