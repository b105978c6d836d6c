"""A model's tensors into one blob, in the order in which a step reads them."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from gateway.replica.backends.base import Float32
from gateway.replica.backends.cpu.affine import (
    ROWS,
    affine,
    group_bytes,
    packed,
    stacked,
    stored_bits,
)
from gateway.replica.backends.cpu.layout import Model
from gateway.replica.backends.rope import rope
from gateway.replica.spec import ModelSpec
from gateway.replica.weights import EMBEDDING, GROUP, OUTPUT, OUTPUT_NORM, UInt8, Weights

_CACHE_LINE = 64  # bytes


def pack(weights: Weights, progress: Callable[[float], None]) -> Model:
    """`progress` is told the share done, 0 to 1."""
    spec = weights.spec
    sources = _sources(spec)
    places, size = _places(weights, sources)
    blob = _aligned(size)
    for index, (names, place) in enumerate(zip(sources, places, strict=True)):
        progress(index / len(sources))
        data = packed(stacked([affine(weights.tensor(name)) for name in names]))
        blob[place[0] : place[0] + len(data)] = data
    if spec.tied_embeddings:
        places.append(places[-1])
    positions = np.arange(spec.context_length, dtype=np.int32)
    cosines, sines = rope(positions, spec.head_dim, spec.rope_base)
    progress(1.0)
    return Model(blob, np.array(places, np.int64), _norms(weights), cosines, sines)


def _sources(spec: ModelSpec) -> list[list[str]]:
    """The tensors that each matrix of `Model.matrices` is stacked of; a tied output is left out."""
    stacks = (
        ("attn_q", "attn_k", "attn_v"),
        ("attn_output",),
        ("ffn_gate", "ffn_up"),
        ("ffn_down",),
    )
    sources = [
        [f"blk.{layer}.{name}.weight" for name in names]
        for layer in range(spec.layers)
        for names in stacks
    ]
    return [*sources, [EMBEDDING]] + ([] if spec.tied_embeddings else [[OUTPUT]])


def _places(
    weights: Weights, sources: list[list[str]]
) -> tuple[list[tuple[int, int, int, int]], int]:
    """Each matrix's (offset, bits, rows, columns), and the bytes of all."""
    places, end = [], 0
    for names in sources:
        tensors = [weights.tensor(name) for name in names]
        bits = max(stored_bits(tensor.kind) for tensor in tensors)
        blocks = -(-sum(tensor.rows for tensor in tensors) // ROWS)
        columns = tensors[0].columns
        places.append((end, bits, blocks * ROWS, columns))
        end += blocks * (columns // GROUP) * group_bytes(bits)
    return places, end


def _aligned(size: int) -> UInt8:
    """Bytes that begin with a cache line, as every group of a packed matrix then does."""
    room = np.empty(size + _CACHE_LINE, np.uint8)
    start = -room.ctypes.data % _CACHE_LINE
    return room[start : start + size]


def _norms(weights: Weights) -> Float32:
    names = [
        f"blk.{layer}.{name}.weight"
        for layer in range(weights.spec.layers)
        for name in ("attn_norm", "ffn_norm")
    ]
    return np.concatenate([weights.tensor(name).float32() for name in [*names, OUTPUT_NORM]])
