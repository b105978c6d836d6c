"""Keys in Redis or Valkey: one hash, from a key's id to its record."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass

from redis.asyncio import Redis
from redis.exceptions import RedisError

from gateway.admission.key_store import KeyRecord

REPLACE = """
if redis.call('HEXISTS', KEYS[1], ARGV[1]) == 0 then return 0 end
redis.call('HSET', KEYS[1], ARGV[1], ARGV[2])
return 1
"""


@dataclass(frozen=True)
class RedisKeys:
    redis: Redis
    name: str = "{gateway}:keys"

    async def records(self) -> list[KeyRecord]:
        async with translated():
            raw = await self.redis.hgetall(self.name)
        try:
            return [KeyRecord.read(json.loads(value)) for value in raw.values()]
        except (ValueError, TypeError) as error:
            raise OSError(f"a key's record makes no sense: {error}") from None

    async def put(self, record: KeyRecord) -> None:
        async with translated():
            await self.redis.hset(self.name, record.id, json.dumps(record.written()))

    async def replace(self, record: KeyRecord) -> bool:
        text = json.dumps(record.written())
        async with translated():
            return bool(await self.redis.eval(REPLACE, 1, self.name, record.id, text))

    async def remove(self, id: str) -> bool:
        async with translated():
            return bool(await self.redis.hdel(self.name, id))


@asynccontextmanager
async def translated() -> AsyncIterator[None]:
    try:
        yield
    except (RedisError, TimeoutError) as error:
        raise OSError(type(error).__name__) from None
