"""What a decoder model is: the numbers that its file states. No tensors, no I/O."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class ModelSpec:
    """A decoder of the Llama family. `hidden` etc. are counts of float values per token."""

    architecture: str  # "llama"
    layers: int
    hidden: int
    heads: int
    kv_heads: int
    head_dim: int
    feed_forward: int
    vocabulary: int
    context_length: int  # tokens
    rope_base: float
    norm_epsilon: float
    tied_embeddings: bool  # the output matrix is the embedding matrix
    fingerprint: str  # hex digest of the weights file; part of every prefix-cache key
