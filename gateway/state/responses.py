"""Kept responses: in a file of SQLite's, or in Redis or Valkey. Both forget by time and by size."""

from __future__ import annotations

import asyncio
import os
import sqlite3
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypeVar

from redis.asyncio import Redis

from gateway.front.kept import Kept
from gateway.state.keys import translated
from gateway.wire.fast_json import dumps, loads

T = TypeVar("T")

BUSY_S = 5.0
"""How long a worker waits while another writes to the file."""

SWEEP_S = 60.0
"""Between looks for what is too old; what was not found yet is not given either."""

SCHEMA = """
CREATE TABLE IF NOT EXISTS responses (
    tenant TEXT NOT NULL, id TEXT NOT NULL, at REAL NOT NULL, size INTEGER NOT NULL,
    kept BLOB NOT NULL, PRIMARY KEY (tenant, id)
) WITHOUT ROWID;
CREATE INDEX IF NOT EXISTS responses_by_age ON responses (tenant, at);
"""


@dataclass(frozen=True, slots=True)
class Bounds:
    ttl_s: float
    size: int  # bytes of each tenant's


@dataclass
class FileResponses:
    """One connection on a thread of its own, so that the event loop never waits for a disk.

    Without a path, in this process's memory, for as long as it runs. Several processes may share a
    file. It is readable for its owner only: prompts and answers stand in it.
    """

    path: Path | None
    bounds: Bounds
    wall: Callable[[], float] = time.time
    _thread: ThreadPoolExecutor = field(
        default_factory=lambda: ThreadPoolExecutor(1, "responses"), repr=False
    )
    _connection: sqlite3.Connection | None = None
    _swept: float = 0.0

    async def put(self, tenant: str, kept: Kept) -> None:
        await self._do(lambda there: self._put(there, tenant, kept.id, _packed(kept)))

    async def get(self, tenant: str, id: str) -> Kept | None:
        since = self.wall() - self.bounds.ttl_s
        query = "SELECT kept FROM responses WHERE tenant = ? AND id = ? AND at > ?"

        def find(there: sqlite3.Connection) -> Kept | None:
            row = there.execute(query, (tenant, id, since)).fetchone()
            return None if row is None else _unpacked(id, row[0])

        return await self._do(find)

    async def remove(self, tenant: str, id: str) -> bool:
        query = "DELETE FROM responses WHERE tenant = ? AND id = ?"
        return bool(await self._do(lambda there: there.execute(query, (tenant, id)).rowcount))

    async def aclose(self) -> None:
        await asyncio.get_running_loop().run_in_executor(self._thread, self._close)
        self._thread.shutdown(wait=False)

    def _close(self) -> None:
        if self._connection is not None:
            self._connection.close()

    def _put(self, there: sqlite3.Connection, tenant: str, id: str, packed: bytes) -> None:
        now = self.wall()
        there.execute(
            "INSERT OR REPLACE INTO responses VALUES (?, ?, ?, ?, ?)",
            (tenant, id, now, len(packed), packed),
        )
        if now - self._swept > SWEEP_S:
            there.execute("DELETE FROM responses WHERE at <= ?", (now - self.bounds.ttl_s,))
            self._swept = now
        total = "SELECT coalesce(sum(size), 0) FROM responses WHERE tenant = ?"
        while there.execute(total, (tenant,)).fetchone()[0] > self.bounds.size:
            there.execute(
                "DELETE FROM responses WHERE (tenant, id) IN"
                " (SELECT tenant, id FROM responses WHERE tenant = ? ORDER BY at LIMIT 8)",
                (tenant,),
            )

    async def _do(self, work: Callable[[sqlite3.Connection], T]) -> T:
        def on_the_thread() -> T:
            try:
                if self._connection is None:
                    self._connection = _opened(self.path)
                return work(self._connection)
            except sqlite3.Error as error:
                raise OSError(f"{self.path}: {error}") from None

        return await asyncio.get_running_loop().run_in_executor(self._thread, on_the_thread)


def prepare(path: Path) -> None:
    """Make the file if it is not there. Raises OSError where it cannot be used."""
    try:
        _opened(path).close()
    except (OSError, sqlite3.Error) as error:
        raise OSError(f"{path}: {error}") from None


def _opened(path: Path | None) -> sqlite3.Connection:
    if path is not None:
        os.close(os.open(path, os.O_CREAT | os.O_WRONLY, 0o600))
    with ExitStack() as stack:
        there = sqlite3.connect(path or ":memory:", timeout=BUSY_S, isolation_level=None)
        stack.callback(there.close)
        there.execute("PRAGMA journal_mode = WAL")
        there.execute("PRAGMA synchronous = NORMAL")
        there.executescript(SCHEMA)
        stack.pop_all()
    return there


PUT = """
local before = redis.call('HGET', KEYS[3], ARGV[1])
redis.call('SET', KEYS[1] .. ARGV[1], ARGV[2], 'EX', ARGV[4])
redis.call('ZADD', KEYS[2], ARGV[3], ARGV[1])
redis.call('HSET', KEYS[3], ARGV[1], #ARGV[2])
redis.call('HINCRBY', KEYS[3], 'total', #ARGV[2] - (before or 0))
local function forget(id)
    redis.call('DEL', KEYS[1] .. id)
    redis.call('ZREM', KEYS[2], id)
    redis.call('HINCRBY', KEYS[3], 'total', 0 - (redis.call('HGET', KEYS[3], id) or 0))
    redis.call('HDEL', KEYS[3], id)
end
for _, id in ipairs(redis.call('ZRANGEBYSCORE', KEYS[2], '-inf', ARGV[3] - ARGV[4])) do
    forget(id)
end
while tonumber(redis.call('HGET', KEYS[3], 'total')) > tonumber(ARGV[5]) do
    local oldest = redis.call('ZRANGE', KEYS[2], 0, 0)[1]
    if not oldest then break end
    forget(oldest)
end
redis.call('EXPIRE', KEYS[2], ARGV[4])
redis.call('EXPIRE', KEYS[3], ARGV[4])
"""
"""KEYS: what stands before an id, the tenant's ids by age, their sizes. ARGV: id, what is kept,
Unix seconds, how long, the tenant's bytes at most. One hash tag keeps them on one server."""

REMOVE = """
redis.call('ZREM', KEYS[2], ARGV[1])
redis.call('HINCRBY', KEYS[3], 'total', 0 - (redis.call('HGET', KEYS[3], ARGV[1]) or 0))
redis.call('HDEL', KEYS[3], ARGV[1])
return redis.call('DEL', KEYS[1] .. ARGV[1])
"""


@dataclass
class RedisResponses:
    redis: Redis
    bounds: Bounds
    wall: Callable[[], float] = time.time
    prefix: str = "{gateway}:responses"

    async def put(self, tenant: str, kept: Kept) -> None:
        bounds = (int(self.wall()), max(1, int(self.bounds.ttl_s)), self.bounds.size)
        async with translated():
            await self._eval(PUT, tenant, kept.id, _packed(kept), *bounds)

    async def get(self, tenant: str, id: str) -> Kept | None:
        async with translated():
            packed = await self.redis.get(self._names(tenant)[0] + id)
        return None if packed is None else _unpacked(id, packed)

    async def remove(self, tenant: str, id: str) -> bool:
        async with translated():
            return bool(await self._eval(REMOVE, tenant, id))

    async def aclose(self) -> None:
        """The connection is the gateway's."""

    async def _eval(self, script: str, tenant: str, *args: str | bytes | int) -> object:
        return await self.redis.eval(script, 3, *self._names(tenant), *args)

    def _names(self, tenant: str) -> tuple[str, str, str]:
        name = f"{self.prefix}:{tenant.encode().hex()}"  # no tenant's name ends in another's id
        return f"{name}:one:", f"{name}:ages", f"{name}:sizes"


def _packed(kept: Kept) -> bytes:
    return dumps([kept.response, kept.items])


def _unpacked(id: str, packed: bytes | str) -> Kept:
    response, items = loads(packed.encode() if isinstance(packed, str) else packed)
    return Kept(id, response, items)
