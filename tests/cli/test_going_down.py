"""`gateway serve` and signals, alone and with workers: who runs ends well, and nothing is left."""

from __future__ import annotations

import signal
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import anyio
import anyio.to_thread
import httpx
import pytest

from tests.support.processes import Serving, serve_and_leave_nothing
from tests.support.serving import NO_TLS, serving
from tests.support.upstream import Upstream

pytestmark = pytest.mark.anyio

CONFIG = """
endpoints: {{e: {{base_url: {url}/v1, models: [m]}}}}
server: {{drain_notice: {notice}}}
state: {{deadline: 2s}}
"""
ASK = {"model": "m", "stream": True, "messages": [{"role": "user", "content": "hi"}]}
WORKERS = pytest.mark.parametrize("workers", ["1", "2"])


class Running:
    """A gateway that answers, in front of an upstream that holds its streams."""

    def __init__(self, serving: Serving, url: str, upstream: Upstream) -> None:
        self.process, self.url, self.upstream = serving.process, url, upstream
        self._serving = serving

    @asynccontextmanager
    async def stream(self) -> AsyncIterator[AsyncIterator[str]]:
        """Its lines, after the first has come."""
        async with (
            httpx.AsyncClient(timeout=60) as client,
            client.stream("POST", f"{self.url}/v1/chat/completions", json=ASK) as answer,
        ):
            lines = answer.aiter_lines()
            assert "Hel" in await anext(lines)
            yield lines

    async def ready(self) -> int | None:
        """What a new connection is told: 0 for nothing, None if it is refused."""
        async with httpx.AsyncClient(timeout=30, verify=NO_TLS) as client:
            try:
                return (await client.get(f"{self.url}/ready")).status_code
            except httpx.ConnectError:
                return None
            except httpx.TransportError:  # nobody had taken it when the socket was closed
                return 0

    async def until_ready_says(self, wanted: int | None, in_a_row: int = 1) -> None:
        said = 0
        with anyio.fail_after(60):
            while said < in_a_row:
                said = said + 1 if await self.ready() == wanted else 0
                await anyio.sleep(0.02)

    async def press(self, number: int) -> None:
        """Again and again: a second signal that comes too soon after the first is one with it."""
        while True:
            self.process.send_signal(number)
            await anyio.sleep(1)

    async def says(self, pattern: str) -> None:
        await anyio.to_thread.run_sync(self._serving.wait_for, pattern, 60)

    async def ended(self) -> int:
        return await anyio.to_thread.run_sync(self.process.wait, 60)


@asynccontextmanager
async def running(folder: Path, workers: str, notice: str = "null") -> AsyncIterator[Running]:
    config, upstream = folder / "config.yaml", Upstream(hold_at=1)
    async with serving(upstream) as url:
        config.write_text(CONFIG.format(url=url, notice=notice))
        with serve_and_leave_nothing(config, "--port", "0", "--workers", workers) as gateway:
            ready = await anyio.to_thread.run_sync(gateway.wait_for, r'base_url="(\S+)/v1"', 60)
            yield Running(gateway, ready[1], upstream)


@WORKERS
async def test_while_it_drains_new_connections_are_refused_and_streams_end_whole(
    tmp_path: Path, workers: str
) -> None:
    async with running(tmp_path, workers) as gateway:
        async with gateway.stream() as lines:
            gateway.process.send_signal(signal.SIGTERM)
            await gateway.until_ready_says(None)
            gateway.upstream.release.set()
            assert "data: [DONE]" in [line async for line in lines]
        assert await gateway.ended() == 0


@WORKERS
async def test_a_second_sigterm_cuts_the_notice_and_not_the_streams(
    tmp_path: Path, workers: str
) -> None:
    async with running(tmp_path, workers, notice="600s") as gateway:
        async with gateway.stream() as lines:
            gateway.process.send_signal(signal.SIGTERM)
            await gateway.until_ready_says(503, in_a_row=10)  # whichever worker answers
            assert gateway.process.poll() is None
            for _ in range(2):  # and a third one nothing
                gateway.process.send_signal(signal.SIGTERM)
                await gateway.until_ready_says(None)
            assert gateway.process.poll() is None
            gateway.upstream.release.set()
            assert "data: [DONE]" in [line async for line in lines]
        assert await gateway.ended() == 0


@WORKERS
async def test_ctrl_c_gives_no_notice_and_a_second_one_does_not_wait(
    tmp_path: Path, workers: str
) -> None:
    async with running(tmp_path, workers, notice="600s") as gateway:
        async with gateway.stream() as lines:
            gateway.process.send_signal(signal.SIGINT)
            await gateway.until_ready_says(None)
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(gateway.press, signal.SIGINT)
                said = [line async for line in lines]
                tasks.cancel_scope.cancel()
            assert "the gateway is shutting down" in "".join(said)
        assert await gateway.ended() == 130


@WORKERS
async def test_a_hangup_ends_nothing_and_has_the_config_read_again(
    tmp_path: Path, workers: str
) -> None:
    async with running(tmp_path, workers) as gateway:
        async with gateway.stream() as lines:
            gateway.process.send_signal(signal.SIGHUP)
            for _ in range(int(workers)):
                await gateway.says("the config was reloaded: generation 2")
            gateway.upstream.release.set()
            assert "data: [DONE]" in [line async for line in lines]
        assert await gateway.ready() == 200
        gateway.process.send_signal(signal.SIGTERM)
        assert await gateway.ended() == 0
