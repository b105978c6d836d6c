"""Whatever watches exchanges, chosen by the config: log, spans, metrics, ledger, dashboard."""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager, nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from starlette.routing import Route

from gateway.admission.limits import Limiter
from gateway.admission.queue import Queue
from gateway.config import Config
from gateway.config.load import policy_files
from gateway.config.tree import Tracing as TracingConfig
from gateway.dashboard.page import Dashboard
from gateway.dashboard.recent import Recent
from gateway.dashboard.siblings import FOLDER as SIBLINGS
from gateway.fleet.fleet import Fleet
from gateway.front.door import Door
from gateway.front.metrics import MetricsPage
from gateway.ledger.ledger import Ledger
from gateway.observers import Later, Observer
from gateway.pacer import Pacers
from gateway.providers.openai_compatible import OpenAICompatible
from gateway.reload import Live
from gateway.rules import Rules
from gateway.telemetry.log import ExchangeLog, flush
from gateway.telemetry.metrics import CONTENT_TYPE, FOLDER, Gauges, Metrics
from gateway.telemetry.trace_context import Sampling, sampling_of, wanted
from gateway.version import installed_version

if TYPE_CHECKING:
    from gateway.telemetry.tracing import Tracing

REFRESH_S, PRUNE_S = 1.0, 600.0


@dataclass
class Seeing:
    """`rules` is asked for, since a reload of the config changes them."""

    config: Config
    door: Door
    fleet: Fleet
    pacers: Pacers
    limiter: Limiter
    queue: Queue
    live: Live
    rules: Callable[[], Rules]
    clock: Callable[[], float]
    tracing: Tracing | None = field(init=False)
    ledger: Ledger | None = field(init=False)
    observer: Later = field(init=False)
    dashboard: Dashboard | None = field(init=False)

    def __post_init__(self) -> None:
        self.tracing = tracing(self.config.tracing, self.clock, self._address)
        books = self.config.ledger
        self.ledger = (
            Ledger(books.file, self.clock, keep_s=books.keep, size=books.size)
            if books.file is not None
            else None
        )
        self.metrics = Metrics(self._gauges)
        recent = Recent(self.clock, time.time) if self.config.dashboard else None
        maybe: list[Observer | None] = [recent, self.tracing, self.ledger]
        self.observer = Later([ExchangeLog(), self.metrics, *filter(None, maybe)])
        self.dashboard = None if recent is None else self._dashboard(recent)

    def routes(self) -> list[Route]:
        page = MetricsPage(self.door, self._exposition, CONTENT_TYPE)
        routes = [Route("/metrics", page.show)]
        if self.dashboard is not None:
            routes += self.dashboard.routes()
        return routes

    async def _exposition(self) -> bytes:
        balances = await self.limiter.balances()
        self._refresh()
        # Thousands of series take a while, in which others are to be answered.
        return await asyncio.to_thread(self.metrics.exposition, balances)

    @asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        """What is still to be written when this ends is written."""
        if self.ledger is not None:
            self.ledger.start()
        if self.tracing is not None:
            self.tracing.queue.start()
        tasks = [asyncio.create_task(self._prune())]
        if os.environ.get(FOLDER):
            tasks.append(asyncio.create_task(self._keep_fresh()))
        siblings = self.dashboard.siblings.running() if self.dashboard else nullcontext()
        try:
            async with siblings:
                yield
        finally:
            for task in tasks:
                task.cancel()
            self.observer.close()
            try:
                self.metrics.refresh()
            finally:
                await asyncio.to_thread(self._close)

    def _dashboard(self, recent: Recent) -> Dashboard:
        folder = os.environ.get(SIBLINGS)
        return Dashboard(
            self.door,
            self.fleet,
            self.pacers,
            self.live,
            recent,
            self.observer.catch_up,
            None if folder is None else Path(folder),
            self.rules,
            self._policy_files,
            self.clock,
            installed_version(),
            time.time(),
        )

    def _close(self) -> None:
        if self.ledger is not None:
            self.ledger.close()
        if self.tracing is not None:
            self.tracing.queue.close()
        flush()

    async def _prune(self) -> None:
        while self.ledger is not None:
            await asyncio.to_thread(self.ledger.prune)
            await asyncio.sleep(PRUNE_S)

    async def _keep_fresh(self) -> None:
        while True:
            self._refresh()
            await asyncio.sleep(REFRESH_S)

    def _refresh(self) -> None:
        self.observer.catch_up()
        self.metrics.refresh()

    def _gauges(self) -> Gauges:
        endpoints, now = self.fleet.endpoints.items(), self.clock()
        return {
            "endpoint_up": {name: float(e.healthy) for name, e in endpoints},
            "endpoint_ejected": {name: float(e.breaker.ejected(now)) for name, e in endpoints},
            "endpoint_half_open": {
                name: float(e.breaker.tripped and not e.breaker.ejected(now))
                for name, e in endpoints
            },
            "endpoint_drained": {name: float(e.drained) for name, e in endpoints},
            "endpoint_in_flight": {name: float(e.in_flight) for name, e in endpoints},
            "endpoint_queued_tokens": {name: float(e.queued_tokens) for name, e in endpoints},
            "queued": {"": len(self.queue)},
            "budget_multiplier": self.pacers.multipliers(),
            "config_generation": {"": self.live.generation},
            "config_reload_ok": {"": float(self.live.last_reload == "ok")},
            "spans_dropped": {"": self.tracing.queue.dropped if self.tracing else 0},
            "ledger_dropped": {"": self.ledger.dropped if self.ledger else 0},
        }

    def _address(self, endpoint: str) -> tuple[str, int] | None:
        provider = self.fleet.endpoints[endpoint].provider
        if not isinstance(provider, OpenAICompatible):
            return None
        url = urlsplit(provider.base_url)
        return url.hostname or "", url.port or (443 if url.scheme == "https" else 80)

    def _policy_files(self) -> Mapping[str, Path]:
        return policy_files(*([self.config.policies] if self.config.policies else []))


def tracing(
    config: TracingConfig,
    clock: Callable[[], float],
    address: Callable[[str], tuple[str, int] | None],
) -> Tracing | None:
    """None unless somebody said where spans go; OpenTelemetry is loaded only then."""
    if not wanted(config.endpoint):
        return None
    from gateway.telemetry import otlp
    from gateway.telemetry.tracing import Tracing

    asked = sampling_of(os.environ)
    return Tracing(
        Sampling(
            asked.share if config.sample is None else config.sample,
            asked.parent_decides,
            config.trust_callers,
        ),
        otlp.factory("gateway", content=config.content, address=address),
        otlp.SpanQueue(otlp.exporter(config.endpoint)),
        config.slow,
        clock,
    )
