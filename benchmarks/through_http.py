"""What a client of `gateway serve` gets: tokens per second, and time to the first token.

    python -m benchmarks.through_http [--threads N]

One replica of the real model, of N threads, behind the gateway, over HTTP, streamed. Each figure is
the median of `RUNS` runs. Prompts differ between runs, so that "cold" is cold. "Outside the engine"
is the share of the time in which no step was in progress.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import httpx
from openai import AsyncOpenAI

from tests.support.processes import serve

RUNS = 5
TOKENS = 128
CONFIG = """
server: {{port: {port}}}
endpoints:
  replica: {{dialect: replica, base_url: "{replica}", models: [smollm2]}}
"""


async def stream(client: AsyncOpenAI, prompt: str, max_tokens: int) -> tuple[float, int]:
    """Seconds to the first piece of text, and how many tokens came in all."""
    started = time.perf_counter()
    first, tokens = None, 0
    chunks = await client.chat.completions.create(
        model="smollm2",
        messages=[{"role": "user", "content": prompt}],
        max_tokens=max_tokens,
        temperature=1.0,
        seed=1,
        stream=True,
        stream_options={"include_usage": True},
    )
    async for chunk in chunks:
        if first is None and chunk.choices and chunk.choices[0].delta.content:
            first = time.perf_counter() - started
        if chunk.usage:
            tokens = chunk.usage.completion_tokens
    return first or float("nan"), tokens


@dataclass(frozen=True, slots=True)
class Run:
    """Of some streams at once."""

    tokens_per_s: float
    outside: float  # share of the time
    firsts: list[float]  # seconds to the first token, of each stream


async def together(client: AsyncOpenAI, replica: str, streams: int, run: int) -> Run:
    prompts = [f"Tell a long story about traveller {run}.{i} and the sea." for i in range(streams)]
    busy, started = await busy_s(replica), time.perf_counter()
    results = await asyncio.gather(*(stream(client, prompt, TOKENS) for prompt in prompts))
    seconds = time.perf_counter() - started
    busy = await busy_s(replica) - busy
    tokens = sum(tokens for _, tokens in results)
    return Run(tokens / seconds, 1 - busy / seconds, [first for first, _ in results])


async def busy_s(replica: str) -> float:
    async with httpx.AsyncClient() as http:
        return float((await http.get(f"{replica}/stats")).json()["busy_s"])


async def first_token(client: AsyncOpenAI, run: int) -> tuple[float, float]:
    """Seconds for a prompt of about 1,000 tokens, never seen and seen just before."""
    prompt = f"Story {run}. " + "The ship went out to sea and came back in the evening. " * 82
    cold, _ = await stream(client, prompt, 2)
    cached, _ = await stream(client, prompt, 2)
    return cold, cached


async def measure(url: str, replica: str) -> None:
    async with AsyncOpenAI(base_url=url, api_key="none", max_retries=0) as client:
        await together(client, replica, 8, -1)  # warm-up
        for streams in (1, 8, 32):
            runs = [await together(client, replica, streams, run) for run in range(RUNS)]
            rate = statistics.median(run.tokens_per_s for run in runs)
            outside = statistics.median(run.outside for run in runs)
            firsts = sorted(first * 1000 for run in runs for first in run.firsts)
            last = firsts[min(len(firsts) - 1, int(len(firsts) * 0.99))]
            print(
                f"{streams} streams: {rate:.0f} tokens/s, {outside:.0%} outside the engine, "
                f"first token p50 {statistics.median(firsts):.0f} ms, p99 {last:.0f} ms"
            )
        pairs = [await first_token(client, run) for run in range(RUNS)]
        cold, cached = (statistics.median(column) * 1000 for column in zip(*pairs, strict=True))
        print(f"first token of about 1,000: cold {cold:.0f} ms, cached {cached:.0f} ms")


@contextmanager
def replica(threads: int) -> Iterator[str]:
    """Its base URL."""
    command = [sys.executable, "-m", "gateway", "replica", "--model", "smollm2", "--supervised"]
    with subprocess.Popen(
        [*command, "--port", "0", "--threads", str(threads)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    ) as process:
        try:
            assert process.stdout is not None
            states = (json.loads(line) for line in process.stdout)
            ready = next(state for state in states if state["state"] == "ready")
            yield f"http://127.0.0.1:{ready['port']}"
        finally:
            process.kill()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--threads", type=int, default=1)
    threads = parser.parse_args().threads
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    with tempfile.TemporaryDirectory() as folder, replica(threads) as url:
        config = Path(folder) / "config.yaml"
        config.write_text(CONFIG.format(port=port, replica=f"{url}/v1"))
        with serve(config) as serving:
            serving.wait_for("^Ready", 300)
            asyncio.run(measure(f"http://127.0.0.1:{port}/v1", url))


if __name__ == "__main__":
    main()
