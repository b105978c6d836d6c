"""One configured place that serves models, and how busy it is."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field

from gateway.fleet.learning import Learning
from gateway.providers.base import Provider
from routing_policies.base import Candidate, Coefficients, Price

NO_PRICE = Price()


@dataclass(eq=False)
class Lease:
    """One use of an endpoint, held from the choice to the last byte."""

    provider: Provider
    _endpoint: Endpoint
    _queued_tokens: int

    def first_event(self) -> None:
        """The prompt is computed: its tokens no longer stand in the endpoint's queue."""
        self._endpoint.queued_tokens -= self._queued_tokens
        self._queued_tokens = 0


@dataclass(eq=False)
class Endpoint:
    name: str
    models: frozenset[str]  # as clients call them
    context_length: int | None = None
    provider: Provider | None = None  # None while there is nobody to talk to
    down_because: str | None = None
    epoch: str | None = None  # a replica's; see docs/replica-protocol.md
    dedicated: bool = False  # it computes for us alone
    prices: Mapping[str, Price] = field(default_factory=dict)  # by the clients' name of the model
    max_in_flight: int | None = None  # None: as many as come
    freed: Callable[[], None] = lambda: None  # called when a lease is given back
    learning: Learning = field(default_factory=lambda: Learning(Coefficients()))
    chosen_at: dict[str, float] = field(default_factory=dict, init=False)  # by model; monotonic
    in_flight: int = field(default=0, init=False)
    queued_tokens: int = field(default=0, init=False)
    promised: int = field(default=0, init=False)  # room that the queue has given away
    elsewhere: int = field(default=0, init=False)  # in flight from other gateways, when last heard
    queued_elsewhere: int = field(default=0, init=False)

    @property
    def healthy(self) -> bool:
        return self.provider is not None and self.down_because is None

    @property
    def full(self) -> bool:
        limit = self.max_in_flight
        return limit is not None and self.in_flight + self.elsewhere + self.promised >= limit

    def price(self, model: str) -> Price:
        return self.prices.get(model, NO_PRICE)

    def up(self, provider: Provider) -> None:
        self.provider = provider
        self.down_because = None

    def down(self, reason: str) -> None:
        """It does not answer; it may again."""
        self.down_because = reason

    def gone(self, reason: str) -> None:
        """There is nobody to ask any more."""
        self.provider = None
        self.down_because = reason

    @contextmanager
    def lease(self, uncached_tokens: int) -> Iterator[Lease]:
        """Hold the endpoint for one request; its counters move here and nowhere else."""
        assert self.provider is not None, "a policy chose an endpoint that is not there"
        lease = Lease(self.provider, self, uncached_tokens)
        self.in_flight += 1
        self.queued_tokens += uncached_tokens
        try:
            yield lease
        finally:
            lease.first_event()
            self.in_flight -= 1
            self.freed()

    def snapshot(self, model: str, cached_tokens: int) -> Candidate:
        return Candidate(
            endpoint=self.name,
            models=self.models,
            healthy=self.healthy,
            context_length=self.context_length,
            in_flight=self.in_flight + self.elsewhere,
            queued_tokens=self.queued_tokens + self.queued_elsewhere,
            cached_tokens=cached_tokens,
            dedicated=self.dedicated,
            chosen_at=self.chosen_at.get(model),
            coefficients=self.learning.coefficients,
            price=self.price(model),
        )
