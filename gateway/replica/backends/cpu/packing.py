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
from gateway.replica.backends.cpu.store import Store
from gateway.replica.backends.rope import turns
from gateway.replica.spec import ModelSpec
from gateway.replica.weights import EMBEDDING, GROUP, OUTPUT, OUTPUT_NORM, UInt8, Weights

_CACHE_LINE = 64  # bytes

Place = tuple[int, int, int, int]
"""Offset, bits, rows, columns: a row of `Model.matrices`."""


def pack(weights: Weights, progress: Callable[[float], None], store: Store | None) -> Model:
    """`progress` is told the share done, 0 to 1. A blob that `store` holds is taken from there."""
    spec = weights.spec
    sources = _sources(spec)
    places, size = _places(weights, sources)
    name = f"packed-{spec.fingerprint[:32]}"
    blob = store.read(name) if store else None
    if blob is None or len(blob) != size:
        blob = _blob(weights, sources, places, size, progress)
        if store is not None:
            store.write(name, blob)
            kept = store.read(name)
            blob = blob if kept is None else kept
    blob.flags.writeable = False
    if spec.tied_embeddings:
        places.append(places[-1])
    positions = np.arange(spec.context_length, dtype=np.int32)
    progress(1.0)
    return Model(
        blob,
        np.array(places, np.int64),
        _norms(weights),
        _biases(weights),
        _head_norms(weights),
        *turns(positions, spec.rope),
    )


def _blob(
    weights: Weights,
    sources: list[list[str]],
    places: list[Place],
    size: int,
    progress: Callable[[float], None],
) -> UInt8:
    blob = _aligned(size)
    for index, (names, place) in enumerate(zip(sources, places, strict=True)):
        progress(index / len(sources))
        data = packed(stacked([affine(weights.tensor(name)) for name in names]))
        blob[place[0] : place[0] + len(data)] = data
    return blob


def _sources(spec: ModelSpec) -> list[list[str]]:
    """The tensors that each matrix of `Model.matrices` is stacked of; a tied output is left out."""
    stacks = (
        ("attn_q", "attn_k"),
        ("attn_v",),
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


def _places(weights: Weights, sources: list[list[str]]) -> tuple[list[Place], int]:
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
    return np.stack([weights.vector(name) for name in [*names, OUTPUT_NORM]])


def _biases(weights: Weights) -> Float32:
    spec = weights.spec
    result = np.zeros(
        (spec.layers * spec.qkv_bias, (spec.heads + 2 * spec.kv_heads) * spec.head_dim), np.float32
    )
    for layer, row in enumerate(result):
        names = [f"blk.{layer}.{name}.bias" for name in ("attn_q", "attn_k", "attn_v")]
        row[:] = np.concatenate([weights.vector(name) for name in names])
    return result


def _head_norms(weights: Weights) -> Float32:
    spec = weights.spec
    result = np.zeros((2 * spec.layers * spec.head_norms, spec.head_dim), np.float32)
    names = ("attn_q_norm", "attn_k_norm")
    for i, row in enumerate(result):
        row[:] = weights.vector(f"blk.{i // 2}.{names[i % 2]}.weight")
    return result
