"""
A decoder of the Llama family out of a GGUF file: its spec and its tensors by llama.cpp's names.

What the kernels do not compute is refused here, by name, so that no model runs almost right.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from gguf.constants import GGMLQuantizationType
from gguf.quants import dequantize

from gateway.replica.backends.base import Float32
from gateway.replica.spec import ModelSpec
from gateway.replica.weights.container import Entry, UInt8, UnsupportedModel, read_container

GROUP = 32
"""Columns that share a scale, in every quantised type that is supported; sizes divide by it."""

EMBEDDING, OUTPUT, OUTPUT_NORM = "token_embd.weight", "output.weight", "output_norm.weight"

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
    """Every key of the file, with Python values: `tokenizer.*` and `general.*` among them."""
    _entries: Mapping[str, Entry]

    @classmethod
    def open(cls, path: Path) -> Weights:
        """Raises UnsupportedModel for a model that cannot run here, OSError if unreadable."""
        container = read_container(path)
        spec = _read_spec(path, container.metadata, container.tensors)
        _check(spec, container.tensors)
        return cls(spec, container.metadata, container.tensors)

    def tensor(self, name: str) -> Tensor:
        """A tensor by llama.cpp's name, such as `blk.0.attn_q.weight`.

        Rows of queries and keys come in the order of NeoX-style rope, which turns the pair (i,
        i + head_dim/2). llama.cpp's converter has stored them for pairs (2i, 2i + 1), and pairs
        that lie half a head apart are what a vector register can turn at once.
        """
        entry = self._entries[name]
        rows, columns = _matrix_shape(entry)
        data = entry.data
        if name.endswith((".attn_q.weight", ".attn_k.weight")):
            half = self.spec.head_dim // 2
            data = data.reshape(-1, half, 2, data.shape[1]).swapaxes(1, 2).reshape(data.shape)
        return Tensor(entry.kind, rows, columns, data)


def _typed(tensor: Tensor) -> np.ndarray[tuple[int, ...], np.dtype[np.generic]]:
    """`gguf.dequantize` wants floats as floats and everything else as bytes."""
    plain = {GGMLQuantizationType.F32: np.float32, GGMLQuantizationType.F16: np.float16}
    data = np.ascontiguousarray(tensor.data)
    return data.view(plain[tensor.kind]) if tensor.kind in plain else data


def _matrix_shape(entry: Entry) -> tuple[int, int]:
    return (1, *entry.shape)[-2], entry.shape[-1]


def _read_spec(
    path: Path, metadata: Mapping[str, object], tensors: Mapping[str, Entry]
) -> ModelSpec:
    architecture = metadata.get("general.architecture")
    if architecture != "llama":
        raise UnsupportedModel(f"the architecture is {architecture!r}; supported: 'llama'")
    if EMBEDDING not in tensors:
        raise UnsupportedModel(f"tensor {EMBEDDING} is missing")
    hidden = _integer(metadata, "llama.embedding_length")
    heads = _integer(metadata, "llama.attention.head_count")
    head_dim = _integer(metadata, "llama.attention.key_length", hidden // heads)
    _refuse(metadata, head_dim)
    return ModelSpec(
        architecture=architecture,
        layers=_integer(metadata, "llama.block_count"),
        hidden=hidden,
        heads=heads,
        kv_heads=_integer(metadata, "llama.attention.head_count_kv", heads),
        head_dim=head_dim,
        feed_forward=_integer(metadata, "llama.feed_forward_length"),
        vocabulary=tensors[EMBEDDING].shape[0],
        context_length=_integer(metadata, "llama.context_length"),
        rope_base=_float(metadata, "llama.rope.freq_base", 10_000.0),
        norm_epsilon=_float(metadata, "llama.attention.layer_norm_rms_epsilon", None),
        tied_embeddings=OUTPUT not in tensors,
        fingerprint=_sha256(path),
    )


def _refuse(metadata: Mapping[str, object], head_dim: int) -> None:
    """Settings that change the arithmetic: each has the one value that the kernels compute."""
    supported = {
        "llama.rope.scaling.type": "none",
        "llama.rope.scale_linear": 1.0,
        "llama.rope.dimension_count": head_dim,
        "llama.attention.value_length": head_dim,
        "llama.expert_count": 0,
        "llama.attention.sliding_window": 0,
    }
    for key, value in supported.items():
        found = metadata.get(key, value)
        if found != value:
            raise UnsupportedModel(f"{key} is {found!r}; supported: {value!r}")


def _integer(metadata: Mapping[str, object], key: str, default: int | None = None) -> int:
    found = metadata.get(key, default)
    if not isinstance(found, int) or found < 1:
        raise UnsupportedModel(f"{key} is {found!r}; expected one positive integer")
    return found


def _float(metadata: Mapping[str, object], key: str, default: float | None) -> float:
    found = metadata.get(key, default)
    if not isinstance(found, float) or not found > 0:
        raise UnsupportedModel(f"{key} is {found!r}; expected a positive number")
    return found


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _check(spec: ModelSpec, tensors: Mapping[str, Entry]) -> None:
    for name, size in (
        ("embedding_length", spec.hidden),
        ("feed_forward_length", spec.feed_forward),
    ):
        if size % GROUP:
            raise UnsupportedModel(f"llama.{name} is {size}; expected a multiple of {GROUP}")
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
    if unknown := sorted(tensors.keys() - expected.keys()):
        raise UnsupportedModel(f"tensor {unknown[0]} is not part of a plain Llama decoder")


def _expected(spec: ModelSpec) -> Iterator[tuple[str, tuple[int, ...]]]:
    hidden, keys = spec.hidden, spec.kv_heads * spec.head_dim
    heads = spec.heads * spec.head_dim
    yield EMBEDDING, (spec.vocabulary, hidden)
    yield OUTPUT_NORM, (hidden,)
    if not spec.tied_embeddings:
        yield OUTPUT, (spec.vocabulary, hidden)
    for layer in range(spec.layers):
        block = f"blk.{layer}."
        yield block + "attn_norm.weight", (hidden,)
        yield block + "attn_q.weight", (heads, hidden)
        yield block + "attn_k.weight", (keys, hidden)
        yield block + "attn_v.weight", (keys, hidden)
        yield block + "attn_output.weight", (hidden, heads)
        yield block + "ffn_norm.weight", (hidden,)
        yield block + "ffn_gate.weight", (spec.feed_forward, hidden)
        yield block + "ffn_up.weight", (spec.feed_forward, hidden)
        yield block + "ffn_down.weight", (hidden, spec.feed_forward)
