"""`gateway serve --workers`: one limit, one socket, and a worker that dies comes back."""

from __future__ import annotations

import os
import signal
from pathlib import Path

import anyio
import anyio.to_thread
import httpx
import openai
import pytest

from tests.support.processes import serve
from tests.support.serving import serving
from tests.support.upstream import Upstream

pytestmark = pytest.mark.anyio

CONFIG = """
endpoints: {{e: {{base_url: {url}/v1, models: [m]}}}}
keys:
  - {{name: app, key: sk-some-application}}
  - {{name: ops, key: sk-some-administrator, admin: true}}
tenants: {{default: {{limits: {{requests: {{day: 20}}}}}}}}
"""


def children(pid: int) -> list[int]:
    text = Path(f"/proc/{pid}/task/{pid}/children").read_text()
    return [int(child) for child in text.split()]


def workers(pid: int) -> list[int]:
    return [c for c in children(pid) if b"--worker" in Path(f"/proc/{c}/cmdline").read_bytes()]


def ended(pid: int) -> bool:
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except FileNotFoundError:
        return True
    return state == "Z"  # whoever inherits it has not looked yet


async def until(condition, seconds: float = 30) -> None:
    with anyio.fail_after(seconds):
        while not condition():  # noqa: ASYNC110
            await anyio.sleep(0.1)


async def ask(url: str) -> int:
    """On a connection of its own, so that any worker may take it."""
    async with openai.AsyncOpenAI(
        base_url=f"{url}/v1", api_key="sk-some-application", max_retries=0
    ) as sdk:
        try:
            await sdk.chat.completions.create(
                model="m", messages=[{"role": "user", "content": "hi"}]
            )
        except openai.APIStatusError as error:
            return error.status_code
        return 200


async def finished(url: str) -> float:
    """Exchanges that `/metrics` says were answered."""
    async with httpx.AsyncClient(headers={"authorization": "Bearer sk-some-administrator"}) as web:
        lines = (await web.get(f"{url}/metrics")).text.splitlines()
    return sum(
        float(line.split()[-1])
        for line in lines
        if line.startswith("gateway_exchanges_total") and 'ended="finished"' in line
    )


async def test_two_workers_share_one_limit_and_one_that_dies_comes_back(tmp_path):
    config = tmp_path / "config.yaml"
    async with serving(Upstream()) as upstream:
        config.write_text(CONFIG.format(url=upstream))
        with serve(config, "--port", "0", "--workers", "2") as gateway:
            ready = await anyio.to_thread.run_sync(gateway.wait_for, r'base_url="(\S+)/v1"', 60)
            url = ready[1]
            statuses = [await ask(url) for _ in range(24)]
            assert statuses == [200] * 20 + [429] * 4

            assert await finished(url) == 20, "whichever worker is asked"
            one, other = workers(gateway.process.pid)
            os.kill(one, signal.SIGKILL)
            await anyio.to_thread.run_sync(gateway.wait_for, "starts again", 30)
            assert await ask(url) == 429, "the other one still answers, and knows"
            await until(lambda: len(workers(gateway.process.pid)) == 2)
            everyone = children(gateway.process.pid)
            code = await anyio.to_thread.run_sync(gateway.stop, signal.SIGTERM)
    assert code == 0
    assert other in everyone
    assert all(ended(child) for child in everyone)
    assert not any("sk-some" in line for line in gateway.lines)
    async with httpx.AsyncClient() as client:
        with pytest.raises(httpx.ConnectError):
            await client.get(f"{url}/health")


async def test_a_worker_ends_when_its_parent_is_killed(tmp_path):
    config = tmp_path / "config.yaml"
    async with serving(Upstream()) as upstream:
        config.write_text(CONFIG.format(url=upstream))
        with serve(config, "--port", "0", "--workers", "2") as gateway:
            ready = await anyio.to_thread.run_sync(gateway.wait_for, r'base_url="(\S+)/v1"', 60)
            everyone = children(gateway.process.pid)
            assert len(everyone) == 3, "two workers and the server that they share"
            gateway.process.kill()
            gateway.process.wait()
            await until(lambda: all(ended(pid) for pid in everyone))
            async with httpx.AsyncClient() as client:
                with pytest.raises(httpx.ConnectError):
                    await client.get(f"{ready[1]}/health")
