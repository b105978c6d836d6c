"""Filter, estimate, weigh, pick: one pure function over a snapshot of the fleet."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

from routing_policies.base import (
    NO_HARD_LIMITS,
    NO_LIMITS,
    Candidate,
    Context,
    Estimate,
    Filter,
    HardLimits,
    Limits,
    Objective,
    Picker,
    Ranked,
    RouteRequest,
)
from routing_policies.estimate import estimates

WITHIN_TENANT_BUDGET = "within_tenant_budget"
"""No file's filter: what its tenant's or key's budget does not pay for, no policy can choose."""


class Decision(NamedTuple):
    ranked: Sequence[Ranked]  # first choice first
    dropped: Mapping[str, str]  # endpoint -> the filter or hard limit that removed it


@dataclass(frozen=True, slots=True)
class Hedge:
    """A second try while the first has not begun to answer, on machines of ours only."""

    after_s: float | None = None  # None: the time in which 95 % of such requests are answered
    at_most: float = 0.05  # of the policy's requests


@dataclass(frozen=True, slots=True)
class Fallback:
    attempts: int = 3  # tries per exchange and model, the first included
    models: tuple[str, ...] = ()  # asked for when no endpoint of the client's model answers
    resume: bool = True  # a stream that breaks off is taken up by an endpoint that can
    hedge: Hedge | None = None


@dataclass(frozen=True, slots=True)
class Budget:
    """What a policy may spend; a pacer on the gateway's side keeps to it."""

    dollars_per_hour: float
    patience_s: float  # dollars count double once so much of the budget was spent early


@dataclass(frozen=True, slots=True)
class Policy:
    name: str
    filters: Mapping[str, Filter]
    objectives: Mapping[str, tuple[float, Objective]]  # name -> weight and objective
    picker: Picker
    limits: Limits = NO_LIMITS
    hard: HardLimits = NO_HARD_LIMITS
    budget: Budget | None = None
    classes: Mapping[str, Policy] = field(default_factory=dict)  # with other numbers
    fallback: Fallback = Fallback()
    version: str = ""  # a digest of the file that it is from

    def decide(
        self, request: RouteRequest, candidates: Sequence[Candidate], context: Context
    ) -> Decision:
        if request.request_class in self.classes:
            return self.classes[request.request_class].decide(request, candidates, context)
        dropped: dict[str, str] = {}
        kept = candidates
        for name, filter_ in self.filters.items():
            keep, passed = filter_.keep, []
            for candidate in kept:
                if keep(request, candidate):
                    passed.append(candidate)
                else:
                    dropped[candidate.endpoint] = name
            kept = passed

        ranked, limited = [], False
        weighed = self.objectives.values()
        expectations = estimates(request, kept, self.limits, context)
        left, hard = context.tenant_usd, self.hard
        for candidate, expected in zip(kept, expectations, strict=True):
            if left is not None and expected.cost_usd > left:
                dropped[candidate.endpoint] = WITHIN_TENANT_BUDGET
                continue
            if hard is not NO_HARD_LIMITS and (limit := _exceeded(expected, hard)):
                dropped[candidate.endpoint] = limit
                continue
            total = 0.0
            for weight, objective in weighed:
                total += weight * objective.cost(request, candidate, expected)
            ranked.append(tuple.__new__(Ranked, (candidate, expected, total)))
            limited = limited or candidate.limited
        order = self.picker.pick(ranked, context)
        if limited:  # they come last, whatever they cost
            order = sorted(order, key=lambda r: r.candidate.limited)
        return Decision(order, dropped)

    def terms(self, request: RouteRequest, ranked: Ranked) -> Mapping[str, float]:
        """What each objective adds to the cost of a candidate that was ranked for `request`."""
        policy = self.classes.get(request.request_class, self)
        return {
            name: weight * objective.cost(request, ranked.candidate, ranked.estimate)
            for name, (weight, objective) in policy.objectives.items()
        }


def _exceeded(expected: Estimate, hard: HardLimits) -> str | None:
    """`hard.NAME` of the first hard limit that an estimate is beyond."""
    for name, value, limit in (
        ("cost_usd", expected.cost_usd, hard.cost_usd),
        ("ttft", expected.ttft_s, hard.ttft_s),
        ("tpot", expected.tpot_s, hard.tpot_s),
    ):
        if limit is not None and value > limit:
            return f"hard.{name}"
    return None
