"""One try on one endpoint: leased, opened, past its first event, and recorded however it ends."""

from __future__ import annotations

import asyncio
import dataclasses
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AbstractAsyncContextManager, nullcontext
from dataclasses import dataclass
from typing import Any, NamedTuple

from gateway.domain import Attempt, Ended, Event, InferenceRequest, Outcome
from gateway.errors import (
    ContextLengthExceeded,
    GatewayError,
    UpstreamBroken,
    UpstreamError,
    UpstreamTimeout,
)
from gateway.fleet.endpoint import Endpoint, Lease
from gateway.fleet.fleet import Fleet
from gateway.fleet.placement import Match
from routing_policies.base import Ranked, RouteRequest

FAIR_S, FAIR_TIMES = 5.0, 3.0
"""An endpoint that is silent for so long, and so many times what was expected, has failed, also
where it is the exchange's time that ends the attempt."""

SILENT = "the endpoint did not begin to answer in time"

NO_LIMIT: AbstractAsyncContextManager[None] = nullcontext()
"""Of time, or of how many may wait."""


class Choice(NamedTuple):
    """Where a decision sends a request, and the placement that it counted on."""

    ranked: Ranked
    match: Match
    alone: bool = False  # nobody else could be asked now

    @property
    def endpoint(self) -> str:
        return self.ranked.candidate.endpoint

    def attempt(self, now: float) -> Attempt:
        candidate, estimate = self.ranked.candidate, self.ranked.estimate
        return Attempt(
            candidate.endpoint,
            now,
            in_flight=candidate.in_flight,
            queued_tokens=candidate.queued_tokens,
            expected_cached_tokens=estimate.cached_tokens,
            expected_ttft_s=estimate.ttft_s,
            expected_cost_usd=estimate.cost_usd,
            start_usd=candidate.start_usd,
            start_s=candidate.start_s,
            matched_size=self.match.size,
            matched_tokens=self.match.tokens,
            matched_touched=self.match.touched,
            hinted=self.match.hinted,
        )


class Patience(NamedTuple):
    """How long an endpoint may take to its first event. Times are the event loop's."""

    timer: asyncio.Timeout  # of the exchange
    fair_s: float
    alone: bool

    def kept(self) -> AbstractAsyncContextManager[Any]:
        """Half of what is left is for another endpoint, where there is one. Raises TimeoutError."""
        end = self.timer.when()
        if end is None or self.alone:
            return NO_LIMIT
        now = asyncio.get_running_loop().time()
        return asyncio.timeout_at(now + max(self.fair_s, (end - now) / 2))

    def failed(self, waited_s: float) -> bool:
        """The exchange's time is over, and the endpoint had its share of it."""
        return self.timer.expired() and waited_s >= self.fair_s


class Begun:
    """Events, the first of which has been waited for already."""

    __slots__ = ("_first", "_rest")

    def __init__(self, first: Event, rest: AsyncIterator[Event]) -> None:
        self._first: Event | None = first
        self._rest = rest

    def __aiter__(self) -> AsyncIterator[Event]:
        return self

    def __anext__(self) -> Awaitable[Event]:
        first, self._first = self._first, None
        return self._rest.__anext__() if first is None else _there(first)


async def _there(event: Event) -> Event:
    return event


class Opened(NamedTuple):
    """An attempt that has begun to answer."""

    attempt: Attempt
    lease: Lease
    events: AsyncIterator[Event]


@dataclass(eq=False, slots=True)
class Opening:
    """Holds its lease from the moment of the choice on. Once entered, the first event is there;
    when left, the attempt is recorded however it ended."""

    fleet: Fleet
    clock: Callable[[], float]
    endpoint: Endpoint
    lease: Lease
    attempt: Attempt
    request: InferenceRequest
    outcome: Outcome
    patience: Patience
    gate: AbstractAsyncContextManager[Any]  # held until the first event
    _answer: AbstractAsyncContextManager[AsyncIterator[Event]] | None = None

    async def __aenter__(self) -> Opened:
        try:
            return await self._open()
        except BaseException as exc:
            await self._end(exc)
            raise

    async def __aexit__(
        self, kind: type[BaseException] | None, exc: BaseException | None, trace: object
    ) -> None:
        await self._end(exc)

    async def _open(self) -> Opened:
        attempt, lease, outcome = self.attempt, self.lease, self.outcome
        attempt.number, attempt.probe = len(outcome.attempts), lease.probe is not None
        outcome.attempts.append(attempt)
        self.fleet.sent(self.request, attempt.endpoint)
        try:
            async with self.gate, self.patience.kept():
                answer = lease.provider.open(self._traced(), outcome.request_id)
                events = await answer.__aenter__()
                self._answer = answer
                first = await anext(events, None)
        except TimeoutError:
            raise UpstreamTimeout(SILENT) from None
        if first is None:
            raise UpstreamBroken("the endpoint answered with nothing")
        attempt.first_event = now = self.clock()
        lease.first_event(now)
        return Opened(attempt, lease, Begun(first, events))

    def _traced(self) -> InferenceRequest:
        trace = self.outcome.trace
        if trace is None or not trace.sampled or not self.endpoint.dedicated:
            return self.request
        return dataclasses.replace(self.request, trace_headers=trace.headers(self.attempt.number))

    async def _end(self, exc: BaseException | None) -> None:
        """Raises what the endpoint's side makes of `exc`, where that is another error."""
        with self.lease:  # until its end is judged: a probe's failure must be known as one
            try:
                if self._answer is not None:
                    trace = None if exc is None else exc.__traceback__
                    await self._answer.__aexit__(None if exc is None else type(exc), exc, trace)
            except BaseException as other:
                exc = other
                raise
            finally:
                self._record(exc)

    def _record(self, exc: BaseException | None) -> None:
        attempt, now = self.attempt, self.clock()
        if exc is None:
            attempt.ended = Ended.FINISHED
            self.endpoint.finished(now)
        elif isinstance(exc, GatewayError):
            self._failed(exc, now)
        elif (
            isinstance(exc, asyncio.CancelledError)
            and attempt.first_event is None
            and self.patience.failed(now - attempt.started)
        ):
            self._failed(UpstreamTimeout(SILENT), now)
        attempt.ended = attempt.ended or Ended.HUNG_UP
        attempt.last_event = now
        if attempt.first_event is None:
            self.fleet.failed(self.request, attempt)

    def _failed(self, error: GatewayError, now: float) -> None:
        attempt, endpoint = self.attempt, self.endpoint
        attempt.ended, attempt.error = Ended.FAILED, error.code
        if isinstance(error, ContextLengthExceeded):
            error.limit = endpoint.context_length
        if isinstance(error, UpstreamError):
            attempt.failed = True
            endpoint.failed(self.request.model, error, now, attempt.started)


@dataclass(frozen=True, slots=True)
class Attempts:
    fleet: Fleet
    clock: Callable[[], float]

    def begin(
        self,
        choice: Choice,
        attempt: Attempt,
        request: InferenceRequest,
        expected: RouteRequest,
        outcome: Outcome,
        timer: asyncio.Timeout,
        gate: AbstractAsyncContextManager[Any],
    ) -> Opening:
        """Its lease is taken at once: a try may begin in a task of its own, and nobody may come
        between."""
        estimate, endpoint = choice.ranked.estimate, self.fleet.endpoints[attempt.endpoint]
        lease = endpoint.lease(
            estimate.uncached_tokens, self.clock(), estimate.cached_tokens, request.tenant
        )
        # What is not streamed is silent while it is computed: nobody can tell it from a failure
        # before its time is over.
        longest = expected.output_tokens if request.max_tokens is None else request.max_tokens
        whole_s = 0.0 if request.stream else estimate.tpot_s * longest
        fair_s = FAIR_S + FAIR_TIMES * (estimate.ttft_s + whole_s)
        patience = Patience(timer, fair_s, choice.alone or not request.stream)
        return Opening(
            self.fleet, self.clock, endpoint, lease, attempt, request, outcome, patience, gate
        )
