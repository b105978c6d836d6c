"""What a decoder model is: the numbers that its file states. No tensors, no I/O."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Rope:
    """Rotary position embedding (Su et al. 2021), whatever scaling its file names."""

    frequencies: tuple[float, ...]  # radians per position, of each of head_dim/2 pairs
    magnitude: float = 1.0  # of cosines and sines; YaRN makes it larger


@dataclass(frozen=True, slots=True)
class ModelSpec:
    """A decoder of the Llama family. `hidden` etc. are counts of float values per token."""

    architecture: str  # "llama", "mistral", "qwen2" or "qwen3"
    layers: int
    hidden: int
    heads: int
    kv_heads: int
    head_dim: int
    feed_forward: int
    vocabulary: int
    context_length: int  # tokens
    rope: Rope
    norm_epsilon: float
    tied_embeddings: bool  # the output matrix is the embedding matrix
    fingerprint: str  # hex digest of the weights; part of every prefix-cache key
    qkv_bias: bool = False  # queries, keys and values have one (Qwen2)
    head_norms: bool = False  # queries and keys are normalised, head by head (Qwen3)
    window: int | None = None  # tokens that attention looks back on, itself included; None: all
