"""What a backend that chooses tokens itself is told of a step, before its tokens are known."""

from __future__ import annotations

import numpy as np

from gateway.replica.backends.base import Draws
from gateway.replica.plan import Plan
from gateway.replica.sampler import GREEDY_BELOW, seeded_noise

_BELOW_ONE = np.nextafter(np.float32(1), np.float32(0))


def draws_of(plan: Plan, generator: np.random.Generator) -> Draws | None:
    """None if one of its tokens takes the host: a penalty, a truncation, a log-probability."""
    rows = [row for row in plan.rows if row.sampled]
    if not all(row.request.drawable(row.stop) for row in rows):
        return None
    temperatures = np.zeros(len(rows), np.float32)
    noises = np.zeros(len(rows), np.float32)
    for index, row in enumerate(rows):
        sampling = row.request.submission.sampling
        if sampling.temperature >= GREEDY_BELOW:
            seed = sampling.seed
            noise = generator.random() if seed is None else seeded_noise(seed, row.stop)
            temperatures[index], noises[index] = sampling.temperature, noise
    return Draws(temperatures, np.minimum(noises, _BELOW_ONE))
