"""Asks every endpoint how it is: of itself, again and again, those that tell; for something free,
while we do not know whether they are there, the others."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable

from gateway.errors import GatewayError, UpstreamError, UpstreamTimeout, UpstreamUnreachable
from gateway.fleet.condition import Changes
from gateway.fleet.endpoint import Endpoint
from gateway.fleet.fleet import Clock, Fleet
from gateway.providers.base import Provider

logger = logging.getLogger(__name__)

PERIOD_S = 1.0
MISSES = 3
"""Answers in a row that an endpoint may owe before it counts as down."""

PROBE_EVERY = 5
"""Periods, of an endpoint that tells nothing of itself and is not known to be there."""


def _nothing() -> None: ...


async def watch(
    fleet: Fleet,
    clock: Clock,
    period_s: float = PERIOD_S,
    on_reached: Callable[[], None] = _nothing,
) -> None:
    """Never returns. An endpoint that is slow to answer delays no other's turn."""
    async with asyncio.TaskGroup() as tasks:
        tasks.create_task(Changes(fleet.endpoints.values(), clock).run(period_s))
        for endpoint in fleet.endpoints.values():
            watcher = _Watcher(fleet, endpoint, clock, on_reached)
            tasks.create_task(watcher.run(period_s))


class _Watcher:
    def __init__(
        self, fleet: Fleet, endpoint: Endpoint, clock: Clock, on_reached: Callable[[], None]
    ) -> None:
        self._fleet = fleet
        self._endpoint = endpoint
        self._clock = clock
        self._on_reached = on_reached
        self._missed, self._asked_last = 0, endpoint.provider
        self._periods = 0  # since the last probe

    async def run(self, period_s: float) -> None:
        while True:
            try:
                await self._turn()
            except Exception:  # a rim: a defect in one's turn ends nobody's watch
                logger.exception("endpoint %s could not be asked how it is", self._endpoint.name)
            await asyncio.sleep(period_s)

    async def _turn(self) -> None:
        provider = self._endpoint.provider
        if provider is not self._asked_last:
            self._missed, self._asked_last = 0, provider  # owes nothing for another life
        if provider is not None:
            await self._ask(provider)

    async def _ask(self, provider: Provider) -> None:
        asked, ours = self._clock(), self._endpoint.load
        if self._endpoint.stopped(asked):
            self._is_there(provider)  # to ask would start what is billed, or keep it from stopping
            return
        try:
            stats = await provider.stats()
        except GatewayError as error:  # no caller asked this: it is between us and the endpoint
            self._miss(provider, error)
            return
        if stats is None:
            await self._probe(provider)
        elif self._is_there(provider):
            self._endpoint.told(stats, ours, self._clock())
            if stats.report is not None:
                self._fleet.reported(self._endpoint.name, stats.report, asked)

    async def _probe(self, provider: Provider) -> None:
        self._periods -= 1
        if self._endpoint.ready or self._periods > 0:
            return
        self._periods = PROBE_EVERY
        try:
            await provider.probe()
        except UpstreamUnreachable as error:
            self._miss(provider, error)
        except UpstreamTimeout:
            pass  # it took the connection: it may hold what it is asked until it is awake
        except GatewayError:
            self._is_somebody(provider)  # what is wrong, requests will find out
        else:
            self._is_there(provider)

    def _miss(self, provider: Provider, error: GatewayError) -> None:
        self._missed += 1
        if self._missed >= MISSES and self._endpoint.provider is provider:
            ours = isinstance(error, UpstreamError)  # other words are the endpoint's own
            self._endpoint.down(error.message if ours else "it does not tell how it is")

    def _is_somebody(self, provider: Provider) -> bool:
        """False when it is a later life that is asked by now."""
        self._missed = 0
        if self._endpoint.provider is not provider:
            return False
        self._endpoint.up(provider)
        return True

    def _is_there(self, provider: Provider) -> bool:
        """And well."""
        if not self._is_somebody(provider):
            return False
        self._endpoint.reached = True
        self._on_reached()
        return True
