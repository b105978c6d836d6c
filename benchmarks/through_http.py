"""What a client of `gateway serve` gets: tokens per second, and time to the first token.

One replica of the real model behind the gateway, over HTTP, streamed. Each figure is the median of
`RUNS` runs. Prompts differ between runs, so that "cold" is cold.
"""

from __future__ import annotations

import asyncio
import socket
import statistics
import tempfile
import time
from pathlib import Path

from openai import AsyncOpenAI

from tests.support.processes import serve

RUNS = 5
TOKENS = 128
CONFIG = """
server: {{port: {port}}}
replicas: {{smollm2: {{model: smollm2}}}}
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


async def together(client: AsyncOpenAI, streams: int, run: int) -> tuple[float, list[float]]:
    """Tokens per second of so many streams at once, and each one's seconds to its first token."""
    prompts = [f"Tell a long story about traveller {run}.{i} and the sea." for i in range(streams)]
    started = time.perf_counter()
    results = await asyncio.gather(*(stream(client, prompt, TOKENS) for prompt in prompts))
    rate = sum(tokens for _, tokens in results) / (time.perf_counter() - started)
    return rate, [first for first, _ in results]


async def first_token(client: AsyncOpenAI, run: int) -> tuple[float, float]:
    """Seconds for a prompt of about 1,000 tokens, never seen and seen just before."""
    prompt = f"Story {run}. " + "The ship went out to sea and came back in the evening. " * 82
    cold, _ = await stream(client, prompt, 2)
    cached, _ = await stream(client, prompt, 2)
    return cold, cached


async def measure(url: str) -> None:
    async with AsyncOpenAI(base_url=url, api_key="none", max_retries=0) as client:
        await together(client, 8, -1)  # warm-up
        for streams in (1, 8, 32):
            runs = [await together(client, streams, run) for run in range(RUNS)]
            rate = statistics.median(rate for rate, _ in runs)
            firsts = sorted(first * 1000 for _, run in runs for first in run)
            last = firsts[min(len(firsts) - 1, int(len(firsts) * 0.99))]
            print(
                f"{streams} streams: {rate:.0f} tokens/s, "
                f"first token p50 {statistics.median(firsts):.0f} ms, p99 {last:.0f} ms"
            )
        pairs = [await first_token(client, run) for run in range(RUNS)]
        cold, cached = (statistics.median(column) * 1000 for column in zip(*pairs, strict=True))
        print(f"first token of about 1,000: cold {cold:.0f} ms, cached {cached:.0f} ms")


def main() -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    with tempfile.TemporaryDirectory() as folder:
        config = Path(folder) / "config.yaml"
        config.write_text(CONFIG.format(port=port))
        started = time.perf_counter()
        with serve(config) as serving:
            serving.wait_for("^Ready", 300)
            print(f"ready after {time.perf_counter() - started:.1f} s")
            asyncio.run(measure(f"http://127.0.0.1:{port}/v1"))


if __name__ == "__main__":
    main()
