"""Rotary position embedding (Su et al. 2021): the angles, for every backend the same."""

from __future__ import annotations

import numpy as np

from gateway.replica.backends.base import Float32, Int32
from gateway.replica.spec import Rope


def turns(positions: Int32, rope: Rope) -> tuple[Float32, Float32]:
    """Cosines and sines, [positions, head_dim/2]."""
    angles = positions[:, None] * np.array(rope.frequencies)
    cosines, sines = (rope.magnitude * part for part in (np.cos(angles), np.sin(angles)))
    return cosines.astype(np.float32), sines.astype(np.float32)
