"""A backend without weights whose every logit depends on every token of its sequence.

Like real KV, a slot's content is a function of the tokens up to its position; and like real
attention, a step reads all slots of its sequence back through the block table. So a wrong table,
a stale block or a write to the wrong slot changes the tokens that come out.
"""

from __future__ import annotations

from collections.abc import Sequence
from hashlib import blake2b

import numpy as np

from gateway.replica.backends.base import BLOCK_SIZE, Batch, Float32
from gateway.replica.spec import ModelSpec


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
        rope_base=10_000.0,
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

    def forward(self, batch: Batch) -> Float32:
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


def _kv(before: bytes, token: int) -> bytes:
    return blake2b(before + token.to_bytes(4, "little"), digest_size=8).digest()


def _from_kv(kv: Sequence[bytes], vocabulary: int) -> Float32:
    digest = blake2b(b"".join(kv), digest_size=8).digest()
    noise = np.random.Philox(key=int.from_bytes(digest, "little"))
    return np.random.Generator(noise).standard_normal(vocabulary, np.float32)
