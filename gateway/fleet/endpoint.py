"""One configured place that serves models, and how busy it is."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
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
    active_tokens: int  # of its prompt and its answer so far

    def first_event(self) -> None:
        """The prompt is computed: its tokens no longer stand in the endpoint's queue."""
        self._endpoint.queued_tokens -= self._queued_tokens
        self._queued_tokens = 0

    def answered(self, tokens: int) -> None:
        """So much more of the answer is there. Engines send an event for each token, or nearly."""
        self.active_tokens += tokens
        self._endpoint.active_tokens += tokens

    def end(self) -> None:
        self.first_event()
        self._endpoint.active_tokens -= self.active_tokens
        self._endpoint.in_flight -= 1


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
    learning: Learning = field(default_factory=lambda: Learning(Coefficients()))
    chosen_at: dict[str, float] = field(default_factory=dict, init=False)  # by model; monotonic
    waiting: int | None = None  # as it last told, where it does
    kv_usage: float | None = None  # likewise
    in_flight: int = field(default=0, init=False)
    queued_tokens: int = field(default=0, init=False)
    active_tokens: int = field(default=0, init=False)

    @property
    def healthy(self) -> bool:
        return self.provider is not None and self.down_because is None

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
    def lease(self, uncached_tokens: int, cached_tokens: int = 0) -> Iterator[Lease]:
        """Hold the endpoint for one request; its counters move here and nowhere else."""
        assert self.provider is not None, "a policy chose an endpoint that is not there"
        prompt_tokens = uncached_tokens + cached_tokens
        lease = Lease(self.provider, self, uncached_tokens, prompt_tokens)
        self.in_flight += 1
        self.queued_tokens += uncached_tokens
        self.active_tokens += prompt_tokens
        try:
            yield lease
        finally:
            lease.end()

    def snapshot(self, model: str, cached_tokens: int) -> Candidate:
        return Candidate(
            endpoint=self.name,
            models=self.models,
            healthy=self.healthy,
            context_length=self.context_length,
            in_flight=self.in_flight,
            queued_tokens=self.queued_tokens,
            cached_tokens=cached_tokens,
            dedicated=self.dedicated,
            chosen_at=self.chosen_at.get(model),
            coefficients=self.learning.coefficients,
            price=self.price(model),
            active_tokens=self.active_tokens,
            waiting=self.waiting,
            kv_usage=self.kv_usage,
        )
