"""
The middle of the line, to be read top to bottom: admit; have the answer of the client's model, or
else of one that the policy falls back on (`joining.py`); settle.
"""

from __future__ import annotations

import asyncio
import dataclasses
import random
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field

from gateway.admission.classes import asked_class
from gateway.admission.limits import Hold, Limiter
from gateway.admission.queue import Queue
from gateway.admission.response_cache import ResponseCache, replayed
from gateway.attempts import Begun
from gateway.counting import Counter, Counting
from gateway.deadline import deadline
from gateway.decider import Decider
from gateway.domain import Event, InferenceRequest, Outcome, Principal
from gateway.errors import (
    BudgetExhausted,
    ContextLengthExceeded,
    DeadlineExceeded,
    GatewayError,
    ModelNotFound,
    NoCandidate,
    Overloaded,
    UnsupportedRequest,
    UpstreamError,
)
from gateway.extra_tries import ExtraTries
from gateway.fleet.fleet import Fleet
from gateway.joining import Joined, Joiner
from gateway.observers import Observer, tell
from gateway.pacer import Pacers
from gateway.rules import Rules
from gateway.tries import Tries
from routing_policies.base import RouteRequest
from routing_policies.policy import Policy

ELSEWHERE = (
    *(UpstreamError, NoCandidate, Overloaded, BudgetExhausted),
    *(ContextLengthExceeded, UnsupportedRequest),
)
"""What a model that the policy falls back on may do better."""


Show = Callable[[AsyncIterator[Event]], Awaitable[None]]
"""Takes an answer's events to whoever asked for them."""


@dataclass
class Dispatcher:
    fleet: Fleet
    rules: Rules  # a reload of the config puts others here
    pacers: Pacers
    limiter: Limiter
    queue: Queue
    cache: ResponseCache
    observers: Sequence[Observer]
    clock: Callable[[], float]
    random: random.Random
    longest_s: float = 3600.0  # an exchange; likewise
    retries: ExtraTries = field(default_factory=ExtraTries)
    tokenizers: Mapping[str, Counter] = field(default_factory=dict)  # by model

    def __post_init__(self) -> None:
        self._counting = Counting(self.fleet, self.tokenizers)
        decider = Decider(self.fleet, self.pacers, self.clock, self.random)
        self._joiner = Joiner(
            self.fleet, decider, self.queue, self.retries, self.clock, self.random
        )

    async def answer(
        self, request: InferenceRequest, outcome: Outcome, headers: Mapping[str, str], show: Show
    ) -> None:
        """Have the answer shown: of the client's model, or else of a model that the policy falls
        back on. `show` is called once its first event is there.

        Raises ModelNotFound, NoCandidate, DeadlineExceeded, what the caller's limits or the queue
        refuse with, the most telling UpstreamError, or what an endpoint found wrong with the
        request itself. The events that `show` is given raise the error that broke the answer off,
        when nobody could take it up.
        """
        outcome.request = request = _of(request, outcome.principal, headers)
        policy = self.rules.policy_for(request, headers, outcome.principal.policies)
        outcome.policy, outcome.policy_version = policy.name, policy.version
        self._check_model(request.model, outcome.principal)
        limit = deadline(headers, self.longest_s)
        self.retries.requested(self.clock())
        began = asyncio.get_running_loop().time()
        expected = self.fleet.expected(request)
        with await self._admitted(request, expected, policy, outcome) as hold:
            try:
                place = self.cache.place(request, headers)
                known = place and self.cache.find(place)
                if known:
                    outcome.cache = "hit"
                    await show(replayed(known))
                    return
                async with asyncio.timeout_at(began + limit.first_event_s) as timer:
                    first, rest = await self._of_some_model(
                        request, expected, policy, outcome, hold, timer
                    )
                    try:
                        if limit.whole_s != limit.first_event_s:
                            timer.reschedule(began + limit.whole_s)
                        answer: AsyncIterator[Event] = Begun(first, rest)
                        # Not what another model said instead.
                        if place is not None and outcome.request.model == request.model:
                            outcome.cache = "miss"
                            answer = self.cache.keeping(place, request, answer)
                        await show(answer)
                    finally:
                        await rest.aclose()
            except TimeoutError:
                raise DeadlineExceeded(
                    "the answer did not come within the request's time"
                ) from None
            finally:
                self.fleet.bill(outcome)
                hold.used(
                    tokens=_used_tokens(outcome, expected.prompt_tokens),
                    dollars=sum([attempt.billed_usd for attempt in outcome.attempts]),
                )

    async def _admitted(
        self, request: InferenceRequest, expected: RouteRequest, policy: Policy, outcome: Outcome
    ) -> Hold:
        """What the request may use, held while it runs; what it did use stands in the end."""
        models = (request.model, *policy.fallback.models)
        dollars = self.fleet.dearest(request, expected, models)
        tokens = expected.prompt_tokens + expected.output_tokens
        return await self.limiter.held(outcome, tokens, dollars)

    async def _of_some_model(
        self,
        request: InferenceRequest,
        expected: RouteRequest,
        policy: Policy,
        outcome: Outcome,
        hold: Hold,
        timer: asyncio.Timeout,
    ) -> tuple[Event, Joined]:
        """The first event of the first model that answers, and the rest."""
        failure: GatewayError | None = None
        took_work = False
        tokens = expected.prompt_tokens + expected.output_tokens
        # One for all models: nobody waits longer in all because there are others to fall back on.
        with self.queue.turn(request.tenant, request.request_class, tokens) as turn:
            for asked in _in_turn(request, policy.fallback.models, outcome.principal):
                if took_work and not self.retries.take(self.clock()):
                    break
                if asked is not request:
                    expected = self.fleet.expected(asked)
                if self.fleet.may_not_fit(asked, expected):
                    asked = await self._counting.counted(asked, outcome.principal)
                    expected = self.fleet.expected(asked)
                noted = [*outcome.attempts]
                tries = Tries(asked, expected, policy.fallback, noted, hold, timer, turn)
                answer = Joined(self._joiner, tries, policy, outcome)
                try:
                    return await anext(answer), answer
                except ELSEWHERE as exc:
                    failure = failure or exc  # what the client hears is of its own model
                    took_work = isinstance(exc, UpstreamError) and exc.took_work
        assert failure is not None
        raise failure

    async def count(self, request: InferenceRequest, outcome: Outcome) -> int:
        """Tokens of its prompt: a request like others to its caller's limits, but for its tokens.

        Raises ModelNotFound, RateLimited.
        """
        self._check_model(request.model, outcome.principal)
        with await self.limiter.held(outcome, 0, 0):
            return await self._counting.tokens(request, outcome.principal)

    def settle(self, outcome: Outcome) -> None:
        """Tell everyone who has an interest."""
        tell(self.observers, (outcome,))

    def _check_model(self, model: str, principal: Principal) -> None:
        if not principal.may_use(model) or not self.fleet.serves(model):
            usable = [name for name in self.fleet.models() if principal.may_use(name)]
            raise ModelNotFound.among(usable, model)


def _of(
    request: InferenceRequest, principal: Principal, headers: Mapping[str, str]
) -> InferenceRequest:
    """With what a policy has to know of the caller."""
    request_class = asked_class(principal, headers)
    if principal.data_policy is None and request_class == request.request_class:
        return request
    return dataclasses.replace(
        request, data_policy=principal.data_policy, request_class=request_class
    )


def _used_tokens(outcome: Outcome, prompt_tokens: int) -> float:
    """As the client's answer counts them, however many attempts it took; of an answer that was not
    counted, one for each event."""
    if outcome.cache == "hit":
        return 0.0
    if outcome.usage is not None:
        return outcome.usage.prompt_tokens + outcome.usage.completion_tokens
    if not outcome.attempts or outcome.attempts[-1].error is not None:
        return outcome.events  # also where the endpoint refused what was asked of it
    return prompt_tokens + outcome.events  # a client that left has had its prompt computed


def _in_turn(
    request: InferenceRequest, fallbacks: Sequence[str], principal: Principal
) -> Iterator[InferenceRequest]:
    """The request for the client's model, then for each other that its key may use. Another
    model's vectors are no substitute: they lie in another space."""
    yield request
    for model in fallbacks if request.operation.writes else ():
        if model != request.model and principal.may_use(model):
            # Prefix keys are of the client's model: what this leaves in a cache they do not name.
            yield dataclasses.replace(request, model=model, prefix=())
