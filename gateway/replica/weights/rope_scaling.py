"""
How a model stretches rotary embedding beyond the context it was trained on.

Every scheme here comes down to one frequency per pair and one magnitude for all (Rope), so that
what computes with them knows none of the schemes.
"""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

from gateway.replica.spec import Rope

Float64 = NDArray[np.float64]


def plain(base: float, head_dim: int) -> Float64:
    """Su et al. 2021: radians per position of each pair."""
    frequencies: Float64 = base ** -(np.arange(0, head_dim, 2) / head_dim)
    return frequencies


def scaled(frequencies: Float64, factors: Float64 | float, magnitude: float = 1.0) -> Rope:
    """`factors` are what each frequency is divided by."""
    return Rope(tuple((frequencies / factors).tolist()), magnitude)


def llama3_factors(
    frequencies: Float64, factor: float, low: float, high: float, original: int
) -> Float64:
    """Llama 3.1: waves that are long against the `original` context are stretched by `factor`,
    short ones (`high` of them fit in it) not at all, with a smooth passage between.

    As `_compute_llama3_parameters` of transformers; GGUF files hold the result.
    """
    fit = original * frequencies / (2 * math.pi)  # waves in the original context
    smooth = np.clip((fit - low) / (high - low), 0, 1)
    factors: Float64 = 1 / ((1 - smooth) / factor + smooth)
    return factors


def yarn_factors(
    frequencies: Float64, factor: float, fast: float, slow: float, original: int
) -> Float64:
    """YaRN (Peng et al. 2023): pairs that turn more than `fast` times in the `original` context
    stay, those that turn fewer than `slow` times are stretched, with a ramp over the pairs between.
    """
    pairs = len(frequencies)
    base = frequencies[1] ** -pairs

    def pair(turns: float) -> float:
        return pairs * math.log(original / (turns * 2 * math.pi)) / math.log(base)

    first = max(math.floor(pair(fast)), 0)
    last = min(math.ceil(pair(slow)), 2 * pairs - 1)
    ramp = np.clip((np.arange(pairs) - first) / max(last - first, 0.001), 0, 1)
    factors: Float64 = 1 / (ramp / factor + (1 - ramp))
    return factors


def yarn_magnitude(factor: float) -> float:
    """Peng et al. 2023, equation 22: attention's temperature, half on either side."""
    return 0.1 * math.log(factor) + 1 if factor > 1 else 1.0
