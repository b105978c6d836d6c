"""The two homes of kept responses do the same."""

from __future__ import annotations

import stat
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path

import pytest

from gateway.front.kept import Kept, ResponseStore
from gateway.state.connect import connect
from gateway.state.embedded import embedded
from gateway.state.responses import Bounds, FileResponses, RedisResponses, prepare
from tests.support.clock import ManualClock

pytestmark = pytest.mark.anyio

Opens = Callable[[Bounds], ResponseStore]


def kept(id: str, text: str = "x") -> Kept:
    return Kept(id, {"id": id, "status": "completed"}, [{"role": "user", "content": text}])


@asynccontextmanager
async def opened(
    home: str, folder: Path, ttl_s: float = 100.0, size: int = 10_000
) -> AsyncIterator[tuple[ResponseStore, ManualClock]]:
    clock, bounds = ManualClock(1_000_000.0), Bounds(ttl_s, size)
    async with AsyncExitStack() as stack:
        store: ResponseStore
        if home == "redis":
            redis = connect(stack.enter_context(embedded()).url, 5.0)
            stack.push_async_callback(redis.aclose)
            store = RedisResponses(redis, bounds, clock)
        else:
            store = FileResponses(folder / "r.sqlite" if home == "file" else None, bounds, clock)
        stack.push_async_callback(store.aclose)
        yield store, clock


homes = pytest.mark.parametrize("home", ["memory", "file", "redis"])


@homes
async def test_what_is_kept_is_its_tenants_until_it_is_removed(home: str, tmp_path: Path) -> None:
    async with opened(home, tmp_path) as (store, _):
        await store.put("a", kept("resp_1"))
        assert await store.get("a", "resp_1") == kept("resp_1")
        assert await store.get("b", "resp_1") is None
        assert not await store.remove("b", "resp_1")
        assert await store.remove("a", "resp_1")
        assert await store.get("a", "resp_1") is None


@homes
async def test_it_is_replaced_by_what_has_its_id(home: str, tmp_path: Path) -> None:
    async with opened(home, tmp_path, size=300) as (store, _):
        for text in ("x" * 150, "y" * 150, "z" * 150):
            await store.put("a", kept("resp_1", text))
        assert await store.get("a", "resp_1") == kept("resp_1", "z" * 150)


@homes
async def test_the_tenants_oldest_give_way(home: str, tmp_path: Path) -> None:
    async with opened(home, tmp_path, size=3000) as (store, clock):
        await store.put("b", kept("resp_b", "x" * 1000))
        for number in range(20):
            clock.now += 1
            await store.put("a", kept(f"resp_{number}", "x" * 500))
        assert await store.get("a", "resp_0") is None
        assert await store.get("a", "resp_19") is not None
        assert await store.get("b", "resp_b") is not None


@homes
async def test_what_is_too_large_for_its_tenant_is_not_kept(home: str, tmp_path: Path) -> None:
    async with opened(home, tmp_path, size=100) as (store, _):
        await store.put("a", kept("resp_1", "x" * 500))
        assert await store.get("a", "resp_1") is None


@pytest.mark.parametrize("home", ["memory", "file"])
async def test_what_is_old_is_not_given(home: str, tmp_path: Path) -> None:
    async with opened(home, tmp_path, ttl_s=10) as (store, clock):
        await store.put("a", kept("resp_1"))
        clock.now += 11
        assert await store.get("a", "resp_1") is None


async def test_redis_forgets_by_itself() -> None:
    with embedded() as server:
        redis = connect(server.url, 5.0)
        await RedisResponses(redis, Bounds(50, 1000), lambda: 0.0).put("a", kept("resp_1"))
        lives = [await redis.ttl(name) async for name in redis.scan_iter()]
        await redis.aclose()
    assert len(lives) == 3
    assert all(0 < left <= 50 for left in lives)


async def test_a_file_outlives_its_process_and_is_its_owners(tmp_path: Path) -> None:
    path = tmp_path / "r.sqlite"
    for _ in range(2):
        store = FileResponses(path, Bounds(100, 1000), lambda: 1.0)
        found = await store.get("a", "resp_1")
        await store.put("a", kept("resp_1"))
        await store.aclose()
    assert found == kept("resp_1")
    assert stat.S_IMODE(path.stat().st_mode) == 0o600


async def test_a_file_that_cannot_be_written_is_an_oserror(tmp_path: Path) -> None:
    (tmp_path / "r.sqlite").write_text(
        "this is no database, and long enough to be seen as none" * 9
    )
    store = FileResponses(tmp_path / "r.sqlite", Bounds(100, 1000))
    with pytest.raises(OSError, match="not a database"):
        await store.put("a", kept("resp_1"))
    with pytest.raises(OSError, match=r"r\.sqlite: file is not a database"):
        prepare(tmp_path / "r.sqlite")
    await store.aclose()


async def test_what_was_never_used_is_not_opened_to_be_closed(tmp_path: Path) -> None:
    await FileResponses(tmp_path / "not-there" / "r.sqlite", Bounds(100, 1000)).aclose()
