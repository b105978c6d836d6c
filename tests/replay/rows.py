"""What the peers' rules came to in a study with a simulator, an index and loads of its own.

Share of requests within the limits, eight replicas, one gateway, means of five seeds whose standard
deviation was at most 0.021 (0.035 for Dynamo's rule on synthetic x 1.2). Written down before the
replay existed, so its order is a test of the replay, and of each rule as we wrote it.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from itertools import combinations

from gateway.config.load import PACKAGED, load_policy
from routing_policies.build import build_policy
from routing_policies.catalog import Catalog
from routing_policies.policy import Policy

COLUMNS = {
    "conversation x 1.0": ("conversation", 1.0),
    "conversation x 1.25": ("conversation", 1.25),
    "conversation x 1.5": ("conversation", 1.5),
    "synthetic x 1.0": ("synthetic", 1.0),
    "synthetic x 1.2": ("synthetic", 1.2),
}

ROWS = {
    "least_busy": (0.831, 0.671, 0.304, 0.413, 0.253),
    "peer_sglang": (0.882, 0.814, 0.681, 0.904, 0.861),
    "peer_aibrix": (0.883, 0.809, 0.647, 0.875, 0.790),
    "peer_llmd": (0.861, 0.777, 0.614, 0.903, 0.853),
    "peer_dynamo": (0.905, 0.776, 0.460, 0.851, 0.659),
    "peer_dynamo, prefill_load_scale 4": (0.930, 0.830, 0.558, 0.919, 0.799),
    "peer_mooncake": (0.945, 0.856, 0.617, 0.931, 0.867),
    "peer_lmetric": (0.955, 0.887, 0.696, 0.931, 0.859),
    "cache_aware, exponent 1": (0.955, 0.912, 0.821, 0.956, 0.923),
}

NOISE = 0.045
"""Two rows nearer than this are a tie: about two standard deviations of a seed, and a bit."""


def policy(row: str) -> Policy:
    catalog = Catalog.load()
    tuned = {
        "peer_dynamo, prefill_load_scale 4": {"peer_dynamo": {"prefill_load_scale": 4.0}},
        "cache_aware, exponent 1": {"uncached_work": {"exponent": 1.0}},
    }
    if row in tuned:
        return build_policy(row, {"minimize": tuned[row], "pick": {"lowest": {"tie": 0}}}, catalog)
    return load_policy(PACKAGED / f"{row}.yaml", catalog)


def out_of_order(column: str, goodput: Mapping[str, float]) -> Iterator[str]:
    """Every pair of rows that the study tells apart and `goodput` has the other way round."""
    at = list(COLUMNS).index(column)
    for one, other in combinations(goodput, 2):
        apart = ROWS[one][at] - ROWS[other][at]
        if abs(apart) > NOISE and (goodput[one] - goodput[other]) * apart <= 0:
            yield f"{one} {goodput[one]:.3f}, {other} {goodput[other]:.3f}"
