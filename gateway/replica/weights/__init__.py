"""A model's files: the spec, the named matrices, the tokenizer's metadata."""

from gateway.replica.weights.container import UInt8, UnsupportedModel
from gateway.replica.weights.decoder import GROUP, OUTPUT_NORM, Tensor, Weights
from gateway.replica.weights.metadata import EMBEDDING, OUTPUT

__all__ = [
    "EMBEDDING",
    "GROUP",
    "OUTPUT",
    "OUTPUT_NORM",
    "Tensor",
    "UInt8",
    "UnsupportedModel",
    "Weights",
]
