"""The middle of the line, to be read top to bottom: where, open, fail over, hand on, settle."""

from __future__ import annotations

import dataclasses
import logging
import math
import random
from collections.abc import AsyncIterator, Callable, Iterator, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from typing import Protocol

from gateway.domain import Attempt, Considered, Event, InferenceRequest, Outcome, Principal
from gateway.errors import (
    ContextLengthExceeded,
    GatewayError,
    ModelNotFound,
    NoCandidate,
    UpstreamBroken,
    UpstreamBusy,
    UpstreamError,
)
from gateway.fleet.fleet import Fleet
from gateway.fleet.placement import Match
from gateway.pacer import Pacers
from gateway.rules import Rules
from routing_policies.base import Candidate, Context, Ranked
from routing_policies.policy import Decision, Policy

logger = logging.getLogger(__name__)

NO_MATCH = Match(size=0, tokens=None, touched=0.0)


class Observer(Protocol):
    def settled(self, outcome: Outcome) -> None:
        """An exchange is over. Called once for each, whatever ended it; never waits."""
        ...


@dataclass
class Dispatcher:
    fleet: Fleet
    rules: Rules  # a reload of the config puts others here
    pacers: Pacers
    observers: Sequence[Observer]
    clock: Callable[[], float]
    random: random.Random

    @asynccontextmanager
    async def open(
        self, request: InferenceRequest, outcome: Outcome, headers: Mapping[str, str]
    ) -> AsyncIterator[AsyncIterator[Event]]:
        """The answer's events, from the first endpoint in the policy's order that gives one; of the
        client's model, or else of the models that the policy falls back on.

        Until then nothing has gone to the client, so a refusal only costs the next try. Raises
        ModelNotFound, NoCandidate, the most telling UpstreamError, or what an endpoint found wrong
        with the request itself.
        """
        outcome.request = request
        policy = self.rules.policy_for(request, headers)
        outcome.policy, outcome.policy_version = policy.name, policy.version
        self._check_model(request.model, outcome.principal)
        failure: GatewayError | None = None
        async with AsyncExitStack() as held:
            for asked in _in_turn(request, policy.fallback.models, outcome.principal):
                try:
                    events = await self._first_to_answer(asked, policy, outcome, held)
                    break
                except (UpstreamError, NoCandidate, ContextLengthExceeded) as exc:
                    failure = failure or exc  # what the client hears is of its own model
            else:
                assert failure is not None
                raise failure
            yield events

    async def _first_to_answer(
        self, request: InferenceRequest, policy: Policy, outcome: Outcome, held: AsyncExitStack
    ) -> AsyncIterator[Event]:
        """Decide, and try the choices in their order; what the answer needs is `held`."""
        begun = self.clock()
        asked, candidates, matches = self.fleet.snapshot(request)
        dearer = self.pacers.multiplier(policy.name)
        context = Context(self.clock(), self.random.random(), budget_multiplier=dearer)
        decision = policy.decide(asked, candidates, context)
        outcome.request, outcome.considered = request, _considered(decision)
        outcome.decided = (begun, self.clock())
        failure = _nobody(request, candidates, decision)
        for choice in decision.ranked[: policy.fallback.attempts]:
            name = choice.candidate.endpoint
            if request.model not in choice.candidate.models:
                continue  # not for a policy to choose
            if not self.fleet.endpoints[name].healthy or _too_short(choice.candidate, failure):
                continue  # it went away, or proved too small, since the decision
            attempt = self._attempt(request, outcome, choice, matches.get(name, NO_MATCH))
            try:
                return await held.enter_async_context(attempt)
            except UpstreamError as exc:
                failure = _more_telling(failure, exc)
            except ContextLengthExceeded as exc:
                failure = exc
                failure.limit = choice.candidate.context_length
        raise failure

    @asynccontextmanager
    async def _attempt(
        self, request: InferenceRequest, outcome: Outcome, choice: Ranked, match: Match
    ) -> AsyncIterator[AsyncIterator[Event]]:
        """One try on one endpoint: leased, opened, and past its first event."""
        endpoint = self.fleet.endpoints[choice.candidate.endpoint]
        attempt = Attempt(
            endpoint.name,
            self.clock(),
            in_flight=choice.candidate.in_flight,
            queued_tokens=choice.candidate.queued_tokens,
            expected_cached_tokens=choice.estimate.cached_tokens,
            expected_ttft_s=choice.estimate.ttft_s,
            expected_cost_usd=choice.estimate.cost_usd,
            matched_size=match.size,
            matched_tokens=match.tokens,
            matched_touched=match.touched,
        )
        outcome.attempts.append(attempt)
        self.fleet.sent(request, endpoint.name)
        if outcome.trace is not None and outcome.trace.sampled and endpoint.dedicated:
            headers = outcome.trace.headers(len(outcome.attempts) - 1)
            request = dataclasses.replace(request, trace_headers=headers)
        try:
            with endpoint.lease(choice.estimate.uncached_tokens) as lease:
                async with lease.provider.open(request, outcome.request_id) as events:
                    first = await anext(events, None)
                    if first is None:
                        raise UpstreamBroken("the endpoint answered with nothing")
                    attempt.first_event = self.clock()
                    lease.first_event()
                    yield _chained(first, events)
        except GatewayError as exc:
            attempt.error, attempt.failed = exc.code, isinstance(exc, UpstreamError)
            raise
        finally:
            attempt.last_event = self.clock()
            if attempt.first_event is None:
                self.fleet.failed(request, attempt)

    def settle(self, outcome: Outcome) -> None:
        """Tell everyone who has an interest. Cannot be interrupted: nothing here waits."""
        self.fleet.bill(outcome)
        for observer in self.observers:
            try:
                observer.settled(outcome)
            except Exception:  # a rim: one observer's defect must not cost another its record
                logger.exception("%s did not take the outcome", type(observer).__name__)

    def _check_model(self, model: str, principal: Principal) -> None:
        usable = [name for name in self.fleet.models() if principal.may_use(name)]
        if model not in usable:
            raise ModelNotFound.among(usable, model)


def _in_turn(
    request: InferenceRequest, fallbacks: Sequence[str], principal: Principal
) -> Iterator[InferenceRequest]:
    """The request for the client's model, then for each other that its key may use."""
    yield request
    for model in fallbacks:
        if model != request.model and principal.may_use(model):
            # Prefix keys are of the client's model: what this leaves in a cache they do not name.
            yield dataclasses.replace(request, model=model, prefix=())


def _considered(decision: Decision) -> tuple[Considered, ...]:
    dropped = [Considered(name, dropped_by) for name, dropped_by in decision.dropped.items()]
    return (*(_in_numbers(ranked) for ranked in decision.ranked), *dropped)


def _in_numbers(ranked: Ranked) -> Considered:
    candidate, estimate = ranked.candidate, ranked.estimate
    return Considered(
        endpoint=candidate.endpoint,
        dropped_by=None,
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


async def _chained(first: Event, rest: AsyncIterator[Event]) -> AsyncIterator[Event]:
    yield first
    async for event in rest:
        yield event


def _nobody(
    request: InferenceRequest, candidates: Sequence[Candidate], decision: Decision
) -> GatewayError:
    """What to say if no try succeeds before any was made; why is for the trace, not for callers."""
    serving = [c.endpoint for c in candidates if request.model in c.models]
    if serving and all(decision.dropped.get(name) == "fits_context" for name in serving):
        return ContextLengthExceeded(
            f"the prompt is longer than any endpoint of {request.model!r} takes", param="messages"
        )
    return NoCandidate(f"no endpoint of {request.model!r} is available", retry_after_s=1.0)


def _too_short(candidate: Candidate, failure: GatewayError) -> bool:
    """Another endpoint found the prompt too long, and this one takes no more."""
    return (
        isinstance(failure, ContextLengthExceeded)
        and failure.limit is not None
        and candidate.context_length is not None
        and candidate.context_length <= failure.limit
    )


def _more_telling(known: GatewayError, new: UpstreamError) -> GatewayError:
    """When several refused: being at a limit says when to come back, the soonest counts."""
    if not isinstance(known, UpstreamBusy):
        return new
    if not isinstance(new, UpstreamBusy):
        return known
    return min(known, new, key=_wait)


def _wait(busy: GatewayError) -> float:
    return math.inf if busy.retry_after_s is None else busy.retry_after_s
