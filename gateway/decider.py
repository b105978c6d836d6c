"""Where the next try of an exchange goes: the policy's decision, among those that are left."""

from __future__ import annotations

import dataclasses
import random
from collections.abc import Callable, Container, Sequence
from dataclasses import dataclass

from gateway.admission.limits import Hold
from gateway.attempts import Choice
from gateway.delivery import Delivery
from gateway.domain import Considered, InferenceRequest, Outcome
from gateway.errors import (
    BudgetExhausted,
    ContextLengthExceeded,
    NotSupported,
    Unavailable,
    UnsupportedRequest,
)
from gateway.fleet.endpoint import EJECTED
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
        request, begun = tries.request, self.clock()
        asked, everyone, matches = self.fleet.snapshot(request, tries.expected)
        candidates, principal = everyone, outcome.principal
        if principal.endpoints is not None:
            candidates = [c for c in everyone if principal.may_reach(c.endpoint)]
        tried = {*tries.failed, without}
        left_usd = self.pacers.left_usd(policy.name)
        if left_usd is not None:
            asked = dataclasses.replace(asked, budget_usd=left_usd)
        dearer = self.pacers.multiplier(policy.name)
        context = Context(self.clock(), self.random.random(), dearer, tries.hold.dollars)
        decision = policy.decide(asked, self._left(candidates, tried, delivery), context)
        if not decision.ranked and not any(c.healthy for c in candidates if c.endpoint in tried):
            candidates = [_forgiven(c) for c in candidates]
            decision = policy.decide(asked, self._left(candidates, tried, delivery), context)
        names, endpoints = (r.candidate.endpoint for r in decision.ranked), self.fleet.endpoints
        full = {name for name in names if endpoints[name].full(request.tenant, begun)}
        if not tries.decided:
            tries.decided = True
            outcome.request = request
            outcome.considered = _considered(decision, candidates, full)
            outcome.decided = (begun, self.clock())
            _check_request(request, candidates, decision)
            _check_budget(request, decision, tries.hold)
        there = [ranked for ranked in decision.ranked if self._may_ask(ranked, tries)]
        room = [r for r in there if r.candidate.endpoint not in full]
        chosen = next(iter(room or (there if delivery.begun else ())), None)
        if chosen is not None:
            match = matches.get(chosen.candidate.endpoint, NO_MATCH)
            return Choice(chosen, match, alone=len(room) < 2)
        return Full([ranked.candidate.endpoint for ranked in there]) if there else None

    def _may_ask(self, ranked: Ranked, tries: Tries) -> bool:
        """Health is a filter's to judge; that there is somebody to talk to, and that he serves the
        model, is not for a policy to choose."""
        endpoint = self.fleet.endpoints[ranked.candidate.endpoint]
        there = endpoint.provider is not None and not endpoint.drained
        return there and tries.may_ask(ranked.candidate)

    def _left(
        self, candidates: Sequence[Candidate], tried: Container[str | None], delivery: Delivery
    ) -> Sequence[Candidate]:
        left = [c for c in candidates if c.endpoint not in tried]
        return self._able(left, delivery) if delivery.begun else left

    def _able(self, candidates: Sequence[Candidate], delivery: Delivery) -> list[Candidate]:
        """Those that can take up the answer; where somebody can do so exactly, only they."""
        how = {c.endpoint: self.fleet.endpoints[c.endpoint].continuation for c in candidates}
        able = [c for c in candidates if delivery.fits(how[c.endpoint])]
        exact = [c for c in able if how[c.endpoint] is Continuation.TOKEN_IDS and c.healthy]
        return exact or able


def _forgiven(candidate: Candidate) -> Candidate:
    """An ejection spares requests a failure that others would not have; where there are no others
    that a request may go to, it is asked anyway."""
    return candidate._replace(healthy=True) if candidate.unavailable == EJECTED else candidate


def _check_request(
    request: InferenceRequest, candidates: Sequence[Candidate], decision: Decision
) -> None:
    """Why nobody is left is for the trace, not for callers: but for what is theirs to mend."""
    reasons = {decision.dropped.get(c.endpoint) for c in candidates if request.model in c.models}
    if reasons == {"fits_context"}:
        raise ContextLengthExceeded(
            f"the prompt is longer than any endpoint of {request.model!r} takes", param="messages"
        )
    if reasons == {"has_capabilities"} and request.needs:
        if not request.operation.writes:
            raise NotSupported(f"no endpoint of {request.model!r} can do embeddings", param="model")
        asked = ", ".join(sorted(request.needs))
        raise UnsupportedRequest(
            f"no endpoint of {request.model!r} can do what this takes: {asked}"
        )


def _check_budget(request: InferenceRequest, decision: Decision, hold: Hold) -> None:
    if decision.ranked or WITHIN_TENANT_BUDGET not in decision.dropped.values():
        return
    if hold.guessed:
        raise Unavailable("the budget cannot be checked at the moment", retry_after_s=1.0)
    raise BudgetExhausted(f"the budget does not pay for any endpoint of {request.model!r}")


def _considered(
    decision: Decision, candidates: Sequence[Candidate], full: Container[str]
) -> tuple[Considered, ...]:
    unavailable = {c.endpoint: c.unavailable for c in candidates}
    dropped = [
        Considered(name, dropped_by, unavailable.get(name))
        for name, dropped_by in decision.dropped.items()
    ]
    return (*(_in_numbers(ranked, full) for ranked in decision.ranked), *dropped)


def _in_numbers(ranked: Ranked, full: Container[str]) -> Considered:
    candidate, estimate = ranked.candidate, ranked.estimate
    return Considered(
        endpoint=candidate.endpoint,
        dropped_by=None,
        unavailable=candidate.unavailable,
        limited=candidate.limited,
        full=candidate.endpoint in full,
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
