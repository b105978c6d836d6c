"""What the readers of both formats give: metadata by GGUF's keys, tensors by llama.cpp's names."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from gguf.constants import GGMLQuantizationType
from numpy.typing import NDArray

UInt8 = NDArray[np.uint8]


class UnsupportedModel(ValueError):
    """The file is no model that we can run. The message says what was found and what we support."""


@dataclass(frozen=True, slots=True)
class Entry:
    """One tensor as it lies in the file: `data` is [rows, bytes of a row], memory-mapped."""

    kind: GGMLQuantizationType
    shape: tuple[int, ...]  # rows first, as in NumPy; GGUF states it the other way round
    data: UInt8


@dataclass(frozen=True, slots=True)
class Container:
    metadata: Mapping[str, object]
    tensors: Mapping[str, Entry]
    fingerprint: str  # hex digest of all that a forward pass depends on
    adjacent_pairs: bool
    """Rows of queries and keys are ordered for rope over the pairs (2i, 2i + 1)."""
