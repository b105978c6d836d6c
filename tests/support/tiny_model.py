"""A decoder small enough to run in milliseconds, written as a GGUF file."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import cast

import gguf
import numpy as np
from gguf import GGMLQuantizationType
from gguf.quants import quantize

from tests.support.tiny_text import tiny_metadata

VOCABULARY = len(cast(list[str], tiny_metadata()["tokenizer.ggml.tokens"]))
"""No multiple of 16, on purpose."""


@dataclass(frozen=True, slots=True)
class TinyModel:
    """Sizes and types of one, with the vocabulary of tests/support/tiny_text.py."""

    architecture: str = "llama"
    layers: int = 2
    hidden: int = 64
    heads: int = 4
    kv_heads: int = 2
    head_dim: int = 16
    feed_forward: int = 96
    context_length: int = 256
    tied_embeddings: bool = True
    qkv_bias: bool = False
    head_norms: bool = False
    rope_factors: Sequence[float] = ()
    settings: Mapping[str, str | float] = field(default_factory=dict)
    """Further metadata of the architecture; integers go as such."""
    kind: GGMLQuantizationType = GGMLQuantizationType.Q4_1
    kinds: Mapping[str, GGMLQuantizationType] = field(default_factory=dict)
    """Types of single tensors, in place of `kind`."""
    seed: int = 0

    def write(self, path: Path) -> Path:
        writer = gguf.GGUFWriter(str(path), self.architecture)
        self._write_sizes(writer)
        _write_tokenizer(writer)
        if self.rope_factors:
            writer.add_tensor("rope_freqs.weight", np.array(self.rope_factors, np.float32))
        rng = np.random.default_rng(self.seed)
        for name, shape in self._shapes().items():
            if len(shape) == 1:
                writer.add_tensor(name, 1 + 0.1 * rng.standard_normal(shape, np.float32))
                continue
            # large enough that attention is far from flat, and a wrong position shows
            values = rng.standard_normal(shape, np.float32) * np.float32(2 / np.sqrt(shape[1]))
            kind = self.kinds.get(name, self.kind)
            data = quantize(values, kind)
            writer.add_tensor(name, data, raw_dtype=kind)
        writer.write_header_to_file()
        writer.write_kv_data_to_file()
        writer.write_tensors_to_file()
        writer.close()
        return path

    def _write_sizes(self, writer: gguf.GGUFWriter) -> None:
        writer.add_name("tiny")
        writer.add_block_count(self.layers)
        writer.add_context_length(self.context_length)
        writer.add_embedding_length(self.hidden)
        writer.add_feed_forward_length(self.feed_forward)
        writer.add_head_count(self.heads)
        writer.add_head_count_kv(self.kv_heads)
        writer.add_key_length(self.head_dim)
        writer.add_value_length(self.head_dim)
        writer.add_rope_dimension_count(self.head_dim)
        writer.add_rope_freq_base(10_000.0)
        writer.add_layer_norm_rms_eps(1e-5)
        for key, value in self.settings.items():
            match value:
                case str():
                    writer.add_string(f"{self.architecture}.{key}", value)
                case int():
                    writer.add_uint32(f"{self.architecture}.{key}", value)
                case float():
                    writer.add_float32(f"{self.architecture}.{key}", value)

    def _shapes(self) -> dict[str, tuple[int, ...]]:
        heads, keys = self.heads * self.head_dim, self.kv_heads * self.head_dim
        shapes: dict[str, tuple[int, ...]] = {
            "token_embd.weight": (VOCABULARY, self.hidden),
            "output_norm.weight": (self.hidden,),
        }
        if not self.tied_embeddings:
            shapes["output.weight"] = (VOCABULARY, self.hidden)
        for layer in range(self.layers):
            block = f"blk.{layer}."
            shapes[block + "attn_norm.weight"] = (self.hidden,)
            shapes[block + "attn_q.weight"] = (heads, self.hidden)
            shapes[block + "attn_k.weight"] = (keys, self.hidden)
            shapes[block + "attn_v.weight"] = (keys, self.hidden)
            shapes[block + "attn_output.weight"] = (self.hidden, heads)
            shapes[block + "ffn_norm.weight"] = (self.hidden,)
            shapes[block + "ffn_gate.weight"] = (self.feed_forward, self.hidden)
            shapes[block + "ffn_up.weight"] = (self.feed_forward, self.hidden)
            shapes[block + "ffn_down.weight"] = (self.hidden, self.feed_forward)
            if self.qkv_bias:
                shapes[block + "attn_q.bias"] = (heads,)
                shapes[block + "attn_k.bias"] = shapes[block + "attn_v.bias"] = (keys,)
            if self.head_norms:
                shapes[block + "attn_q_norm.weight"] = (self.head_dim,)
                shapes[block + "attn_k_norm.weight"] = (self.head_dim,)
        return shapes


def _write_tokenizer(writer: gguf.GGUFWriter) -> None:
    for key, value in tiny_metadata().items():
        match value:
            case str():
                writer.add_string(key, value)
            case int():
                writer.add_uint32(key, value)
            case list():
                writer.add_array(key, value)
