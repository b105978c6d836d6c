"""
The oracle: a Llama decoder in NumPy, float32, over the same paged pool. Read it to know the model.

It agrees with transformers in greedy decoding. NumPy's matrix products pick their order by shape,
so the same token in another batch may differ in its last bits.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Self

import numpy as np

from gateway.replica.backends.base import BLOCK_SIZE, Batch, Float32, Int32
from gateway.replica.backends.checks import check, check_window
from gateway.replica.backends.rope import turns
from gateway.replica.spec import ModelSpec, Rope
from gateway.replica.weights import EMBEDDING, OUTPUT, OUTPUT_NORM, Weights


@dataclass(frozen=True, slots=True)
class Layer:
    """Matrices are [outputs, inputs]. What a model has not is None."""

    attention_norm: Float32
    query: Float32
    key: Float32
    value: Float32
    attention_out: Float32
    feed_forward_norm: Float32
    gate: Float32
    up: Float32
    down: Float32
    query_bias: Float32 | None
    key_bias: Float32 | None
    value_bias: Float32 | None
    query_norm: Float32 | None  # [head_dim], and so is the next
    key_norm: Float32 | None


class ReferenceBackend:
    """Implements `base.Backend`."""

    def __init__(
        self,
        spec: ModelSpec,
        layers: list[Layer],
        embedding: Float32,
        output_norm: Float32,
        output: Float32,
        blocks: int,
        max_tokens: int,
    ) -> None:
        self.spec = spec
        self.blocks = blocks
        self.max_tokens = max_tokens
        self._layers = layers
        self._embedding, self._output_norm, self._output = embedding, output_norm, output
        # [layers, blocks, 16, kv heads, head_dim]; the system gives memory when it is written to
        shape = (spec.layers, blocks, BLOCK_SIZE, spec.kv_heads, spec.head_dim)
        self._keys, self._values = np.zeros(shape, np.float32), np.zeros(shape, np.float32)

    @classmethod
    def load(
        cls,
        weights: Weights,
        blocks: int = 1024,
        max_tokens: int = 512,
        progress: Callable[[str, float], None] = lambda step, done: None,
    ) -> ReferenceBackend:
        """Read all weights as float32. `progress` is told the step and the share done, 0 to 1."""
        spec, layers = weights.spec, []
        check_window(spec)
        for index in range(spec.layers):
            progress("reading weights", index / spec.layers)
            layers.append(_read_layer(weights, index))
        embedding = weights.tensor(EMBEDDING).float32()
        output = embedding if spec.tied_embeddings else weights.tensor(OUTPUT).float32()
        norm = weights.vector(OUTPUT_NORM)
        progress("reading weights", 1.0)
        return cls(spec, layers, embedding, norm, output, blocks, max_tokens)

    def forward(self, batch: Batch) -> Float32:
        check(batch, self.spec, self.blocks, self.max_tokens)
        hidden: Float32 = self._embedding[batch.tokens]
        for index, layer in enumerate(self._layers):
            normed = self._normalised(hidden, layer.attention_norm)
            hidden += self._attention(index, layer, normed, batch) @ layer.attention_out.T
            normed = self._normalised(hidden, layer.feed_forward_norm)
            gated = _silu(normed @ layer.gate.T) * (normed @ layer.up.T)
            hidden += gated @ layer.down.T
        wanted = self._normalised(hidden[batch.logits_at], self._output_norm)
        logits: Float32 = wanted @ self._output.T
        return logits

    def copy_block(self, source: int, target: int) -> None:
        for pool in (self._keys, self._values):
            pool[:, target] = pool[:, source]

    def fork(self) -> Self:
        return self  # NumPy allocates what a step needs

    def _attention(self, index: int, layer: Layer, normed: Float32, batch: Batch) -> Float32:
        """Store the batch's keys and values, then attend; [tokens, heads·head_dim]."""
        query, key, value = (
            _linear(normed, matrix, bias).reshape(len(batch), -1, self.spec.head_dim)
            for matrix, bias in (
                (layer.query, layer.query_bias),
                (layer.key, layer.key_bias),
                (layer.value, layer.value_bias),
            )
        )
        if layer.query_norm is not None and layer.key_norm is not None:
            query = self._normalised(query, layer.query_norm)
            key = self._normalised(key, layer.key_norm)
        query, key = (_rotated(x, batch, self.spec.rope) for x in (query, key))
        block = batch.tables[batch.rows, batch.positions // BLOCK_SIZE]
        self._keys[index, block, batch.positions % BLOCK_SIZE] = key
        self._values[index, block, batch.positions % BLOCK_SIZE] = value
        result = np.empty_like(query)
        for row in np.unique(batch.rows):
            mine = np.flatnonzero(batch.rows == row)
            table, positions = batch.tables[row], batch.positions[mine]
            keys, values = (
                self._sequence(pool[index], table[: positions.max() // BLOCK_SIZE + 1])
                for pool in (self._keys, self._values)
            )
            result[mine] = _attend(query[mine], keys, values, positions)
        return result.reshape(len(batch), -1)

    def _sequence(self, pool: Float32, blocks: Int32) -> Float32:
        """What lies in the blocks, each KV head as often as query heads share it:
        [positions, heads, head_dim]."""
        together = pool[blocks].reshape(-1, self.spec.kv_heads, self.spec.head_dim)
        return together.repeat(self.spec.heads // self.spec.kv_heads, axis=1)

    def _normalised(self, x: Float32, weight: Float32) -> Float32:
        """RMSNorm (Zhang and Sennrich 2019)."""
        mean: Float32 = np.square(x).mean(axis=-1, keepdims=True)
        result: Float32 = x / np.sqrt(mean + np.float32(self.spec.norm_epsilon)) * weight
        return result


def _read_layer(weights: Weights, index: int) -> Layer:
    spec = weights.spec

    def read(name: str) -> Float32:
        return weights.tensor(f"blk.{index}.{name}.weight").float32()

    def vector(name: str) -> Float32:
        return weights.vector(f"blk.{index}.{name}")

    return Layer(
        attention_norm=vector("attn_norm.weight"),
        query=read("attn_q"),
        key=read("attn_k"),
        value=read("attn_v"),
        attention_out=read("attn_output"),
        feed_forward_norm=vector("ffn_norm.weight"),
        gate=read("ffn_gate"),
        up=read("ffn_up"),
        down=read("ffn_down"),
        query_bias=vector("attn_q.bias") if spec.qkv_bias else None,
        key_bias=vector("attn_k.bias") if spec.qkv_bias else None,
        value_bias=vector("attn_v.bias") if spec.qkv_bias else None,
        query_norm=vector("attn_q_norm.weight") if spec.head_norms else None,
        key_norm=vector("attn_k_norm.weight") if spec.head_norms else None,
    )


def _linear(x: Float32, matrix: Float32, bias: Float32 | None) -> Float32:
    product: Float32 = x @ matrix.T
    return product if bias is None else product + bias


def _rotated(x: Float32, batch: Batch, rope: Rope) -> Float32:
    """Rotary position embedding (Su et al. 2021), NeoX style: pairs lie half a head apart."""
    cosines, sines = (table[:, None] for table in turns(batch.positions, rope))
    first, second = np.split(x, 2, axis=-1)
    turned = (first * cosines - second * sines, second * cosines + first * sines)
    return np.concatenate(turned, axis=-1)


def _attend(query: Float32, keys: Float32, values: Float32, positions: Int32) -> Float32:
    """Each query sees the keys up to its own position; [tokens, heads, head_dim]."""
    query, keys, values = (x.swapaxes(0, 1) for x in (query, keys, values))  # heads first
    scores = query @ keys.swapaxes(1, 2) / np.float32(np.sqrt(query.shape[-1]))
    future = np.arange(keys.shape[1]) > positions[:, None]
    scores[:, future] = -np.inf
    weights = np.exp(scores - scores.max(axis=-1, keepdims=True))
    weights /= weights.sum(axis=-1, keepdims=True)
    result: Float32 = (weights @ values).swapaxes(0, 1)
    return result


def _silu(x: Float32) -> Float32:
    with np.errstate(over="ignore"):  # e^-x is infinite where the result is 0
        result: Float32 = x / (1 + np.exp(-x))
    return result
