"""Requests that this gateway asks of itself: the line, without a connection in front of it."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from starlette.types import ASGIApp, Message, Scope

from gateway.errors import GatewayError
from gateway.files.nouns import Batch
from gateway.files.runner import Answer
from gateway.front.door import PRINCIPAL, Door
from gateway.wire.openai import encode_json


@dataclass(frozen=True)
class Inside:
    """One request of a batch's, in its key's name and in the batch class."""

    app: Callable[[], ASGIApp]
    door: Door

    async def __call__(self, batch: Batch, body: bytes) -> Answer:
        try:
            principal = self.door.ring.named(batch.tenant, batch.key_name)
        except GatewayError as error:
            return Answer(error.status, {}, encode_json(error.body()))
        headers = {"content-type": "application/json", "x-gateway-class": "batch"}
        return await asked(self.app(), batch.endpoint, body, headers, {PRINCIPAL: principal})


async def asked(
    app: ASGIApp, path: str, body: bytes, headers: Mapping[str, str], extra: Mapping[str, object]
) -> Answer:
    scope: Scope = {
        "type": "http",
        "asgi": {"version": "3.0"},
        "http_version": "1.1",
        "method": "POST",
        "scheme": "http",
        "path": path,
        "raw_path": path.encode(),
        "query_string": b"",
        "root_path": "",
        "headers": [
            (b"host", b"localhost"),
            *((name.encode(), value.encode()) for name, value in headers.items()),
        ],
        "client": None,
        "server": None,
        **extra,
    }
    received = False
    status, told, answer = 500, dict[str, str](), bytearray()

    async def receive() -> Message:
        nonlocal received
        if received:
            await asyncio.Event().wait()  # who asks stays until there is an answer
        received = True
        return {"type": "http.request", "body": body, "more_body": False}

    async def send(message: Message) -> None:
        nonlocal status
        if message["type"] == "http.response.start":
            status = message["status"]
            told.update((k.decode("latin-1"), v.decode("latin-1")) for k, v in message["headers"])
        else:
            answer.extend(message.get("body", b""))

    await app(scope, receive, send)
    return Answer(status, told, bytes(answer))
