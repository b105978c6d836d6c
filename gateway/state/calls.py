"""The scripts of `scripts.py`, called: charges to keys and values, replies to numbers."""

from __future__ import annotations

import functools
from collections.abc import Awaitable, Mapping, Sequence
from dataclasses import dataclass
from hashlib import sha1

from redis.asyncio import Redis

from gateway.admission.meters import Charge
from gateway.state.scripts import BEAT, GIVE, TAKE

Value = str | int | float


@dataclass(frozen=True, slots=True)
class Calls:
    """Each raises what redis raises; into a pipeline, nothing waits for it here."""

    prefix: str
    gateway: str  # this one's name among the others
    lease_s: float  # after so long without a beat it is dead

    async def load(self, server: Redis) -> None:
        for script in (TAKE, GIVE, BEAT):
            await server.script_load(script)

    def take(
        self, server: Redis, charges: Sequence[Charge], until: float
    ) -> Awaitable[list[bytes]]:
        """After `until`, by its clock, the server does nothing."""
        keys, values = self._begin(until)
        for charge in charges:
            self._add(charge, int(charge.at_most), keys, values)
        return self._call(server, TAKE, keys, values)

    def give(
        self, server: Redis, charges: Sequence[Charge], until: float
    ) -> Awaitable[list[bytes]]:
        keys, values = self._begin(until)
        for charge in charges:
            self._add(charge, 0, keys, values)
        return self._call(server, GIVE, keys, values)

    def beat(
        self,
        server: Redis,
        charges: Sequence[Charge],
        until: float,
        *,
        data: str,  # the name of the server's data, as it was
        fresh: str,  # and as it is to be where it has none
        seen: Mapping[str, float],
        merge: bool,
    ) -> Awaitable[list[bytes]]:
        keys, values = self._begin(until)
        keys.append(f"{self.prefix}data")
        values += [data, fresh, int(merge), 0, 0, 0]
        for charge in charges:
            self._add(charge, seen.get(charge.meter.key, 0.0), keys, values)
        return self._call(server, BEAT, keys, values)

    def _begin(self, until: float) -> tuple[list[str], list[Value]]:
        return [f"{self.prefix}gateways"], [self.gateway, self.lease_s, until]

    def _add(self, charge: Charge, last: Value, keys: list[str], values: list[Value]) -> None:
        meter = charge.meter
        keys.append(self.prefix + meter.key)
        values += [str(meter.kind), meter.limit, meter.window_s, meter.ends, charge.amount, last]

    def _call(
        self, server: Redis, script: str, keys: Sequence[str], values: Sequence[Value]
    ) -> Awaitable[list[bytes]]:
        return server.evalsha(_sha(script), len(keys), *keys, *map(_exact, values))


@functools.cache
def _sha(script: str) -> str:
    return sha1(script.encode(), usedforsecurity=False).hexdigest()  # its name, as Redis has it


def _exact(value: Value) -> Value:
    return repr(value) if isinstance(value, float) else value
