"""Asking an imitated provider, as its clients would."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

import httpx

from gateway.emulator.emulated import emulated
from gateway.emulator.endpoint import Endpoint
from tests.support.serving import NO_TLS

CHAT: dict[str, Any] = {
    "model": "m",
    "messages": [{"role": "user", "content": "Tell me of the sea, and of the wind on it. " * 20}],
}


def headers_for(name: str) -> dict[str, str]:
    if name.startswith("modal"):
        return {"modal-key": "wk-1", "modal-secret": "ws-1"}
    scheme = "Api-Key" if name == "baseten-dedicated" else "Bearer"
    return {"authorization": f"{scheme} key-1"}


class Caller:
    def __init__(self, endpoint: Endpoint, client: httpx.AsyncClient) -> None:
        self.endpoint = endpoint
        self.client = client

    async def ask(
        self, body: dict[str, Any] | None = None, *, fault: str | None = None, **headers: str
    ) -> httpx.Response:
        named = {name.replace("_", "-"): value for name, value in headers.items()}
        if fault is not None:
            named["x-emulate-fault"] = fault
        url = self.endpoint.url + "/chat/completions"
        return await self.client.post(url, json=body or CHAT, headers=named)

    async def stream(self, fault: str | None = None, **body: Any) -> str:
        return (await self.ask({**CHAT, "stream": True, **body}, fault=fault)).text


@asynccontextmanager
async def asking(name: str, **settings: Any) -> AsyncIterator[Caller]:
    """Warm, unless told otherwise."""
    given = {"cold_start_s": 0.0, **settings}
    async with (
        emulated(name, **given) as endpoint,
        httpx.AsyncClient(headers=headers_for(name), timeout=20, verify=NO_TLS) as client,
    ):
        yield Caller(endpoint, client)


def events(text: str) -> list[dict[str, Any]]:
    """Of a stream, without comments and `[DONE]`."""
    data = (line[6:] for line in text.splitlines() if line.startswith("data: "))
    return [json.loads(each) for each in data if each != "[DONE]"]


def text_of(told: list[dict[str, Any]]) -> str:
    choices = (choice for event in told for choice in event["choices"])
    return "".join(choice["delta"].get("content") or "" for choice in choices)


async def until(true: Callable[[], object]) -> None:
    """What another task brings about."""
    for _ in range(2000):
        if true():
            return
        await asyncio.sleep(0.005)
    raise AssertionError("it did not come about in 10 s")
