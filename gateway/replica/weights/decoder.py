"""
A decoder's tensors by llama.cpp's names, out of a GGUF file or a folder as transformers saves it.

Every size is checked once, here: the kernels check none.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from gguf.constants import GGMLQuantizationType
from gguf.quants import dequantize

from gateway.replica.backends.base import Float32
from gateway.replica.spec import ModelSpec
from gateway.replica.weights.container import Container, Entry, UInt8, UnsupportedModel
from gateway.replica.weights.gguf_file import read_gguf
from gateway.replica.weights.metadata import EMBEDDING, OUTPUT, ROPE_FACTORS, read_spec
from gateway.replica.weights.model_folder import read_folder

GROUP = 32
"""Columns that share a scale, in every quantised type that is supported; sizes divide by it."""

OUTPUT_NORM = "output_norm.weight"

_TYPES = tuple(
    GGMLQuantizationType[name] for name in ["F32", "F16", "BF16", "Q8_0", "Q4_0", "Q4_1"]
)


@dataclass(frozen=True, slots=True)
class Tensor:
    """A matrix, or a vector as a matrix of one row. `data` is [rows, bytes of a row]."""

    kind: GGMLQuantizationType
    rows: int
    columns: int
    data: UInt8

    def float32(self) -> Float32:
        """The values, [rows, columns]."""
        values: Float32 = dequantize(_typed(self), self.kind)
        return values.reshape(self.rows, self.columns)


@dataclass(frozen=True, slots=True)
class Weights:
    """Reading a tensor reads the file; nothing is kept in memory."""

    spec: ModelSpec
    metadata: Mapping[str, object]
    """Every key of the file, with Python values: `tokenizer.*` and `general.*` among them.
    A folder's files are told in the same keys."""
    _container: Container

    @classmethod
    def open(cls, path: Path) -> Weights:
        """A GGUF file, or a folder with config.json and *.safetensors.

        Raises UnsupportedModel for a model that cannot run here, OSError if unreadable.
        """
        container = read_folder(path) if path.is_dir() else read_gguf(path)
        spec = read_spec(container)
        _check(spec, container.tensors)
        return cls(spec, container.metadata, container)

    def tensor(self, name: str) -> Tensor:
        """A tensor by llama.cpp's name, such as `blk.0.attn_q.weight`.

        Rows of queries and keys come in the order of NeoX-style rope, which turns the pair (i,
        i + head_dim/2). llama.cpp's converter stores Llama's for pairs (2i, 2i + 1), and pairs
        that lie half a head apart are what a vector register can turn at once.
        """
        entry = self._container.tensors[name]
        rows, columns = _matrix_shape(entry)
        data = entry.data
        if self._container.adjacent_pairs and (".attn_q." in name or ".attn_k." in name):
            data = _apart(entry, self.spec.head_dim)
        return Tensor(entry.kind, rows, columns, data)

    def vector(self, name: str) -> Float32:
        values: Float32 = self.tensor(name).float32()[0]
        return values


def _typed(tensor: Tensor) -> np.ndarray[tuple[int, ...], np.dtype[np.generic]]:
    """`gguf.dequantize` wants floats as floats and everything else as bytes."""
    plain = {GGMLQuantizationType.F32: np.float32, GGMLQuantizationType.F16: np.float16}
    data = np.ascontiguousarray(tensor.data)
    return data.view(plain[tensor.kind]) if tensor.kind in plain else data


def _matrix_shape(entry: Entry) -> tuple[int, int]:
    return (1, *entry.shape)[-2], entry.shape[-1]


def _apart(entry: Entry, head_dim: int) -> UInt8:
    """A matrix's rows, or a bias' numbers, from adjacent pairs to pairs half a head apart."""
    rows = entry.data.reshape(entry.shape[0], -1)
    pairs = rows.reshape(-1, head_dim // 2, 2, rows.shape[1])
    return pairs.swapaxes(1, 2).reshape(entry.data.shape)


def _check(spec: ModelSpec, tensors: Mapping[str, Entry]) -> None:
    for name, size in (
        ("embedding_length", spec.hidden),
        ("feed_forward_length", spec.feed_forward),
    ):
        if size % GROUP:
            raise UnsupportedModel(
                f"{spec.architecture}.{name} is {size}; expected a multiple of {GROUP}"
            )
    if spec.head_dim % 16 or spec.heads * spec.head_dim % GROUP:
        raise UnsupportedModel(
            f"{spec.heads} heads of {spec.head_dim}; head sizes must be multiples of 16, "
            f"and all heads together a multiple of {GROUP}"
        )
    if spec.heads % spec.kv_heads:
        raise UnsupportedModel(f"{spec.heads} heads do not share {spec.kv_heads} KV heads evenly")
    expected = dict(_expected(spec))
    for name, shape in expected.items():
        if name not in tensors:
            raise UnsupportedModel(f"tensor {name} is missing")
        entry = tensors[name]
        if entry.shape != shape:
            raise UnsupportedModel(f"tensor {name} is {entry.shape}; expected {shape}")
        if entry.kind not in _TYPES:
            known = ", ".join(kind.name for kind in _TYPES)
            raise UnsupportedModel(f"tensor {name} is {entry.kind.name}; supported: {known}")
    if unknown := sorted(tensors.keys() - expected.keys() - {ROPE_FACTORS}):
        raise UnsupportedModel(f"tensor {unknown[0]} is not part of a plain decoder")


def _expected(spec: ModelSpec) -> Iterator[tuple[str, tuple[int, ...]]]:
    yield EMBEDDING, (spec.vocabulary, spec.hidden)
    yield OUTPUT_NORM, (spec.hidden,)
    if not spec.tied_embeddings:
        yield OUTPUT, (spec.vocabulary, spec.hidden)
    for layer in range(spec.layers):
        for name, shape in _expected_of_layer(spec):
            yield f"blk.{layer}.{name}", shape


def _expected_of_layer(spec: ModelSpec) -> Iterator[tuple[str, tuple[int, ...]]]:
    hidden, keys = spec.hidden, spec.kv_heads * spec.head_dim
    heads = spec.heads * spec.head_dim
    yield "attn_norm.weight", (hidden,)
    yield "attn_q.weight", (heads, hidden)
    yield "attn_k.weight", (keys, hidden)
    yield "attn_v.weight", (keys, hidden)
    yield "attn_output.weight", (hidden, heads)
    yield "ffn_norm.weight", (hidden,)
    yield "ffn_gate.weight", (spec.feed_forward, hidden)
    yield "ffn_up.weight", (spec.feed_forward, hidden)
    yield "ffn_down.weight", (hidden, spec.feed_forward)
    if spec.qkv_bias:
        yield "attn_q.bias", (heads,)
        yield "attn_k.bias", (keys,)
        yield "attn_v.bias", (keys,)
    if spec.head_norms:
        yield "attn_q_norm.weight", (spec.head_dim,)
        yield "attn_k_norm.weight", (spec.head_dim,)
