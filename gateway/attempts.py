"""One try on one endpoint: leased, opened, past its first event, and recorded however it ends."""

from __future__ import annotations

import asyncio
import dataclasses
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import (
    AbstractAsyncContextManager,
    AsyncExitStack,
    ExitStack,
    asynccontextmanager,
    nullcontext,
)
from dataclasses import dataclass
from typing import Any

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
from routing_policies.base import Ranked

FAIR_S, FAIR_TIMES = 5.0, 3.0
"""An endpoint that is silent for so long, and so many times what was expected, has failed, also
where it is the exchange's time that ends the attempt."""

SILENT = "the endpoint did not begin to answer in time"


@dataclass(frozen=True, slots=True)
class Choice:
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


@dataclass(frozen=True, slots=True)
class Patience:
    """How long an endpoint may take to its first event. Times are the event loop's."""

    timer: asyncio.Timeout  # of the exchange
    fair_s: float
    alone: bool

    def kept(self) -> AbstractAsyncContextManager[None]:
        """Half of what is left is for another endpoint, where there is one. Raises
        UpstreamTimeout."""
        end = self.timer.when()
        if end is None or self.alone:
            return nullcontext()
        now = asyncio.get_running_loop().time()
        return _until(now + max(self.fair_s, (end - now) / 2))

    def failed(self, waited_s: float) -> bool:
        """The exchange's time is over, and the endpoint had its share of it."""
        return self.timer.expired() and waited_s >= self.fair_s


@asynccontextmanager
async def _until(when: float) -> AsyncIterator[None]:
    try:
        async with asyncio.timeout_at(when):
            yield
    except TimeoutError:
        raise UpstreamTimeout(SILENT) from None


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


@dataclass(frozen=True, slots=True)
class Opened:
    """An attempt that has begun to answer."""

    attempt: Attempt
    lease: Lease
    events: AsyncIterator[Event]


@dataclass(frozen=True, slots=True)
class Place:
    """A lease, from the moment of the choice on; to let go of it twice does no harm."""

    lease: Lease
    held: ExitStack
    patience: Patience


@dataclass(frozen=True, slots=True)
class Attempts:
    fleet: Fleet
    clock: Callable[[], float]

    def place(self, choice: Choice, request: InferenceRequest, timer: asyncio.Timeout) -> Place:
        """Taken at once: a try may begin in a task of its own, and nobody may come between."""
        estimate, held = choice.ranked.estimate, ExitStack()
        lease = self.fleet.endpoints[choice.endpoint].lease(
            estimate.uncached_tokens, self.clock(), estimate.cached_tokens, request.tenant
        )
        # What is not streamed is silent while it is computed: nobody can tell it from a failure
        # before its time is over.
        whole_s = 0.0 if request.stream else estimate.tpot_s * self._longest(request)
        fair_s = FAIR_S + FAIR_TIMES * (estimate.ttft_s + whole_s)
        patience = Patience(timer, fair_s, choice.alone or not request.stream)
        return Place(held.enter_context(lease), held, patience)

    def _longest(self, request: InferenceRequest) -> float:
        return request.max_tokens or self.fleet.expected(request).output_tokens

    @asynccontextmanager
    async def on(
        self,
        place: Place,
        attempt: Attempt,
        request: InferenceRequest,
        outcome: Outcome,
        gate: AbstractAsyncContextManager[Any],
    ) -> AsyncIterator[Opened]:
        """The endpoint's events, the first of which is there; until then `gate` is held."""
        endpoint, lease = self.fleet.endpoints[attempt.endpoint], place.lease
        attempt.number = len(outcome.attempts)
        outcome.attempts.append(attempt)
        self.fleet.sent(request, endpoint.name)
        if outcome.trace is not None and outcome.trace.sampled and endpoint.dedicated:
            headers = outcome.trace.headers(attempt.number)
            request = dataclasses.replace(request, trace_headers=headers)
        with place.held:  # until its end is judged: a probe's failure must be known as one
            attempt.probe = lease.probe is not None
            try:
                async with AsyncExitStack() as held:
                    async with gate, place.patience.kept():
                        opening = lease.provider.open(request, outcome.request_id)
                        events = await held.enter_async_context(opening)
                        first = await anext(events, None)
                    if first is None:
                        raise UpstreamBroken("the endpoint answered with nothing")
                    attempt.first_event = self.clock()
                    lease.first_event(attempt.first_event)
                    yield Opened(attempt, lease, Begun(first, events))
                attempt.ended = Ended.FINISHED
                endpoint.finished(self.clock())
            except GatewayError as exc:
                _failed(endpoint, attempt, request.model, exc, self.clock())
                raise
            except asyncio.CancelledError:
                waited_s = self.clock() - attempt.started
                if attempt.first_event is None and place.patience.failed(waited_s):
                    late = UpstreamTimeout(SILENT)
                    _failed(endpoint, attempt, request.model, late, self.clock())
                raise
            finally:
                attempt.ended = attempt.ended or Ended.HUNG_UP
                attempt.last_event = self.clock()
                if attempt.first_event is None:
                    self.fleet.failed(request, attempt)


def _failed(
    endpoint: Endpoint, attempt: Attempt, model: str, error: GatewayError, now: float
) -> None:
    attempt.ended, attempt.error = Ended.FAILED, error.code
    if isinstance(error, ContextLengthExceeded):
        error.limit = endpoint.context_length
    if isinstance(error, UpstreamError):
        attempt.failed = True
        endpoint.failed(model, error, now, attempt.started)
