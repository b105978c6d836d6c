"""Keeps policies to their budgets: what was spent too early makes dollars dearer for a while.

A policy with `budget: {dollars_per_hour: r}` weighs a dollar as 1 + λ. With every exchange that
cost c dollars, Δt after the last, the pacer moves λ by the gradient of what the budget is
overspent by (a primal-dual step):

    λ ← max(0, λ + η·(c - r·Δt)),    η = 1 / (r·patience)

So λ is the time by which spending is ahead of the budget, in units of the policy's patience, and
it falls by 1 for each patience without spending. A budget alone is never a reason to refuse; a
policy with the filter `within_budget` drops what costs more than is left of an hour's.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

from gateway.domain import Outcome
from routing_policies.policy import Budget, Policy

HOUR_S = 3600.0


class Pacer:
    """One budget's λ. Times are monotonic, in seconds."""

    def __init__(self, budget: Budget, now: float) -> None:
        self.budget = budget
        self._multiplier = 0.0
        self._updated = now

    def multiplier(self, now: float) -> float:
        return max(0.0, self._after(0.0, now))

    def left_usd(self, now: float) -> float:
        """What an hour may cost, less what was spent ahead of time."""
        ahead_s = self.multiplier(now) * self.budget.patience_s
        return self.budget.dollars_per_hour * max(0.0, 1 - ahead_s / HOUR_S)

    def spent(self, dollars: float, now: float) -> None:
        # A budget per hour looks back an hour: without this, one wild night would be paid for
        # all week.
        most = HOUR_S / self.budget.patience_s
        self._multiplier = min(max(0.0, self._after(dollars, now)), most)
        self._updated = now

    def _after(self, dollars: float, now: float) -> float:
        due_s = dollars / self.budget.dollars_per_hour * HOUR_S
        return self._multiplier + (due_s - (now - self._updated)) / self.budget.patience_s


class Pacers:
    """Every policy's, by name; an observer of exchanges."""

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._pacers: dict[str, Pacer] = {}

    def use(self, policies: Mapping[str, Policy]) -> None:
        """Keep to the budgets of these policies; what is known of a name stays."""
        known, self._pacers = self._pacers, {}
        for name, policy in policies.items():
            if policy.budget is not None:
                pacer = self._pacers[name] = known.get(name) or Pacer(policy.budget, self._clock())
                pacer.budget = policy.budget

    def multiplier(self, policy: str) -> float:
        pacer = self._pacers.get(policy)
        return pacer.multiplier(self._clock()) if pacer else 0.0

    def left_usd(self, policy: str) -> float | None:
        pacer = self._pacers.get(policy)
        return pacer.left_usd(self._clock()) if pacer else None

    def settled(self, outcome: Outcome) -> None:
        pacer = self._pacers.get(outcome.policy or "")
        if pacer is not None and outcome.attempts:
            dollars = sum([attempt.billed_usd for attempt in outcome.attempts])
            pacer.spent(dollars, self._clock())

    def multipliers(self) -> Mapping[str, float]:
        """λ of every policy that has a budget."""
        return {name: self.multiplier(name) for name in self._pacers}
