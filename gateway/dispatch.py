"""
The middle of the line, to be read top to bottom: admit, decide, open, hand on; when an endpoint
fails, the same again for what is missing; settle.

Before the first byte that is the whole answer, and any other endpoint may give it. After it, only
one that can take up what the client has. docs/failures.md says what is promised.
"""

from __future__ import annotations

import asyncio
import dataclasses
import random
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Mapping, Sequence
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass, field

from gateway.admission.classes import asked_class
from gateway.admission.limits import Hold, Limiter
from gateway.admission.queue import Queue
from gateway.admission.response_cache import ResponseCache, replayed
from gateway.attempts import NO_LIMIT, Attempts, Begun, Choice, Opened
from gateway.counting import Counter, Counting
from gateway.deadline import deadline
from gateway.decider import Decider, Full
from gateway.delivery import Delivery
from gateway.domain import Attempt, Event, InferenceRequest, Outcome, Principal
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
from gateway.exhausted import exhausted
from gateway.extra_tries import ExtraTries
from gateway.fleet.fleet import Fleet
from gateway.hedge import Racer, hedge_after_s, race
from gateway.observers import Observer, tell
from gateway.pacer import Pacers
from gateway.rules import Rules
from gateway.tries import Tries
from routing_policies.base import RouteRequest
from routing_policies.policy import Hedge, Policy

BACKOFF_S, LONGEST_BACKOFF_S = 0.05, 1.0
"""Before the same endpoint is asked again because there is no other: doubling, half by chance."""

RESUME_SPREAD_S = 0.1
RESUMES_AT_ONCE = 8
"""When an endpoint dies under many streams, another must not get them all in one moment: so many
wait there for their first event."""

MOST_RESUMES = 8
"""A stream that breaks more often is given up: there is something wrong with the answer itself."""

RESUME_PATIENCE_S = 10.0
"""For somebody who can take up an answer to be there (again): a replica starts in seconds."""


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
        self._decider = Decider(self.fleet, self.pacers, self.clock, self.random)
        self._attempts = Attempts(self.fleet, self.clock)
        self._resuming = {name: asyncio.Semaphore(RESUMES_AT_ONCE) for name in self.fleet.endpoints}
        self._hedges: dict[tuple[str, Hedge], ExtraTries] = {}  # by the policy's name

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
                answer = Joined(self, tries, policy, outcome)
                try:
                    return await anext(answer), answer
                except ELSEWHERE as exc:
                    failure = failure or exc  # what the client hears is of its own model
                    took_work = isinstance(exc, UpstreamError) and exc.took_work
        assert failure is not None
        raise failure

    def begin(
        self,
        choice: Choice,
        tries: Tries,
        policy: Policy,
        outcome: Outcome,
        delivery: Delivery,
    ) -> AbstractAsyncContextManager[Opened]:
        """An attempt, past its first event. Where the policy hedges, a second one may win."""
        endpoint = self.fleet.endpoints[choice.endpoint]
        request = delivery.request_for(endpoint.continuation)
        attempt = choice.attempt(self.clock())
        attempt.resumed = delivery.begun
        gate = self._resuming[endpoint.name] if delivery.begun else NO_LIMIT
        begin, expected, timer = self._attempts.begin, tries.expected, tries.timer
        opening = begin(choice, attempt, request, expected, outcome, timer, gate)
        hedge = policy.fallback.hedge
        if hedge is None or delivery.begun or not choice.ranked.candidate.dedicated:
            return opening
        hedges = self._hedges.setdefault((policy.name, hedge), ExtraTries(hedge.at_most, least=0))
        hedges.requested(self.clock())

        def second() -> Racer | None:
            other = self._decider.choose(tries, policy, outcome, delivery, without=choice.endpoint)
            if not isinstance(other, Choice) or not other.ranked.candidate.dedicated:
                return None
            if not hedges.take(self.clock()):
                return None
            attempt = other.attempt(self.clock())
            attempt.hedge = True
            opening = begin(other, attempt, request, expected, outcome, timer, gate)
            return Racer(attempt, opening, opening.lease.end)

        after_s = hedge_after_s(hedge, choice.ranked)
        return race(Racer(attempt, opening, opening.lease.end), after_s, second, tries.note)

    def note(self, error: GatewayError, attempt: Attempt, tries: Tries, delivery: Delivery) -> None:
        """What an attempt's failure means for the next. Raises when there is to be none."""
        if not delivery.begun and not isinstance(error, UpstreamError | ContextLengthExceeded):
            raise error  # the request's own fault, wherever it is sent
        now = self.clock()
        broke = attempt.delivered_tokens > 0 or (delivery.begun and tries.broke is None)
        tries.note(attempt, error, broke=broke, now=now)
        if delivery.begun:
            if not self._may_resume(tries, delivery):
                raise tries.broke or error
            return  # the work is done but for the rest: to lose it would cost more than to try
        spends = isinstance(error, UpstreamError) and error.took_work and not attempt.probe
        if tries.left == 0 or (spends and not self.retries.take(now)):
            raise exhausted(tries.request.model, tries.said)

    def _may_resume(self, tries: Tries, delivery: Delivery) -> bool:
        return (
            tries.fallback.resume
            and tries.left > 0
            and tries.resumes <= MOST_RESUMES
            and any(
                tries.request.model in endpoint.models
                and not endpoint.drained
                and delivery.fits(endpoint.continuation)
                for endpoint in self.fleet.endpoints.values()
            )
        )

    async def next(
        self, tries: Tries, policy: Policy, outcome: Outcome, delivery: Delivery
    ) -> Choice:
        """Another endpoint than those that failed; one of them again only where there is no other.
        While all of them are full, the request waits for its turn. Raises when there is nobody."""
        if delivery.begun:
            await asyncio.sleep(self.random.random() * RESUME_SPREAD_S)
        queued = None
        while True:
            choice = self._decider.choose(tries, policy, outcome, delivery)
            if isinstance(choice, Full):
                queued = self.clock() if queued is None else queued
                try:
                    await self.queue.wait(tries.turn, choice.endpoints)
                finally:
                    outcome.queued[queued] = self.clock()
                continue
            if choice is not None:
                self.queue.started(tries.turn)
                return choice
            waits = delivery.begun and self.clock() < tries.broke_at + RESUME_PATIENCE_S
            again = (waits or not delivery.begun) and tries.forgive()
            if not again and not waits:
                said = {**tries.said, **self.fleet.rests(tries.request.model)}
                raise tries.broke or exhausted(tries.request.model, said)
            backoff = min(LONGEST_BACKOFF_S, BACKOFF_S * 2 ** min(tries.rounds, 10))
            await asyncio.sleep(backoff * (0.5 + self.random.random() / 2))

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


class Joined:
    """One answer, from as many endpoints as it takes. Whoever leaves it early has to close it."""

    def __init__(
        self, dispatcher: Dispatcher, tries: Tries, policy: Policy, outcome: Outcome
    ) -> None:
        self._dispatcher = dispatcher
        self._tries = tries
        self._policy = policy
        self._outcome = outcome
        self._delivery = Delivery(tries.request)
        self._choice: Choice  # where the attempt goes that is going on, or is to begin
        self._opening: AbstractAsyncContextManager[Opened]
        self._opened: Opened | None = None  # the attempt that is going on
        self._before = 0  # tokens that were delivered before it
        self._over = False

    def __aiter__(self) -> Joined:
        return self

    async def __anext__(self) -> Event:
        if self._over:
            raise StopAsyncIteration
        self._over = True  # unless an event comes of it
        delivery = self._delivery
        while True:
            opened = self._opened
            if opened is None:
                await self._choose()
            try:
                if opened is None:
                    opened = await self._open()
                try:
                    async for event in opened.events:
                        opened.lease.answered(1)
                        if event.usage is not None:
                            opened.attempt.billed = delivery.billed(event.usage)
                        shown = delivery.take(event)
                        if shown is not None:
                            self._over = False
                            return shown
                except BaseException as exc:
                    await self._leave(opened, exc)
                    raise
                await self._leave(opened, None)
                raise StopAsyncIteration
            except GatewayError as exc:
                if delivery.finished:  # what is missing came after the answer
                    raise StopAsyncIteration from None
                tries = self._tries
                culprit = opened.attempt if opened else tries.culprit(self._outcome.attempts)
                self._dispatcher.note(exc, culprit, tries, delivery)

    async def aclose(self) -> None:
        self._over = True
        if self._opened is not None:
            await self._leave(self._opened, GeneratorExit())

    async def _choose(self) -> None:
        tries, outcome, delivery = self._tries, self._outcome, self._delivery
        self._choice = await self._dispatcher.next(tries, self._policy, outcome, delivery)

    async def _open(self) -> Opened:
        tries, outcome, delivery = self._tries, self._outcome, self._delivery
        self._before = delivery.tokens
        self._opening = self._dispatcher.begin(self._choice, tries, self._policy, outcome, delivery)
        self._opened = opened = await self._opening.__aenter__()
        try:
            # Whoever answers stands last, for all who ask later.
            if len(outcome.attempts) > 1:
                outcome.attempts.sort(key=lambda other: other is opened.attempt)
            begun = [a for a in outcome.attempts if a.first_event is not None]
            tries.hold.needs(dollars=sum([a.expected_cost_usd for a in begun]))
        except BaseException as exc:
            await self._leave(opened, exc)
            raise
        return opened

    async def _leave(self, opened: Opened, exc: BaseException | None) -> None:
        """Raises what the endpoint's side makes of `exc`, where that is another error."""
        self._opened = None
        opened.attempt.delivered_tokens = max(0, self._delivery.tokens - self._before)
        if exc is None:
            await self._opening.__aexit__(None, None, None)
        else:
            await self._opening.__aexit__(type(exc), exc, exc.__traceback__)


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
