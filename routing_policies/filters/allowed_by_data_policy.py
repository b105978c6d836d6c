"""Keep endpoints that treat data as the caller demands, or `at_least` so, in one of `regions`.

An endpoint that states no region is in none; one that states no data policy may do anything.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from routing_policies.base import DATA_POLICIES, Candidate, RouteRequest

LEVELS = {name: level for level, name in enumerate(DATA_POLICIES)}


@dataclass(frozen=True)
class AllowedByDataPolicy:
    at_least: str = DATA_POLICIES[0]
    regions: list[str] = field(default_factory=list)  # empty: anywhere

    def __post_init__(self) -> None:
        if self.at_least not in LEVELS:
            raise ValueError(f"at_least must be one of: {', '.join(DATA_POLICIES)}")

    def keep(self, request: RouteRequest, candidate: Candidate) -> bool:
        if request.data_policy == self.at_least == DATA_POLICIES[0] and not self.regions:
            return True  # nobody demands anything
        kept = LEVELS[candidate.data_policy]
        return (
            kept >= LEVELS[request.data_policy]
            and kept >= LEVELS[self.at_least]
            and (not self.regions or candidate.region in self.regions)
        )
