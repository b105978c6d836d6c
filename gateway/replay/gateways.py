"""A gateway of the simulation: plays the part of `dispatch.py` over the live fleet and policy.

This is the joint between what is simulated and what serves: `inference_request` makes of a trace's
record what the wire makes of a client's bytes, and `Gateway` calls fleet, policy and lease in the
order in which the dispatcher does.
"""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager
from dataclasses import astuple, dataclass, field
from typing import NoReturn

from gateway.domain import (
    Attempt,
    Ended,
    EndpointStats,
    InferenceRequest,
    Operation,
    Outcome,
    PrefixKey,
    Principal,
    ReplicaReport,
    Usage,
)
from gateway.fleet.endpoint import Endpoint, Lease
from gateway.fleet.fleet import Clock, Fleet
from gateway.fleet.placement import Match, PlacementIndex
from gateway.replay.server import Server
from gateway.replay.trace import TraceRequest
from routing_policies.base import Candidate, Context, Ranked
from routing_policies.policy import Policy

MODEL = "model"
TOKEN_BYTES = 4  # near enough to English; the fleet learns the ratio as it does when serving
NO_MATCH = Match(size=0, tokens=None, touched=0.0)
NOBODY = Principal(tenant="replay", key_name="replay")


class NobodyLeft(ValueError):
    """A policy's filters turned every endpoint away."""


@dataclass(frozen=True, slots=True)
class Setup:
    """How many gateways share the endpoints, and what each knows of the others.

    `counters`: "own" (nothing of the others), "exact", or the seconds between two looks at them.
    `stats_s`: the seconds between two looks at what the engines tell of themselves.
    """

    count: int = 1
    counters: float | str = "exact"
    shared_index: bool = True
    stats_s: float = 0.2

    def __post_init__(self) -> None:
        if self.count < 1:
            raise ValueError("there must be at least one gateway")
        if isinstance(self.counters, str):
            if self.counters not in ("own", "exact"):
                raise ValueError("counters are own, exact, or a number of seconds")
        elif not min(self.counters, self.stats_s) > 0:
            raise ValueError("the time between two looks must be above 0")

    @property
    def poll_s(self) -> float | None:
        return None if isinstance(self.counters, str) else self.counters


class Unconnected:
    """An endpoint's provider, so that it counts as there; the simulation sends nothing over it."""

    continuation = None

    def open(
        self, request: InferenceRequest, request_id: str
    ) -> AbstractAsyncContextManager[NoReturn]:
        raise NotImplementedError("a simulated endpoint is not connected")

    async def stats(self) -> None:
        return None

    async def count(self, request: InferenceRequest) -> int | None:
        return None

    def rests_s(self) -> float:
        return 0.0

    async def probe(self) -> None:
        return None


@dataclass(eq=False, slots=True)
class Exchange:
    """One request at one endpoint, from the choice to the last token."""

    attempt: Attempt
    outcome: Outcome
    lease: Lease
    steps: int = 0  # of the server, by its first token


@dataclass(frozen=True, slots=True)
class Load:
    """What of one endpoint is in use by somebody."""

    in_flight: int = 0
    queued_tokens: int = 0
    active_tokens: int = 0


@dataclass(eq=False)
class Gateway:
    fleet: Fleet
    policy: Policy
    clock: Clock
    random: random.Random
    # Endpoint -> what the other gateways had there when this one last looked.
    others: Mapping[str, Load] = field(default_factory=dict)
    _answering: Counter[str] = field(default_factory=Counter)  # exchanges past their first token

    def open(self, request: InferenceRequest) -> Exchange:
        """Choose an endpoint and lease it. Raises NobodyLeft."""
        asked, candidates, matches = self.fleet.snapshot(request)
        context = Context(now=self.clock(), draw=self.random.random())
        decision = self.policy.decide(asked, self._with_others(candidates), context)
        if not decision.ranked:
            raise NobodyLeft(
                f"{self.policy.name} dropped every endpoint: {', '.join(decision.dropped.values())}"
            )
        choice = decision.ranked[0]
        endpoint = self.fleet.endpoints[choice.candidate.endpoint]
        attempt = self._attempt(choice, matches.get(endpoint.name, NO_MATCH))
        outcome = Outcome("", NOBODY, attempt.started, request=request, attempts=[attempt])
        self.fleet.sent(request, endpoint.name)
        estimate = choice.estimate
        lease = endpoint.lease(estimate.uncached_tokens, self.clock(), estimate.cached_tokens)
        return Exchange(attempt, outcome, lease)

    def first_event(self, exchange: Exchange, steps: int) -> None:
        exchange.attempt.first_event = now = self.clock()
        exchange.lease.first_event(now)
        exchange.lease.answered(1)
        exchange.steps = steps
        self._answering[exchange.attempt.endpoint] += 1

    def stepped(self, name: str, steps: int) -> None:
        """Every answer under way at a server grew by so many tokens."""
        self.fleet.endpoints[name].active_tokens += steps * self._answering[name]

    def finished(
        self, exchange: Exchange, steps: int, usage: Usage, report: ReplicaReport | None
    ) -> None:
        exchange.attempt.last_event = self.clock()
        name = exchange.attempt.endpoint
        exchange.lease.active_tokens += steps - exchange.steps  # `stepped` has told the endpoint
        self._answering[name] -= 1
        exchange.lease.end()
        outcome = exchange.outcome
        outcome.usage, outcome.report = usage, report
        outcome.ended, outcome.finished = Ended.FINISHED, self.clock()
        self.fleet.settled(outcome)

    def load(self) -> Mapping[str, Load]:
        return {
            name: Load(e.in_flight, e.queued_tokens, e.active_tokens)
            for name, e in self.fleet.endpoints.items()
        }

    def _attempt(self, choice: Ranked, match: Match) -> Attempt:
        candidate, estimate = choice.candidate, choice.estimate
        return Attempt(
            candidate.endpoint,
            self.clock(),
            in_flight=candidate.in_flight,
            queued_tokens=candidate.queued_tokens,
            expected_cached_tokens=estimate.cached_tokens,
            expected_ttft_s=estimate.ttft_s,
            expected_cost_usd=estimate.cost_usd,
            matched_size=match.size,
            matched_tokens=match.tokens,
            matched_touched=match.touched,
        )

    def _with_others(self, candidates: Sequence[Candidate]) -> Sequence[Candidate]:
        if not self.others:
            return candidates
        return [_added(candidate, self.others[candidate.endpoint]) for candidate in candidates]


def _added(candidate: Candidate, others: Load) -> Candidate:
    return candidate._replace(
        in_flight=candidate.in_flight + others.in_flight,
        queued_tokens=candidate.queued_tokens + others.queued_tokens,
        active_tokens=candidate.active_tokens + others.active_tokens,
    )


def look_around(gateways: Sequence[Gateway]) -> None:
    """Tell every gateway what the others have in use at this moment."""
    loads = [gateway.load() for gateway in gateways]
    for own, gateway in zip(loads, gateways, strict=True):
        gateway.others = {
            name: _sum(load[name] for load in loads if load is not own) for name in own
        }


def _sum(loads: Iterable[Load]) -> Load:
    return Load(*map(sum, zip(*map(astuple, loads), strict=True)))


def look_inside(gateways: Sequence[Gateway], servers: Mapping[str, Server]) -> None:
    """Ask every server that tells of itself, as `fleet/watch.py` does."""
    for name, server in servers.items():
        waiting, kv_usage = server.stats()
        told = EndpointStats(waiting=waiting, kv_usage=kv_usage)
        for gateway in gateways:
            endpoint = gateway.fleet.endpoints[name]
            endpoint.told(told, endpoint.load, gateway.clock())


def inference_request(request: TraceRequest, block_size: int) -> InferenceRequest:
    """The request as the wire would hand it on: a prefix key at the end of every block."""
    prefix = tuple(
        PrefixKey(
            block.to_bytes(16, "big"), min(end * block_size, request.prompt_tokens) * TOKEN_BYTES
        )
        for end, block in enumerate(request.blocks, 1)
    )
    return InferenceRequest(
        operation=Operation.CHAT,
        model=MODEL,
        forwarded={},
        stream=True,
        include_usage=True,
        max_tokens=None,
        prompt_size=request.prompt_tokens * TOKEN_BYTES,
        prefix=prefix,
        cache_salt="",
        tenant=request.tenant,
    )


def make_gateways(
    setup: Setup,
    endpoints: Callable[[], Sequence[Endpoint]],
    policy: Policy,
    clock: Clock,
    draws: random.Random,
) -> list[Gateway]:
    """Shared counters are one set of `Endpoint`s, shared placements one `PlacementIndex`."""
    shared_endpoints, shared_index = endpoints(), PlacementIndex()
    return [
        Gateway(
            Fleet(
                shared_endpoints if setup.counters == "exact" else endpoints(),
                shared_index if setup.shared_index else PlacementIndex(),
                clock,
            ),
            policy,
            clock,
            draws,
        )
        for _ in range(setup.count)
    ]
