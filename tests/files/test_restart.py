"""A batch outlives the process that runs it, and only one of several processes runs it."""

from __future__ import annotations

import asyncio
import json
import os
import signal
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
from openai import AsyncOpenAI

from tests.cli.test_workers import children, workers
from tests.cli.test_workers import ended as gone
from tests.files.world import ask, becomes, begun, content, ended
from tests.support.processes import Serving, serve
from tests.support.serving import serving
from tests.support.upstream import Upstream

pytestmark = pytest.mark.anyio

CONFIG = """
endpoints: {{e: {{base_url: {url}/v1, models: [m]}}}}
files: {{folder: {folder}, batch_concurrency: 4}}
dashboard: false
"""


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


@asynccontextmanager
async def process(config: Path, *arguments: str) -> AsyncIterator[tuple[Serving, AsyncOpenAI]]:
    with serve(config, "--port", "0", *arguments) as served:
        url = (await asyncio.to_thread(served.wait_for, r"listening on (http://[\w.:]+)", 30))[1]
        await asyncio.to_thread(served.wait_for, r"Ready\.", 30)
        async with AsyncOpenAI(base_url=f"{url}/v1", api_key="x", max_retries=5) as sdk:
            yield served, sdk


def config(folder: Path, upstream: str) -> Path:
    file = folder / "config.yaml"
    file.write_text(CONFIG.format(url=upstream, folder=folder / "files"))
    return file


async def test_a_kill_loses_no_line_and_answers_none_twice(tmp_path: Path) -> None:
    upstream = Upstream(gap_s=0.0, delay_s=0.05)
    async with serving(upstream) as url:
        file = config(tmp_path, url)
        async with process(file) as (served, sdk):
            made = await begun(sdk, [ask(n) for n in range(80)])
            await becomes(lambda: len(upstream.received) >= 20, 30)
            assert await asyncio.to_thread(served.stop, signal.SIGKILL) == -signal.SIGKILL
        async with process(file) as (served, sdk):
            seen = await sdk.batches.retrieve(made.id)
            await becomes(lambda: len(upstream.received) >= 50, 30)
            await asyncio.to_thread(served.stop, signal.SIGKILL)
        async with process(file) as (_, sdk):
            batch = await ended(sdk, made.id, 60)
            answers = await content(sdk, batch.output_file_id)
    assert seen.status == "in_progress"
    assert [answer["custom_id"] for answer in answers] == [f"c{n}" for n in range(80)]
    assert batch.request_counts is not None
    assert (batch.request_counts.total, batch.request_counts.completed) == (80, 80)
    asked_for = [received.body["messages"][0]["content"] for received in upstream.received]
    assert set(asked_for) == {f"say {n}" for n in range(80)}
    # What had an answer was not asked for again: only what was under way, twice.
    assert len(asked_for) <= 80 + 2 * 4


async def test_a_good_end_leaves_the_rest_for_the_next_start(tmp_path: Path) -> None:
    upstream = Upstream(hold_at=0)
    async with serving(upstream) as url:
        file = config(tmp_path, url)
        async with process(file) as (served, sdk):
            made = await begun(sdk, [ask(n) for n in range(5)])
            await asyncio.wait_for(upstream.asked.wait(), 10)
            assert await asyncio.to_thread(served.stop) == 0
        upstream.release.set()
        async with process(file) as (_, sdk):
            batch = await ended(sdk, made.id)
    assert batch.request_counts is not None
    assert (batch.request_counts.completed, batch.request_counts.failed) == (5, 0)


async def test_of_several_workers_one_runs_batches_and_another_takes_over(tmp_path: Path) -> None:
    upstream = Upstream(delay_s=0.05)
    async with serving(upstream) as url:
        file = config(tmp_path, url)
        async with process(file, "--workers", "2") as (served, sdk):
            made = await begun(sdk, [ask(n) for n in range(60)])
            await becomes(lambda: len(upstream.received) >= 8, 30)
            leading: list[int] = []

            def led() -> bool:
                leading[:] = [pid for pid in workers(served.process.pid) if leads(pid)]
                return bool(leading)

            await becomes(led)
            (leader,) = leading
            os.kill(leader, signal.SIGKILL)
            await becomes(lambda: gone(leader))
            batch = await ended(sdk, made.id, 60)
            answers = await content(sdk, batch.output_file_id)
            assert children(served.process.pid)
    assert [answer["custom_id"] for answer in answers] == [f"c{n}" for n in range(60)]
    said = [json.dumps(received.body, sort_keys=True) for received in upstream.received]
    assert len(said) <= 60 + 4


def leads(pid: int) -> bool:
    """Whether this process holds the lock."""
    locks = Path("/proc/locks").read_text().splitlines()
    return any("FLOCK" in lock and lock.split()[4] == str(pid) for lock in locks)
