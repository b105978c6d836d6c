"""A gateway that keeps files, and batches for it."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

from openai import AsyncOpenAI
from openai.types import Batch
from starlette.types import ASGIApp

from gateway.config.tree import Files
from tests.support.gateways import Running, gateway

CHAT = "/v1/chat/completions"


@asynccontextmanager
async def filing(
    folder: Path, *upstreams: ASGIApp | str, files: dict[str, Any] | None = None, **options: Any
) -> AsyncIterator[Running]:
    kept = Files(folder=folder, **(files or {}))
    async with gateway(*upstreams, files=kept, **options) as g:
        if g.gateway.filing.runner is not None:
            g.gateway.filing.runner.poll_s = 0.02
        yield g


def ask(number: int, url: str = CHAT, **body: Any) -> dict[str, Any]:
    asked = {"model": "m", "messages": [{"role": "user", "content": f"say {number}"}]}
    return {"custom_id": f"c{number}", "method": "POST", "url": url, "body": {**asked, **body}}


def jsonl(lines: Sequence[object]) -> bytes:
    return b"".join(
        (line if isinstance(line, bytes) else json.dumps(line).encode()) + b"\n" for line in lines
    )


async def upload(sdk: AsyncOpenAI, content: bytes, purpose: Any = "batch") -> str:
    return (await sdk.files.create(file=("in.jsonl", content), purpose=purpose)).id


async def begun(
    sdk: AsyncOpenAI, lines: Sequence[object], endpoint: Any = CHAT, **fields: Any
) -> Batch:
    file = await upload(sdk, jsonl(lines))
    fields = {"completion_window": "24h", **fields}
    return await sdk.batches.create(input_file_id=file, endpoint=endpoint, **fields)


async def ended(sdk: AsyncOpenAI, id: str, seconds: float = 60) -> Batch:
    async with asyncio.timeout(seconds):
        while True:
            batch = await sdk.batches.retrieve(id)
            if batch.status in ("completed", "failed", "expired", "cancelled"):
                return batch
            await asyncio.sleep(0.02)


async def becomes(said: Callable[[], object], seconds: float = 30) -> None:
    """Waits until it is so."""
    async with asyncio.timeout(seconds):
        for _ in iter(lambda: bool(said()), True):
            await asyncio.sleep(0.01)


async def content(sdk: AsyncOpenAI, file: str | None) -> list[dict[str, Any]]:
    assert file is not None
    text = (await sdk.files.content(file)).text
    return [json.loads(line) for line in text.splitlines()]
