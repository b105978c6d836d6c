"""A model's spec out of its metadata, by GGUF's keys.

What the kernels do not compute is refused here, by name, so that no model runs almost right.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from gateway.replica.spec import ModelSpec, Rope
from gateway.replica.weights.container import Container, UnsupportedModel
from gateway.replica.weights.rope_scaling import (
    Float64,
    plain,
    scaled,
    yarn_factors,
    yarn_magnitude,
)

EMBEDDING, OUTPUT, ROPE_FACTORS = "token_embd.weight", "output.weight", "rope_freqs.weight"

ARCHITECTURES = ("llama", "mistral", "qwen2", "qwen3")


def read_spec(container: Container) -> ModelSpec:
    """Raises UnsupportedModel for what the kernels do not compute."""
    architecture = container.metadata.get("general.architecture")
    if not isinstance(architecture, str) or architecture not in ARCHITECTURES:
        known = ", ".join(map(repr, ARCHITECTURES))
        raise UnsupportedModel(f"the architecture is {architecture!r}; supported: {known}")
    if EMBEDDING not in container.tensors:
        raise UnsupportedModel(f"tensor {EMBEDDING} is missing")
    values = _Values(container.metadata, architecture)
    hidden = values.integer("embedding_length")
    heads = values.integer("attention.head_count")
    head_dim = values.integer("attention.key_length", hidden // heads)
    _refuse(values, head_dim)
    return ModelSpec(
        architecture=architecture,
        layers=values.integer("block_count"),
        hidden=hidden,
        heads=heads,
        kv_heads=values.integer("attention.head_count_kv", heads),
        head_dim=head_dim,
        feed_forward=values.integer("feed_forward_length"),
        vocabulary=container.tensors[EMBEDDING].shape[0],
        context_length=values.integer("context_length"),
        rope=_rope(values, head_dim, container),
        norm_epsilon=values.number("attention.layer_norm_rms_epsilon"),
        tied_embeddings=OUTPUT not in container.tensors,
        fingerprint=container.fingerprint,
        qkv_bias="blk.0.attn_q.bias" in container.tensors,
        head_norms="blk.0.attn_q_norm.weight" in container.tensors,
        window=_window(values),
    )


@dataclass(frozen=True, slots=True)
class _Values:
    """The metadata of one architecture, checked as it is read."""

    metadata: Mapping[str, object]
    architecture: str

    def get(self, key: str, default: object = None) -> object:
        return self.metadata.get(f"{self.architecture}.{key}", default)

    def integer(self, key: str, default: int | None = None) -> int:
        found = self.get(key, default)
        if not isinstance(found, int) or found < 1:
            raise self._refused(key, found, "expected one positive integer")
        return found

    def number(self, key: str, default: float | None = None) -> float:
        found = self.get(key, default)
        if not isinstance(found, float) or not found > 0:
            raise self._refused(key, found, "expected a positive number")
        return found

    def require(self, key: str, value: object) -> None:
        found = self.get(key, value)
        if found != value:
            raise self._refused(key, found, f"supported: {value!r}")

    def _refused(self, key: str, found: object, why: str) -> UnsupportedModel:
        return UnsupportedModel(f"{self.architecture}.{key} is {found!r}; {why}")


def _refuse(values: _Values, head_dim: int) -> None:
    """Settings that change the arithmetic: each has the one value that the kernels compute."""
    values.require("rope.scale_linear", 1.0)
    values.require("rope.dimension_count", head_dim)
    values.require("attention.value_length", head_dim)
    values.require("expert_count", 0)


def _window(values: _Values) -> int | None:
    key = "attention.sliding_window"
    return values.integer(key) if values.get(key) else None


def _rope(values: _Values, head_dim: int, container: Container) -> Rope:
    frequencies = plain(values.number("rope.freq_base", 10_000.0), head_dim)
    factors: Float64 | float = 1.0
    if ROPE_FACTORS in container.tensors:
        entry = container.tensors[ROPE_FACTORS]
        if entry.shape != (head_dim // 2,) or entry.kind.name != "F32":
            raise UnsupportedModel(f"tensor {ROPE_FACTORS} must be {head_dim // 2} float32")
        factors = entry.data.view(np.float32)[0].astype(np.float64)
    match kind := values.get("rope.scaling.type", "none"):
        case "none":
            return scaled(frequencies, factors)
        case "linear":
            return scaled(frequencies, factors * values.number("rope.scaling.factor"))
        case "yarn":
            return _yarn(values, frequencies)
    raise UnsupportedModel(
        f"{values.architecture}.rope.scaling.type is {kind!r}; supported: 'none', 'linear', 'yarn'"
    )


def _yarn(values: _Values, frequencies: Float64) -> Rope:
    values.require("rope.scaling.yarn_ext_factor", 1.0)
    values.require("rope.scaling.yarn_log_multiplier", 0.0)
    factor = values.number("rope.scaling.factor")
    fast = values.number("rope.scaling.yarn_beta_fast", 32.0)
    slow = values.number("rope.scaling.yarn_beta_slow", 1.0)
    original = values.integer("rope.scaling.original_context_length")
    magnitude = values.number("rope.scaling.yarn_attn_factor", 1.0)
    magnitude *= values.number("rope.scaling.attn_factor", 1.0) * yarn_magnitude(factor)
    return scaled(frequencies, yarn_factors(frequencies, factor, fast, slow, original), magnitude)
