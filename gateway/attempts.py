"""One try on one endpoint: leased, opened, past its first event, and recorded however it ends."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, AsyncExitStack, ExitStack, asynccontextmanager
from dataclasses import dataclass
from typing import Any

from gateway.domain import Attempt, Ended, Event, InferenceRequest, Outcome
from gateway.errors import GatewayError, UpstreamBroken, UpstreamError
from gateway.fleet.endpoint import Lease
from gateway.fleet.fleet import Fleet
from gateway.fleet.placement import Match
from routing_policies.base import Ranked


@dataclass(frozen=True, slots=True)
class Choice:
    """Where a decision sends a request, and the placement that it counted on."""

    ranked: Ranked
    match: Match

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
class Place:
    """A lease, from the moment of the choice on; to let go of it twice does no harm."""

    lease: Lease
    held: ExitStack


@dataclass(frozen=True, slots=True)
class Attempts:
    fleet: Fleet
    clock: Callable[[], float]

    def place(self, choice: Choice) -> Place:
        """Taken at once: a try may begin in a task of its own, and nobody may come between."""
        estimate, held = choice.ranked.estimate, ExitStack()
        lease = self.fleet.endpoints[choice.endpoint].lease(
            estimate.uncached_tokens, self.clock(), estimate.cached_tokens
        )
        return Place(held.enter_context(lease), held)

    @asynccontextmanager
    async def on(
        self,
        place: Place,
        attempt: Attempt,
        request: InferenceRequest,
        outcome: Outcome,
        gate: AbstractAsyncContextManager[Any],
    ) -> AsyncIterator[tuple[Attempt, AsyncIterator[Event]]]:
        """The endpoint's events, the first of which is there; until then `gate` is held."""
        endpoint, lease = self.fleet.endpoints[attempt.endpoint], place.lease
        outcome.attempts.append(attempt)
        self.fleet.sent(request, endpoint.name)
        try:
            with place.held:
                attempt.probe = lease.probe
                async with AsyncExitStack() as held:
                    async with gate:
                        opening = lease.provider.open(request, outcome.request_id)
                        events = await held.enter_async_context(opening)
                        first = await anext(events, None)
                    if first is None:
                        raise UpstreamBroken("the endpoint answered with nothing")
                    attempt.first_event = self.clock()
                    lease.first_event(attempt.first_event)
                    yield attempt, _counted(first, events, lease)
            attempt.ended = Ended.FINISHED
            endpoint.breaker.succeeded(self.clock())
        except GatewayError as exc:
            attempt.ended, attempt.error = Ended.FAILED, exc.code
            if isinstance(exc, UpstreamError):
                attempt.failed = True
                endpoint.failed(request.model, exc, self.clock())
            raise
        finally:
            attempt.ended = attempt.ended or Ended.HUNG_UP
            attempt.last_event = self.clock()
            if attempt.first_event is None:
                self.fleet.failed(request, attempt)


async def _counted(first: Event, rest: AsyncIterator[Event], lease: Lease) -> AsyncIterator[Event]:
    lease.answered(1)
    yield first
    async for event in rest:
        lease.answered(1)
        yield event


async def chained(first: Event, rest: AsyncIterator[Event]) -> AsyncIterator[Event]:
    yield first
    async for event in rest:
        yield event
