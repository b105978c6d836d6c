"""The nouns and the three verbs of routing. Imports nothing but the standard library."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol


@dataclass(frozen=True, slots=True)
class RouteRequest:
    """What a policy may know about a request."""

    model: str
    prompt_tokens: int  # estimated
    max_tokens: int | None = None


@dataclass(frozen=True, slots=True)
class Candidate:
    """One endpoint as it looked when the decision began."""

    endpoint: str
    models: frozenset[str]
    healthy: bool = True
    context_length: int | None = None  # tokens; None: not known
    in_flight: int = 0  # requests sent there and not yet answered in full
    queued_tokens: int = 0  # uncached prompt tokens sent there, first token still awaited
    cached_tokens: int = 0  # of this request's prompt, expected in its prefix cache


@dataclass(frozen=True, slots=True)
class Context:
    """What a decision may depend on besides the request and the candidates."""

    now: float  # seconds, monotonic
    draw: float  # uniform in [0, 1), the only randomness a decision has


@dataclass(frozen=True, slots=True)
class Estimate:
    """What the policy expects of this request on one candidate, computed in `policy.estimate`."""

    cached_tokens: int
    uncached_tokens: int


@dataclass(frozen=True, slots=True)
class Ranked:
    """A candidate that passed every filter, with what the objective says of it."""

    candidate: Candidate
    estimate: Estimate
    cost: float  # in the objective's unit; lowest is best


class Filter(Protocol):
    def keep(self, request: RouteRequest, candidate: Candidate) -> bool: ...


class Objective(Protocol):
    def cost(self, request: RouteRequest, candidate: Candidate, estimate: Estimate) -> float:
        """What choosing this candidate costs; finite and never negative."""
        ...


class Picker(Protocol):
    def pick(self, ranked: Sequence[Ranked], context: Context) -> Sequence[Ranked]:
        """Order the candidates, first choice first."""
        ...
