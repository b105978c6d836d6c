"""Rotary position embedding (Su et al. 2021): the angles, for every backend the same."""

from __future__ import annotations

import numpy as np

from gateway.replica.backends.base import Float32, Int32


def rope(positions: Int32, head_dim: int, base: float) -> tuple[Float32, Float32]:
    """Cosines and sines, [positions, head_dim/2]."""
    frequencies = base ** -(np.arange(0, head_dim, 2) / head_dim)
    angles = positions[:, None] * frequencies
    return np.cos(angles).astype(np.float32), np.sin(angles).astype(np.float32)
