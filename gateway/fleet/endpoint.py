"""One configured place that serves models, and how busy it is."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field

from gateway.errors import UpstreamBusy, UpstreamError, UpstreamOverloaded
from gateway.fleet.breaker import Breaker
from gateway.fleet.learning import Learning
from gateway.providers.base import Continuation, Provider
from routing_policies.base import Candidate, Coefficients, Price

NO_PRICE = Price()

EJECTED = "ejected"

LONGEST_REST_S = 60.0
"""What an endpoint says of its own return is believed for so long, and then tried."""


@dataclass(frozen=True, slots=True)
class Rest:
    """An endpoint said of a model when to come back."""

    until: float  # monotonic
    error: UpstreamError


@dataclass(eq=False)
class Lease:
    """One use of an endpoint, held from the choice to the last byte."""

    provider: Provider
    probe: bool  # of an endpoint that was ejected
    _endpoint: Endpoint
    _queued_tokens: int

    def first_event(self, now: float) -> None:
        """The prompt is computed: its tokens no longer stand in the endpoint's queue."""
        self._endpoint.reached = True
        self._endpoint.breaker.answers(now)
        self._end_queueing()

    def _end_queueing(self) -> None:
        self._endpoint.queued_tokens -= self._queued_tokens
        self._queued_tokens = 0


@dataclass(eq=False)
class Endpoint:
    name: str
    models: frozenset[str]  # as clients call them
    context_length: int | None = None
    provider: Provider | None = None  # None while there is nobody to talk to
    down_because: str | None = None
    reached: bool = False  # it has answered something; a config alone proves nothing
    drained: bool = False  # by hand: what runs there ends, nothing new begins
    epoch: str | None = None  # a replica's; see docs/replica-protocol.md
    dedicated: bool = False  # it computes for us alone
    prices: Mapping[str, Price] = field(default_factory=dict)  # by the clients' name of the model
    learning: Learning = field(default_factory=lambda: Learning(Coefficients()))
    chosen_at: dict[str, float] = field(default_factory=dict, init=False)  # by model; monotonic
    in_flight: int = field(default=0, init=False)
    queued_tokens: int = field(default=0, init=False)
    draw: Callable[[], float] = random.random
    breaker: Breaker = field(init=False)
    continuation: Continuation | None = field(default=None, init=False)  # as it last could
    _rests: dict[str, Rest] = field(default_factory=dict, init=False)  # by model

    def __post_init__(self) -> None:
        self.breaker = Breaker(self.draw)
        if self.provider is not None:
            self.continuation = self.provider.continuation

    @property
    def healthy(self) -> bool:
        """There is somebody to ask, as far as asking for nothing can tell."""
        return self.provider is not None and self.down_because is None and not self.drained

    @property
    def ready(self) -> bool:
        return self.healthy and self.reached

    def unavailable(self, model: str, now: float) -> str | None:
        """Why no request for `model` should be sent there."""
        if self.drained:
            return "drained"
        if self.provider is None or self.down_because is not None:
            return self.down_because or "not there yet"
        if self.resting(model, now) is not None:
            return "resting"
        return EJECTED if self.breaker.ejected(now) else None

    def resting(self, model: str, now: float) -> Rest | None:
        rest = self._rests.get(model)
        return rest if rest is not None and now < rest.until else None

    def price(self, model: str) -> Price:
        return self.prices.get(model, NO_PRICE)

    def up(self, provider: Provider) -> None:
        if provider is not self.provider:  # another life owes nothing for the last
            self.breaker, self._rests = Breaker(self.draw), {}
        self.provider, self.continuation = provider, provider.continuation
        self.down_because = None

    def failed(self, model: str, error: UpstreamError, now: float) -> None:
        """An attempt failed by its fault. Being full is no defect, and is over when it says so."""
        if isinstance(error, UpstreamBusy | UpstreamOverloaded) and error.retry_after_s is not None:
            wait = min(error.retry_after_s, LONGEST_REST_S)
            self._rests[model] = Rest(now + wait, error)
        elif not isinstance(error, UpstreamBusy):
            self.breaker.failed(now)

    def down(self, reason: str) -> None:
        """It does not answer; it may again."""
        self.down_because = reason

    def gone(self, reason: str) -> None:
        """There is nobody to ask any more."""
        self.provider = None
        self.down_because = reason

    @contextmanager
    def lease(self, uncached_tokens: int, now: float) -> Iterator[Lease]:
        """Hold the endpoint for one request; its counters move here and nowhere else."""
        assert self.provider is not None, "a policy chose an endpoint that is not there"
        lease = Lease(self.provider, self.breaker.began(now), self, uncached_tokens)
        self.in_flight += 1
        self.queued_tokens += uncached_tokens
        try:
            yield lease
        finally:
            lease._end_queueing()
            self.in_flight -= 1
            if lease.probe:
                self.breaker.let_go()

    def snapshot(self, model: str, cached_tokens: int, now: float) -> Candidate:
        unavailable = self.unavailable(model, now)
        return Candidate(
            endpoint=self.name,
            models=self.models,
            healthy=unavailable is None,
            unavailable=unavailable,
            context_length=self.context_length,
            in_flight=self.in_flight,
            queued_tokens=self.queued_tokens,
            cached_tokens=cached_tokens,
            dedicated=self.dedicated,
            chosen_at=self.chosen_at.get(model),
            coefficients=self.learning.coefficients,
            price=self.price(model),
        )
