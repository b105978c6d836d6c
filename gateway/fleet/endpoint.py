"""One configured place that serves models, and how busy it is."""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from gateway.domain import EndpointStats
from gateway.errors import UpstreamBusy, UpstreamError, UpstreamOverloaded
from gateway.fleet.breaker import Breaker
from gateway.fleet.capacity import Capacity
from gateway.fleet.learning import Learning
from gateway.fleet.load import IDLE, Load, OthersLoad
from gateway.fleet.places import Places
from gateway.providers.base import Continuation, Provider
from gateway.tariffs import Machine, Tariff, Tariffs
from routing_policies.base import DATA_POLICIES, Candidate, Coefficients, Price

NO_TARIFF = Tariff()

EJECTED = "ejected"

LONGEST_REST_S = 60.0
"""What an endpoint says of its own return is believed for so long, and then tried."""


@dataclass(frozen=True, slots=True)
class Rest:
    """An endpoint said of a model when to come back."""

    until: float  # monotonic
    error: UpstreamError


@dataclass(eq=False, slots=True)
class Lease:
    """One use of an endpoint, from the choice to the last byte; to end it twice does no harm."""

    provider: Provider
    probe: object | None  # of an endpoint that was ejected; see Breaker.began
    tenant: str
    _endpoint: Endpoint
    _queued_tokens: int
    active_tokens: int  # of its prompt and its answer so far
    _over: bool = False

    def __enter__(self) -> Lease:
        return self

    def __exit__(self, *_: object) -> None:
        self.end()

    def first_event(self, now: float) -> None:
        """The prompt is computed: its tokens no longer stand in the endpoint's queue."""
        self._endpoint.reached = True
        self._endpoint.breaker.answers(now)
        self._end_queueing()

    def _end_queueing(self) -> None:
        self._endpoint.queued_tokens -= self._queued_tokens
        self._queued_tokens = 0

    def answered(self, tokens: int) -> None:
        """So much more of the answer is there. Engines send an event for each token, or nearly."""
        self.active_tokens += tokens
        self._endpoint.active_tokens += tokens

    def end(self) -> None:
        if self._over:
            return
        self._over = True
        self._end_queueing()
        endpoint = self._endpoint
        endpoint.active_tokens -= self.active_tokens
        endpoint.in_flight -= 1
        endpoint.places.ended(self.tenant)
        if self.probe is not None:
            endpoint.breaker.let_go(self.probe)
        endpoint.freed()


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
    capabilities: frozenset[str] | None = None  # None: not known
    data_policy: str = DATA_POLICIES[0]
    region: str | None = None
    tariffs: Tariffs = field(default_factory=dict)
    machine: Machine | None = None  # None: what runs is not ours to pay by the hour
    max_in_flight: int | None = None  # None: as many as come
    capacity: Capacity | None = None  # where the number is to be learnt
    places: Places = field(default_factory=Places)
    freed: Callable[[], None] = lambda: None  # called when a lease is given back
    learning: Learning = field(default_factory=lambda: Learning(Coefficients()))
    chosen_at: dict[str, float] = field(default_factory=dict, init=False)  # by model; monotonic
    waiting: int | None = None  # as it last told, where it does
    kv_usage: float | None = None  # likewise
    in_flight: int = field(default=0, init=False)
    queued_tokens: int = field(default=0, init=False)
    promised: int = field(default=0, init=False)  # room that the queue has given away
    elsewhere: Load = field(default=IDLE, init=False)  # other gateways', when last heard
    share: float = field(default=1.0, init=False)  # of its places, while the others are not heard
    active_tokens: int = field(default=0, init=False)
    _others: OthersLoad = field(default_factory=OthersLoad, init=False)
    _used: float | None = field(default=None, init=False)  # when its last answer ended
    _woken: float | None = field(default=None, init=False)  # when it was sent what made it start
    draw: Callable[[], float] = random.random
    breaker: Breaker = field(init=False)
    failing: str | None = field(default=None, init=False)  # with what it last did
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
    def limit(self) -> int | None:
        """Requests of ours at a time, other gateways' included; None: as many as come."""
        limit = self.max_in_flight
        if self.capacity is not None and self.capacity.limit is not None:
            limit = min(limit or self.capacity.limit, self.capacity.limit)
        if limit is None or self.share == 1.0:
            return limit
        return max(1, int(limit * self.share)) if self.share else 0

    def full(self, tenant: str, now: float) -> bool:
        """For a request of this tenant."""
        limit = self.limit
        if limit is None:
            return False
        room = limit - self._ours - self.promised
        return room <= 0 or room <= self.places.kept_from(tenant, limit, now)

    @property
    def _ours(self) -> int:
        return self.in_flight + self.elsewhere.in_flight

    @property
    def _taken(self) -> int:
        """Places in use, and those that nobody who wants one more may have."""
        limit = self.limit
        return self._ours + (0 if limit is None else self.places.spare(limit))

    def promise(self, tenant: str, count: int = 1) -> None:
        """The queue gives a place away; -1: it was taken, or was not wanted."""
        self.promised += count
        self.places.promise(tenant, count)

    def held_by_tenant(self) -> dict[str, int]:
        return {tenant: use.held for tenant, use in self.places.users.items() if use.held}

    def heard(self, elsewhere: Load, tenants: Mapping[str, int]) -> None:
        """What other gateways have there."""
        self.elsewhere = elsewhere
        self.places.heard(tenants)

    @property
    def ready(self) -> bool:
        return self.healthy and self.reached

    def unavailable(self, model: str, now: float) -> str | None:
        """Why no request for `model` should be sent there."""
        if self.drained:
            return "drained"
        if self.provider is None or self.down_because is not None:
            return self.down_because or "not there yet"
        if self._rests and self.resting(model, now) is not None:
            return "resting"
        return EJECTED if self.breaker.ejected(now) else None

    def resting(self, model: str, now: float) -> Rest | None:
        rest = self._rests.get(model)
        return rest if rest is not None and now < rest.until else None

    def is_peer_of(self, other: Endpoint) -> bool:
        """Of one kind, and they serve a model in common; itself as well."""
        return self.dedicated == other.dedicated and not self.models.isdisjoint(other.models)

    def tariff(self, model: str) -> Tariff:
        return self.tariffs.get(model, NO_TARIFF)

    def sent(self, model: str, now: float) -> None:
        self.chosen_at[model] = now
        if self.stopped(now):
            self._woken = now

    def answered(self, at: float) -> None:
        """Its machine runs, and from here on counts the time until it stops."""
        self._used, self._woken = max(at, self._used or at), None

    def stopped(self, now: float) -> bool:
        """Its machine stands still, as far as we know: somebody else may have woken it."""
        if self.machine is None or self.machine.stops_after_s is None or self.in_flight:
            return False
        return self._used is None or now - self._used >= self.machine.stops_after_s

    def start_usd(self, now: float) -> float:
        """What it costs to start its machine, if that stands still."""
        return self.machine.start_usd() if self.machine and self.stopped(now) else 0.0

    def starts_in(self, now: float) -> float:
        """Seconds until its machine can begin with what it is sent now."""
        if self.machine is None:
            return 0.0
        if self.stopped(now):
            return self.machine.starts_in_s
        return (
            0.0 if self._woken is None else max(0.0, self._woken + self.machine.starts_in_s - now)
        )

    def up(self, provider: Provider) -> None:
        if provider is not self.provider:  # another life owes nothing for the last
            self.breaker, self._rests = Breaker(self.draw), {}
        self.provider, self.continuation = provider, provider.continuation
        self.down_because = None

    def finished(self, now: float) -> None:
        """An attempt there went well; its lease is not over yet."""
        self.breaker.succeeded(now)
        if self.capacity is not None:
            self.capacity.answered(self._taken)

    def failed(
        self, model: str, error: UpstreamError, now: float, began: float = float("inf")
    ) -> None:
        """An attempt failed by its fault. Being full is no defect, and is over when it says so."""
        if self.capacity is not None and isinstance(error, UpstreamBusy | UpstreamOverloaded):
            self.capacity.refused(self._ours, began, now)
        wait = min(error.retry_after_s or 0.0, LONGEST_REST_S)
        if isinstance(error, UpstreamBusy | UpstreamOverloaded) and wait > 0:
            self._rests[model] = Rest(now + wait, error)
        elif not isinstance(error, UpstreamBusy):
            self.failing = error.message
            self.breaker.failed(now)

    def down(self, reason: str) -> None:
        """It does not answer, and this is how; it may again."""
        self.down_because = reason

    def gone(self, reason: str) -> None:
        """There is nobody to ask any more."""
        self._others.forget()
        self.provider = None
        self.down_because = reason

    @property
    def load(self) -> Load:
        """What is ours of it."""
        return Load(self.in_flight, self.queued_tokens)

    def told(self, stats: EndpointStats, ours: Load, now: float) -> None:
        """Asked of itself, with `ours` in use when it was asked; an engine that tells how many
        requests wait, and not how long they are, has them as long as ours are."""
        self.context_length = stats.context_length or self.context_length
        self._others.waiting, self._others.kv_usage = stats.waiting, stats.kv_usage
        if stats.running is None:
            return
        waiting = stats.waiting or 0
        queued = stats.report.queued_tokens if stats.report else waiting * self._uncached_tokens()
        most = Load(*map(max, ours, self.load))
        if self.capacity is not None:
            self.capacity.told(stats.running, waiting, self._taken)
        self._others.told(Load(stats.running + waiting, queued), most, now)

    def _uncached_tokens(self) -> int:
        return round(self.learning.uncached_tokens)

    def lease(
        self, uncached_tokens: int, now: float, cached_tokens: int = 0, tenant: str = "default"
    ) -> Lease:
        """Hold the endpoint for one request, from now until the lease ends; its counters move here
        and nowhere else."""
        assert self.provider is not None, "a policy chose an endpoint that is not there"
        probe, prompt_tokens = self.breaker.began(now), uncached_tokens + cached_tokens
        self.in_flight += 1
        self.places.began(tenant, now)
        self.queued_tokens += uncached_tokens
        self.active_tokens += prompt_tokens
        return Lease(self.provider, probe, tenant, self, uncached_tokens, prompt_tokens)

    def snapshot(self, model: str, cached_tokens: int, price: Price, now: float) -> Candidate:
        machine, others, provider = self.machine, self._others, self.provider
        theirs, elsewhere = others.at(now), self.elsewhere
        unavailable = self.unavailable(model, now)
        facts = (
            self.name,
            self.models,
            unavailable is None,
            unavailable,
            self.context_length,
            self.in_flight + max(theirs.in_flight, elsewhere.in_flight),
            self.queued_tokens + max(theirs.queued_tokens, elsewhere.queued_tokens),
            cached_tokens,
            self.dedicated,
            provider is not None and provider.rests_s() > 0,  # by its own word it would refuse
            self.chosen_at.get(model),
            self.learning.recent(now),
            price,
            self.start_usd(now),
            self.starts_in(now) if machine else 0.0,
            self.capabilities,
            self.data_policy,
            self.region,
            others.age_s(now),
            others.kv_usage,
            self.active_tokens,
            others.waiting,
        )
        return tuple.__new__(Candidate, facts)
