"""What the compiled step works on. Named tuples, because numba passes them by value."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from gateway.replica.backends.base import Float32, Int32
from gateway.replica.weights import UInt8

Halves = NDArray[np.uint16]
"""Bits of float16; numba has no such type on CPUs."""

MATRICES = 5
QUERY_KEY, VALUE, ATTENTION_OUT, GATE_UP, DOWN = range(MATRICES)
"""A layer's matrices, in the order of the step. Those that share an input are stacked."""


class Shape(NamedTuple):
    layers: int
    hidden: int
    heads: int
    kv_heads: int
    head_dim: int
    feed_forward: int
    norm_epsilon: float


class Model(NamedTuple):
    blob: UInt8
    """Every packed matrix (affine.py), in the order in which a step reads them."""
    matrices: NDArray[np.int64]
    """[5·layers + 2, 4]: offset, bits, rows, columns. Last come the embedding and the output,
    which may be the same."""
    norms: Float32
    """[2·layers + 1, hidden]: before attention, before feed-forward, ...; before the output."""
    biases: Float32
    """[layers, (heads + 2·kv heads)·head_dim]: of queries, keys and values. None: [0, ...]."""
    head_norms: Float32
    """[2·layers, head_dim]: of queries, of keys, ... None: [0, ...]."""
    cosines: Float32
    """[context, head_dim/2], and so are the sines."""
    sines: Float32


class Pool(NamedTuple):
    keys: Halves
    """[layers, blocks, kv heads, head_dim, 16]"""
    values: Halves
    """[layers, blocks, kv heads, 16, head_dim]"""


class Scratch(NamedTuple):
    """Working memory of one step, sized for `max_tokens` rounded up to whole panels.

    What one thread's attention works on is there for each of `threads`.
    """

    hidden: Float32  # [tokens, hidden]: the residual stream
    normed: Float32  # [tokens, hidden]: what a half layer reads, then what it adds
    queries_keys: Float32  # [tokens, (heads + kv heads)·head_dim]
    values: Float32  # [2·tokens, kv heads·head_dim]: of the integers, then of what they leave
    attended: Float32  # [tokens, heads·head_dim]
    gate_up: Float32  # [tokens, 2·feed_forward]
    panels: UInt8  # quantised activations (matmul.py)
    queries: Float32  # [threads, queries of one span that share a KV head, head_dim]
    weighted: Float32  # as queries: their sums of values
    totals: Float32  # [threads, queries]: their softmax's denominators
    scores: Float32  # [threads, queries, context rounded up to whole blocks]
    logits: Float32  # [tokens, vocabulary rounded up to 16]


class Tokens(NamedTuple):
    """The fields of `base.Batch`."""

    ids: Int32
    positions: Int32
    rows: Int32
    tables: Int32
    logits_at: Int32
