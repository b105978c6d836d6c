"""Where the next try of an exchange goes: the policy's decision, among those that are left."""

from __future__ import annotations

import dataclasses
import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from gateway.attempts import Choice
from gateway.delivery import Delivery
from gateway.domain import Considered, InferenceRequest, Outcome
from gateway.errors import ContextLengthExceeded
from gateway.fleet.fleet import Fleet
from gateway.fleet.placement import NO_MATCH
from gateway.pacer import Pacers
from gateway.providers.base import Continuation
from gateway.tries import Tries
from routing_policies.base import Candidate, Context, Ranked
from routing_policies.policy import Decision, Policy


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
    ) -> Choice | None:
        """The policy's first choice among those that have not failed and can do what is left."""
        request, begun = tries.request, self.clock()
        asked, candidates, matches = self.fleet.snapshot(request)
        left = [c for c in candidates if c.endpoint not in (*tries.failed, without)]
        if delivery.begun:
            left = self._able(left, delivery)
        asked = dataclasses.replace(asked, budget_usd=self.pacers.left_usd(policy.name))
        dearer = self.pacers.multiplier(policy.name)
        context = Context(self.clock(), self.random.random(), budget_multiplier=dearer)
        decision = policy.decide(asked, left, context)
        if not tries.decided:
            tries.decided = True
            outcome.request, outcome.considered = request, _considered(decision, candidates)
            outcome.decided = (begun, self.clock())
            _check_context(request, candidates, decision)
        for ranked in decision.ranked:
            name = ranked.candidate.endpoint
            # Health is a filter's to judge; that there is somebody to talk to, and that he serves
            # the model, is not for a policy to choose.
            endpoint = self.fleet.endpoints[name]
            if endpoint.provider and not endpoint.drained and tries.may_ask(ranked.candidate):
                return Choice(ranked, matches.get(name, NO_MATCH))
        return None

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
