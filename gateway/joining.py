"""
One answer, from as many endpoints as it takes: decide, open, hand on; when an endpoint fails, the
same again for what is missing.

Before the first byte that is the whole answer, and any other endpoint may give it. After it, only
one that can take up what the client has. docs/failures.md says what is promised.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass

from gateway.admission.queue import Queue
from gateway.attempts import NO_LIMIT, Attempts, Choice, Opened, Opening
from gateway.decider import Decider, Full
from gateway.delivery import Delivery
from gateway.domain import Attempt, Event, InferenceRequest, Outcome
from gateway.errors import ContextLengthExceeded, GatewayError, UpstreamError
from gateway.exhausted import exhausted
from gateway.extra_tries import ExtraTries
from gateway.fleet.fleet import Fleet
from gateway.hedge import Racer, hedge_after_s, race
from gateway.tries import Tries
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


@dataclass(eq=False)
class Joiner:
    """What all answers of a gateway share."""

    fleet: Fleet
    decider: Decider
    queue: Queue
    retries: ExtraTries
    clock: Callable[[], float]
    random: random.Random

    def __post_init__(self) -> None:
        self.attempts = Attempts(self.fleet, self.clock)
        self.resuming = {name: asyncio.Semaphore(RESUMES_AT_ONCE) for name in self.fleet.endpoints}
        self._hedges: dict[tuple[str, Hedge], ExtraTries] = {}  # by the policy's name

    def hedges(self, policy: Policy, hedge: Hedge) -> ExtraTries:
        """What is left of a policy's second tries."""
        return self._hedges.setdefault((policy.name, hedge), ExtraTries(hedge.at_most, least=0))


class Joined:
    """The answer's events as the client gets them. Whoever leaves it early has to close it.

    Raises NoCandidate, what the queue refuses with, the most telling UpstreamError, or what an
    endpoint found wrong with the request itself; and once an event was given, the error that broke
    the answer off, when nobody could take it up.
    """

    def __init__(self, joiner: Joiner, tries: Tries, policy: Policy, outcome: Outcome) -> None:
        self._joiner = joiner
        self._tries = tries
        self._policy = policy
        self._outcome = outcome
        self._delivery = Delivery(tries.request)
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
                choice = await self._next()
            try:
                if opened is None:
                    opened = await self._open(choice)
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
                self._note(exc, opened.attempt if opened else tries.culprit(self._outcome.attempts))

    async def aclose(self) -> None:
        self._over = True
        if self._opened is not None:
            await self._leave(self._opened, GeneratorExit())

    async def _next(self) -> Choice:
        """Another endpoint than those that failed; one of them again only where there is no other.
        While all of them are full, the request waits for its turn. Raises when there is nobody."""
        joiner, tries, outcome = self._joiner, self._tries, self._outcome
        begun = self._delivery.begun
        if begun:
            await asyncio.sleep(joiner.random.random() * RESUME_SPREAD_S)
        queued = None
        while True:
            choice = joiner.decider.choose(tries, self._policy, outcome, self._delivery)
            if isinstance(choice, Full):
                queued = joiner.clock() if queued is None else queued
                try:
                    await joiner.queue.wait(tries.turn, choice.endpoints)
                finally:
                    outcome.queued[queued] = joiner.clock()
                continue
            if choice is not None:
                joiner.queue.started(tries.turn)
                return choice
            waits = begun and joiner.clock() < tries.broke_at + RESUME_PATIENCE_S
            again = (waits or not begun) and tries.forgive()
            if not again and not waits:
                said = {**tries.said, **joiner.fleet.rests(tries.request.model)}
                raise tries.broke or exhausted(tries.request.model, said)
            backoff = min(LONGEST_BACKOFF_S, BACKOFF_S * 2 ** min(tries.rounds, 10))
            await asyncio.sleep(backoff * (0.5 + joiner.random.random() / 2))

    async def _open(self, choice: Choice) -> Opened:
        outcome = self._outcome
        self._before = self._delivery.tokens
        self._opening = self._begin(choice)
        self._opened = opened = await self._opening.__aenter__()
        try:
            # Whoever answers stands last, for all who ask later.
            if len(outcome.attempts) > 1:
                outcome.attempts.sort(key=lambda other: other is opened.attempt)
            begun = [a for a in outcome.attempts if a.first_event is not None]
            self._tries.hold.needs(dollars=sum([a.expected_cost_usd for a in begun]))
        except BaseException as exc:
            await self._leave(opened, exc)
            raise
        return opened

    def _begin(self, choice: Choice) -> AbstractAsyncContextManager[Opened]:
        """An attempt, past its first event. Where the policy hedges, a second one may win."""
        joiner, tries, delivery = self._joiner, self._tries, self._delivery
        request = delivery.request_for(joiner.fleet.endpoints[choice.endpoint].continuation)
        opening, hedge = self._attempt(choice, request), tries.fallback.hedge
        if hedge is None or delivery.begun or not choice.ranked.candidate.dedicated:
            return opening
        hedges = joiner.hedges(self._policy, hedge)
        hedges.requested(joiner.clock())

        def second() -> Racer | None:
            other = joiner.decider.choose(
                tries, self._policy, self._outcome, delivery, without=choice.endpoint
            )
            if not isinstance(other, Choice) or not other.ranked.candidate.dedicated:
                return None
            if not hedges.take(joiner.clock()):
                return None
            opening = self._attempt(other, request)
            opening.attempt.hedge = True
            return _racer(opening)

        return race(_racer(opening), hedge_after_s(hedge, choice.ranked), second, tries.note)

    def _attempt(self, choice: Choice, request: InferenceRequest) -> Opening:
        joiner, tries = self._joiner, self._tries
        attempt = choice.attempt(joiner.clock())
        attempt.resumed = resumed = self._delivery.begun
        gate = joiner.resuming[choice.endpoint] if resumed else NO_LIMIT
        return joiner.attempts.begin(
            choice, attempt, request, tries.expected, self._outcome, tries.timer, gate
        )

    async def _leave(self, opened: Opened, exc: BaseException | None) -> None:
        """Raises what the endpoint's side makes of `exc`, where that is another error."""
        self._opened = None
        opened.attempt.delivered_tokens = max(0, self._delivery.tokens - self._before)
        if exc is None:
            await self._opening.__aexit__(None, None, None)
        else:
            await self._opening.__aexit__(type(exc), exc, exc.__traceback__)

    def _note(self, error: GatewayError, attempt: Attempt) -> None:
        """What an attempt's failure means for the next. Raises when there is to be none."""
        joiner, tries, begun = self._joiner, self._tries, self._delivery.begun
        if not begun and not isinstance(error, UpstreamError | ContextLengthExceeded):
            raise error  # the request's own fault, wherever it is sent
        now = joiner.clock()
        broke = attempt.delivered_tokens > 0 or (begun and tries.broke is None)
        tries.note(attempt, error, broke=broke, now=now)
        if begun:
            if not self._may_resume():
                raise tries.broke or error
            return  # the work is done but for the rest: to lose it would cost more than to try
        spends = isinstance(error, UpstreamError) and error.took_work and not attempt.probe
        if tries.left == 0 or (spends and not joiner.retries.take(now)):
            raise exhausted(tries.request.model, tries.said)

    def _may_resume(self) -> bool:
        tries = self._tries
        return (
            tries.fallback.resume
            and tries.left > 0
            and tries.resumes <= MOST_RESUMES
            and any(
                tries.request.model in endpoint.models
                and not endpoint.drained
                and self._delivery.fits(endpoint.continuation)
                for endpoint in self._joiner.fleet.endpoints.values()
            )
        )


def _racer(opening: Opening) -> Racer:
    return Racer(opening.attempt, opening, opening.lease.end)
