"""The event loop: requests arrive, gateways choose, servers answer, all on a virtual clock."""

from __future__ import annotations

import math
import random
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from heapq import heappop, heappush

from gateway.domain import Usage
from gateway.replay.gateways import (
    Exchange,
    Gateway,
    Setup,
    inference_request,
    look_around,
    look_inside,
    make_gateways,
)
from gateway.replay.machines import Machines
from gateway.replay.server import Job, Server
from gateway.replay.trace import Trace, TraceRequest
from routing_policies.policy import Policy


@dataclass(frozen=True, slots=True)
class Answer:
    """How one request of the trace went. Times are seconds since the trace began."""

    request: TraceRequest
    endpoint: str
    first_s: float
    last_s: float
    cached_tokens: int
    cost_usd: float

    @property
    def ttft_s(self) -> float:
        return self.first_s - self.request.arrival_s

    @property
    def e2e_s(self) -> float:
        return self.last_s - self.request.arrival_s

    @property
    def tpot_s(self) -> float:
        """Mean time of an answer's tokens after the first; 0 when there is only one."""
        return (self.last_s - self.first_s) / max(1, self.request.output_tokens - 1)


class Simulation:
    """One trace, one policy, once."""

    def __init__(
        self, trace: Trace, policy: Policy, machines: Machines, gateways: Setup, seed: int
    ) -> None:
        self.now = 0.0
        self.servers: Mapping[str, Server] = machines.servers(trace.block_size)
        self._draws = random.Random(seed)
        self.gateways = make_gateways(
            gateways, machines.endpoints, policy, lambda: self.now, self._draws
        )
        self._trace = trace
        self._poll_s = gateways.poll_s
        self._next_poll = 0.0
        self._stats_s = gateways.stats_s
        self._next_stats = 0.0
        self._due: list[tuple[float, str]] = []  # heap of servers; an entry may be out of date
        self._open: dict[int, tuple[Gateway, Exchange]] = {}  # by the request's place in the trace
        self._answers: dict[int, Answer] = {}

    def run(self, progress: Callable[[int], None] = lambda arrived: None) -> Sequence[Answer]:
        """One answer for each request, in the trace's order. `progress` hears of every arrival.

        Raises NobodyLeft, or ValueError for a request that no cache could hold.
        """
        for number, request in enumerate(self._trace.requests):
            self._advance(until=request.arrival_s)
            self._arrive(number, request)
            progress(number + 1)
        self._advance(until=math.inf)
        return [self._answers[number] for number in range(len(self._trace.requests))]

    def _arrive(self, number: int, request: TraceRequest) -> None:
        self._move(request.arrival_s)
        gateway = self._draws.choice(self.gateways)
        exchange = gateway.open(inference_request(request, self._trace.block_size))
        self._open[number] = gateway, exchange
        name = exchange.attempt.endpoint
        self.servers[name].submit(Job(number, request), self.now)
        self._schedule(name)

    def _advance(self, until: float) -> None:
        while self._due and self._due[0][0] <= until:
            due, name = heappop(self._due)
            server = self.servers[name]
            if server.due != due:
                continue  # a request that came in between changed its plan
            self._move(due)
            before = server.steps
            told = server.advance(due)
            for gateway in self.gateways:
                gateway.stepped(name, server.steps - before)
            for progress in told:
                if progress.finished:
                    self._finish(progress.job, server)
                else:
                    gateway, exchange = self._open[progress.job.number]
                    gateway.first_event(exchange, server.steps)
            self._schedule(name)

    def _finish(self, job: Job, server: Server) -> None:
        gateway, exchange = self._open.pop(job.number)
        request, attempt = job.request, exchange.attempt
        usage = Usage(request.prompt_tokens, request.output_tokens, job.cached_tokens)
        gateway.finished(exchange, server.steps, usage, server.report(self.now))
        assert attempt.first_event is not None, "an answer ended before it began"
        self._answers[job.number] = Answer(
            request,
            attempt.endpoint,
            attempt.first_event,
            self.now,
            job.cached_tokens,
            job.cost_usd,
        )

    def _schedule(self, name: str) -> None:
        due = self.servers[name].due
        if due is not None:
            heappush(self._due, (due, name))

    def _move(self, now: float) -> None:
        """Turn the clock. Nothing has happened since the last event, so a look at the other
        gateways or at the engines that was due in between sees what it would have seen then."""
        if self._poll_s is not None and now >= self._next_poll:
            look_around(self.gateways)
            self._next_poll = now - now % self._poll_s + self._poll_s
        if now >= self._next_stats:
            look_inside(self.gateways, self.servers)
            self._next_stats = now - now % self._stats_s + self._stats_s
        self.now = now
