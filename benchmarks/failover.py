"""
What an endpoint's failure costs a client: `python -m benchmarks.failover`.

Two small endpoints behind a whole gateway, over real sockets on one machine. One of them fails
every seventh request at once; what a failed-over answer takes longer than a direct one of the same
run is what failing over costs. Then streams of a mix of requests are each cut after their second
piece: the share that ends whole is the resumable share.
"""

from __future__ import annotations

import asyncio
import json
import logging
import random
import time
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from statistics import quantiles
from typing import Any

import httpx
import uvicorn
from starlette.types import ASGIApp, Receive, Scope, Send

from gateway.app import Gateway
from gateway.config import Config
from gateway.config.bind import Secret
from gateway.config.load import PACKAGED, load_policy
from gateway.config.tree import Endpoint, ModelMap
from gateway.domain import Outcome
from gateway.front.drain import Drain
from gateway.front.server import ConnectionLimits, server
from gateway.rules import always
from routing_policies.catalog import Catalog

REQUESTS = 2000
EVERY = 7
PIECES = 6
TOOL = {"type": "function", "function": {"name": "f", "parameters": {"type": "object"}}}
MIX: dict[str, tuple[float, dict[str, Any]]] = {
    "chat": (0.75, {}),
    "a tool call": (0.10, {"tools": [TOOL]}),
    "JSON": (0.07, {"response_format": {"type": "json_object"}}),
    "logprobs": (0.05, {"logprobs": True}),
    "two choices": (0.03, {"n": 2}),
}
"""An assumption of ours about who asks for what; each kind is reported by itself as well."""


@dataclass
class Server:
    """An endpoint as a replica is one, as far as the gateway can tell."""

    fails: bool = False  # every seventh request
    cuts: bool = False  # each stream that it begins
    asked: int = 0

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await lifespan(receive, send)
            return
        raw = b""
        while (message := await receive()).get("more_body"):
            raw += message["body"]
        raw += message.get("body", b"")
        if not raw:  # somebody asks how it is
            report = {"epoch": "e", "running": 0, "queued_tokens": 0, "horizon_age_s": None}
            await _whole(send, 200, report)
            return
        self.asked += 1
        if self.fails and self.asked % EVERY == 0:
            await _whole(send, 500, {"error": {"message": "no"}})
        elif json.loads(raw).get("stream"):
            await self._stream(json.loads(raw), send)
        else:
            message = {"role": "assistant", "content": "hello"}
            choice = {"index": 0, "message": message, "finish_reason": "stop"}
            usage = {"prompt_tokens": 5, "completion_tokens": 1}
            await _whole(send, 200, {"id": "x", "choices": [choice], "usage": usage})

    async def _stream(self, body: dict[str, Any], send: Send) -> None:
        headers = [(b"content-type", b"text/event-stream")]
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        begun = len(body.get("continue_token_ids", ()))
        for index in range(begun, PIECES):
            if self.cuts and not begun and index == 2:
                raise ConnectionError  # the server cuts the connection
            delta: dict[str, Any] = {"content": f"{index} "}
            if body.get("tools"):
                delta = {"tool_calls": [{"index": 0, "function": {"arguments": f"{index}"}}]}
            finish = "stop" if index == PIECES - 1 else None
            choice = {"index": 0, "delta": delta, "finish_reason": finish, "token_ids": [index]}
            event = json.dumps({"id": "x", "choices": [choice]}).encode()
            part = b"data: " + event + b"\n\n"
            await send({"type": "http.response.body", "body": part, "more_body": True})
        await send({"type": "http.response.body", "body": b"data: [DONE]\n\n"})


async def _whole(send: Send, status: int, body: object) -> None:
    headers = [(b"content-type", b"application/json")]
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": json.dumps(body).encode()})


async def lifespan(receive: Receive, send: Send) -> None:
    for step in ("startup", "shutdown"):
        await receive()
        await send({"type": f"lifespan.{step}.complete"})


@dataclass
class Kept:
    outcomes: list[Outcome] = field(default_factory=list)

    def settled(self, outcome: Outcome) -> None:
        self.outcomes.append(outcome)


@asynccontextmanager
async def serving(app: ASGIApp) -> AsyncIterator[str]:
    limits = ConnectionLimits()
    web: uvicorn.Server = server(
        app, host="127.0.0.1", port=0, limits=limits, drain_s=1, drain=Drain()
    )
    task = asyncio.create_task(web.serve())
    try:
        while not web.started:
            await asyncio.sleep(0.01)
            assert not task.done()
        yield f"http://127.0.0.1:{web.servers[0].sockets[0].getsockname()[1]}"
    finally:
        web.should_exit = True
        await task


@asynccontextmanager
async def gateway_over(*servers: Server) -> AsyncIterator[tuple[str, Kept]]:
    async with AsyncExitStack() as stack:
        endpoints = {}
        for index, app in enumerate(servers):
            url = await stack.enter_async_context(serving(app))
            endpoints[f"e{index}"] = Endpoint(
                f"{url}/v1", ModelMap({"m": "m"}), dialect="replica", secret=Secret("s3cret")
            )
        kept = Kept()
        rules = always(load_policy(PACKAGED / "round_robin.yaml", Catalog.load()))
        whole = Gateway(Config(endpoints=endpoints), rules, observers=[kept])
        yield await stack.enter_async_context(serving(whole.asgi())), kept


def ask_for(index: int, **fields: Any) -> dict[str, Any]:
    return {"model": "m", "messages": [{"role": "user", "content": f"hi {index}"}], **fields}


async def fail_over() -> None:
    times: dict[bool, list[float]] = {False: [], True: []}
    async with (
        gateway_over(Server(fails=True), Server()) as (url, kept),
        httpx.AsyncClient() as client,
    ):
        for index in range(REQUESTS):
            began = time.perf_counter()
            answer = await client.post(f"{url}/v1/chat/completions", json=ask_for(index))
            took = time.perf_counter() - began
            assert answer.status_code == 200, answer.text
            times[len(kept.outcomes[-1].attempts) > 1].append(took)
    p50, p99 = {}, {}
    for failed_over, took in times.items():
        cuts = quantiles(took, n=100)
        p50[failed_over], p99[failed_over] = cuts[49] * 1e3, cuts[98] * 1e3
        name = "failed over" if failed_over else "direct"
        print(
            f"{name:12} {len(took):5}  p50 {cuts[49] * 1e3:6.2f} ms  p99 {cuts[98] * 1e3:6.2f} ms"
        )
    print(f"added: p50 {p50[True] - p50[False]:.2f} ms, p99 {p99[True] - p99[False]:.2f} ms")


async def resume() -> None:
    draws = random.Random(1)
    whole = dict.fromkeys(MIX, 0)
    asked = dict.fromkeys(MIX, 0)
    async with (
        gateway_over(Server(cuts=True), Server(cuts=True)) as (url, _),
        httpx.AsyncClient() as client,
    ):
        for index in range(400):
            (kind,) = draws.choices(list(MIX), [share for share, _ in MIX.values()])
            body = ask_for(index, stream=True, **MIX[kind][1])
            answer = await client.post(f"{url}/v1/chat/completions", json=body)
            asked[kind] += 1
            whole[kind] += answer.text.endswith("data: [DONE]\n\n")
    for kind, count in asked.items():
        print(f"{kind:12} {whole[kind]:4} of {count:4} cut streams ended whole")
    print(f"resumable: {sum(whole.values()) / sum(asked.values()):.1%}")


def main() -> None:
    logging.disable(logging.ERROR)  # each cut is an exception in the endpoint that cuts
    asyncio.run(fail_over())
    asyncio.run(resume())


if __name__ == "__main__":
    main()
