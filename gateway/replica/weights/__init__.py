"""A model file's numbers: the spec, the named matrices, the tokenizer's metadata."""

from gateway.replica.weights.container import UInt8, UnsupportedModel
from gateway.replica.weights.llama import EMBEDDING, GROUP, OUTPUT, OUTPUT_NORM, Tensor, Weights

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
