"""A provider's server that answers from a script, and a dialect that speaks to it."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

import uvicorn
from starlette.types import ASGIApp, Receive, Scope, Send
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol
from uvicorn.server import ServerState

from gateway.domain import Event, InferenceRequest
from gateway.providers.catalog import find_dialect
from gateway.providers.http1 import Http1Client
from gateway.providers.keys import Keys
from gateway.providers.openai_compatible import OpenAICompatible
from tests.support.upstream import event, lifespan

USAGE = {"prompt_tokens": 11, "completion_tokens": 2, "total_tokens": 13}


def whole(text: str = "Hello", **fields: Any) -> dict[str, Any]:
    message = {"role": "assistant", "content": text}
    choice = {"index": 0, "message": message, "text": text, "finish_reason": "stop"}
    return {"id": "a-1", "created": 1, "choices": [choice], "usage": USAGE, **fields}


def chunk(text: str | None = None, finish: str | None = None, **fields: Any) -> bytes:
    delta = {} if text is None else {"content": text}
    choice = {"index": 0, "delta": delta, "text": text, "finish_reason": finish}
    return event({"id": "a-1", "created": 1, "choices": [choice], **fields})


USAGE_CHUNK = event({"id": "a-1", "choices": [], "usage": USAGE})
STREAM = (chunk("Hel"), chunk("lo"), chunk(None, "stop"), USAGE_CHUNK, b"data: [DONE]\n\n")


@dataclass
class Reply:
    """A body that is no bytes goes out as JSON; None is a good answer, streamed if asked so."""

    status: int = 200
    body: Any = None
    headers: dict[str, str] = field(default_factory=dict)
    pieces: tuple[bytes, ...] | None = None  # a stream
    holds: bool = False  # after its pieces nothing comes, and no end either


@dataclass
class Got:
    method: str
    path: str
    headers: dict[str, str]
    body: Any


@dataclass
class Hosted:
    """Gives its replies in turn, the last of them again and again; pages have their own."""

    replies: list[Reply] = field(default_factory=lambda: [Reply()])
    pages: dict[str, Reply] = field(default_factory=dict)
    received: list[Got] = field(default_factory=list)
    probes: list[Got] = field(default_factory=list)  # for its models, which is no request
    hung_up: asyncio.Event = field(default_factory=asyncio.Event)

    async def _tell_models(self, send: Send) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": b'{"object": "list", "data": []}'})

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            await lifespan(receive, send)
            return
        raw, more = b"", True
        while more:
            message = await receive()
            raw, more = raw + message.get("body", b""), message.get("more_body", False)
        headers = {name.decode(): value.decode() for name, value in scope["headers"]}
        query = scope["query_string"].decode()
        path = scope["path"] + (f"?{query}" if query else "")
        body = json.loads(raw) if raw else None
        got = Got(scope["method"], path, headers, body)
        if got.method == "GET" and path.endswith("/models") and path not in self.pages:
            self.probes.append(got)
            reply = Reply(body={"object": "list", "data": []})
        else:
            self.received.append(got)
            reply = self.pages.get(path) or (
                self.replies.pop(0) if len(self.replies) > 1 else self.replies[0]
            )
        pieces = reply.pieces
        if pieces is None and reply.body is None and reply.status == 200:
            streamed = body is not None and body.get("stream")
            pieces = STREAM if streamed else (json.dumps(whole()).encode(),)
        if pieces is None:
            raw = reply.body if isinstance(reply.body, bytes) else json.dumps(reply.body).encode()
            pieces = (raw,)
        sent = [(name.encode(), value.encode()) for name, value in reply.headers.items()]
        await send({"type": "http.response.start", "status": reply.status, "headers": sent})
        for piece in pieces:
            await send({"type": "http.response.body", "body": piece, "more_body": True})
        if reply.holds:
            while (await receive())["type"] != "http.disconnect":
                pass
            self.hung_up.set()
            return
        await send({"type": "http.response.body", "body": b""})


def replies(*given: Reply) -> Hosted:
    return Hosted(list(given))


@asynccontextmanager
async def listening(app: ASGIApp) -> AsyncIterator[str]:
    """uvicorn's protocol without its server, which takes two tenths of a second to leave."""
    config = uvicorn.Config(app, http="httptools", lifespan="off", log_config=None)
    config.load()
    state = ServerState()

    def connection() -> asyncio.Protocol:
        return HttpToolsProtocol(config=config, server_state=state, app_state={})

    loop = asyncio.get_running_loop()
    listener = await loop.create_server(connection, "127.0.0.1", 0)
    try:
        yield f"http://127.0.0.1:{listener.sockets[0].getsockname()[1]}"
    finally:
        listener.close()
        for open_connection in list(state.connections):
            open_connection.shutdown()
        await asyncio.gather(*state.tasks)


@asynccontextmanager
async def speaking(
    dialect: str,
    hosted: Hosted,
    *,
    keys: tuple[str, ...] = ("key-one",),
    base: str = "/base/v1",
    clock: Callable[[], float] = time.monotonic,
    **options: Any,
) -> AsyncIterator[OpenAICompatible]:
    ours = {"models": {"m": "theirs/m"}, "secret": "the-secret", "hint_key": b"this endpoint's"}
    async with listening(hosted) as url:
        client = Http1Client()
        try:
            yield find_dialect(dialect)(
                client, url + base, keys=Keys(keys, clock), **{**ours, **options}
            )
        finally:
            await client.aclose()


async def answer(provider: OpenAICompatible, request: InferenceRequest) -> list[Event]:
    async with provider.open(request, "r-1") as events:
        return [event async for event in events]


def text_of(events: list[Event]) -> str:
    choices = [choice for event in events for choice in event.payload["choices"]]
    said = [choice.get("delta") or choice.get("message") or {} for choice in choices]
    return "".join(part.get("content") or "" for part in said)
