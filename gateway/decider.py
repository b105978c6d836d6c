"""Where the next try of an exchange goes: the policy's decision, among those that are left."""

from __future__ import annotations

import dataclasses
import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from gateway.admission.limits import Hold
from gateway.attempts import Choice
from gateway.delivery import Delivery
from gateway.domain import Considered, InferenceRequest, Outcome
from gateway.errors import BudgetExhausted, ContextLengthExceeded, Unavailable
from gateway.fleet.fleet import Fleet
from gateway.fleet.placement import NO_MATCH
from gateway.pacer import Pacers
from gateway.providers.base import Continuation
from gateway.tries import Tries
from routing_policies.base import Candidate, Context, Ranked
from routing_policies.policy import WITHIN_TENANT_BUDGET, Decision, Policy


@dataclass(frozen=True, slots=True)
class Full:
    """Somebody could be asked, but has no room."""

    endpoints: Sequence[str]


@dataclass(frozen=True, slots=True)
class Decider:
    fleet: Fleet
    pacers: Pacers
    clock: Callable[[], float]
    random: random.Random

    def choose(
        self,
        tries: Tries,
        policy: Policy,
        outcome: Outcome,
        delivery: Delivery,
        without: str | None = None,
    ) -> Choice | Full | None:
        """The policy's first choice among those that have not failed, can do what is left, and have
        room. To take up an answer that has begun they need none: it had its room elsewhere."""
        request = tries.request
        asked, everyone, matches = self.fleet.snapshot(request)
        candidates = [c for c in everyone if outcome.principal.may_reach(c.endpoint)]
        left = [c for c in candidates if c.endpoint not in (*tries.failed, without)]
        if delivery.begun:
            left = self._able(left, delivery)
        asked = dataclasses.replace(asked, budget_usd=self.pacers.left_usd(policy.name))
        dearer = self.pacers.multiplier(policy.name)
        context = Context(self.clock(), self.random.random(), dearer, tries.hold.dollars)
        decision = policy.decide(asked, left, context)
        if not tries.decided:
            tries.decided = True
            outcome.request, outcome.considered = request, _considered(decision, candidates)
            _check_context(request, candidates, decision)
            _check_budget(request, decision, tries.hold)
        full: list[Ranked] = []
        for ranked in decision.ranked:
            name = ranked.candidate.endpoint
            # Health is a filter's to judge; that there is somebody to talk to, and that he serves
            # the model, is not for a policy to choose.
            endpoint = self.fleet.endpoints[name]
            if endpoint.provider and not endpoint.drained and tries.may_ask(ranked.candidate):
                if not endpoint.full:
                    return Choice(ranked, matches.get(name, NO_MATCH))
                full.append(ranked)
        if full and delivery.begun:
            return Choice(full[0], matches.get(full[0].candidate.endpoint, NO_MATCH))
        return Full([ranked.candidate.endpoint for ranked in full]) if full else None

    def _able(self, candidates: Sequence[Candidate], delivery: Delivery) -> list[Candidate]:
        """Those that can take up the answer; where somebody can do so exactly, only they."""
        how = {c.endpoint: self.fleet.endpoints[c.endpoint].continuation for c in candidates}
        able = [c for c in candidates if delivery.fits(how[c.endpoint])]
        exact = [c for c in able if how[c.endpoint] is Continuation.TOKEN_IDS and c.healthy]
        return exact or able


def _check_context(
    request: InferenceRequest, candidates: Sequence[Candidate], decision: Decision
) -> None:
    """Why nobody is left is for the trace, not for callers: but for this, which is theirs."""
    serving = [c.endpoint for c in candidates if request.model in c.models]
    if serving and all(decision.dropped.get(name) == "fits_context" for name in serving):
        raise ContextLengthExceeded(
            f"the prompt is longer than any endpoint of {request.model!r} takes", param="messages"
        )


def _check_budget(request: InferenceRequest, decision: Decision, hold: Hold) -> None:
    if decision.ranked or WITHIN_TENANT_BUDGET not in decision.dropped.values():
        return
    if hold.guessed:
        raise Unavailable("the budget cannot be checked at the moment", retry_after_s=1.0)
    raise BudgetExhausted(f"the budget does not pay for any endpoint of {request.model!r}")


def _considered(decision: Decision, candidates: Sequence[Candidate]) -> tuple[Considered, ...]:
    unavailable = {c.endpoint: c.unavailable for c in candidates}
    dropped = [
        Considered(name, dropped_by, unavailable.get(name))
        for name, dropped_by in decision.dropped.items()
    ]
    return (*(_in_numbers(ranked) for ranked in decision.ranked), *dropped)


def _in_numbers(ranked: Ranked) -> Considered:
    candidate, estimate = ranked.candidate, ranked.estimate
    return Considered(
        endpoint=candidate.endpoint,
        dropped_by=None,
        unavailable=candidate.unavailable,
        limited=candidate.limited,
        cost=ranked.cost,
        ttft_s=estimate.ttft_s,
        tpot_s=estimate.tpot_s,
        cost_usd=estimate.cost_usd,
        cached_tokens=estimate.cached_tokens,
        uncached_tokens=estimate.uncached_tokens,
        p_miss=estimate.p_miss,
        in_flight=candidate.in_flight,
        queued_tokens=candidate.queued_tokens,
    )
