"""An OpenAI-compatible endpoint that does what a test tells it to."""

from __future__ import annotations

import asyncio
import json
from dataclasses import dataclass, field
from typing import Any

from starlette.types import Receive, Scope, Send

HELLO = ("Hel", "lo", " there")


@dataclass
class Received:
    path: str
    headers: dict[str, str]
    body: dict[str, Any]


@dataclass
class Upstream:
    """Answers with `pieces`; every field after it makes something go wrong or take long."""

    pieces: tuple[str, ...] = HELLO
    cached_tokens: int | None = 3
    status: int = 200
    error: dict[str, Any] | None = None  # the body that goes with another status
    headers: dict[str, str] = field(default_factory=dict)
    delay_s: float = 0.0  # before anything is sent
    gap_s: float = 0.0  # before each piece
    hold_headers: asyncio.Event | None = None  # waits for it before anything is sent
    hold_at: int | None = None  # waits for `release` before this piece
    break_at: int | None = None  # cuts the connection before this piece
    stop_at: int | None = None  # ends the body tidily before this piece, with no [DONE]
    break_at_end: bool = False  # cuts the connection after the last event
    done: bool = True  # says [DONE]
    raw_at: dict[int, bytes] = field(default_factory=dict)  # sent before this piece, as it is
    recovers_after: int | None = None  # requests; those after them go well
    extra: dict[int, dict[str, Any]] = field(default_factory=dict)  # what a piece's choice adds
    report: dict[str, Any] | None = None

    models_status: int = 200  # what asking for its models gives
    probes: int = 0
    received: list[Received] = field(default_factory=list)
    release: asyncio.Event = field(default_factory=asyncio.Event)
    hung_up: asyncio.Event = field(default_factory=asyncio.Event)
    asked: asyncio.Event = field(default_factory=asyncio.Event)
    running: int = 0

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            await lifespan(receive, send)
            return
        raw = b""
        while (message := await receive()).get("more_body"):
            raw += message["body"]
        raw += message.get("body", b"")
        if scope["path"].endswith("/models"):
            self.probes += 1
            await self._send_json(send, self.models_status, {"object": "list", "data": []})
            return
        if scope["path"] == "/stats":  # as a replica
            told = {"epoch": "e", "running": 0, "queued_tokens": 0, "horizon_age_s": None}
            await self._send_json(send, 200, told)
            return
        headers = {name.decode(): value.decode() for name, value in scope["headers"]}
        self.received.append(Received(scope["path"], headers, json.loads(raw)))
        watcher = asyncio.create_task(self._watch(receive, asyncio.current_task()))
        self.running += 1
        self.asked.set()
        try:
            await self._answer(json.loads(raw), send)
        except asyncio.CancelledError:
            assert self.hung_up.is_set()
        finally:
            self.running -= 1
            watcher.cancel()

    async def _watch(self, receive: Receive, serving: asyncio.Task[None] | None) -> None:
        while (await receive())["type"] != "http.disconnect":
            pass
        self.hung_up.set()
        assert serving is not None
        serving.cancel()

    async def _answer(self, body: dict[str, Any], send: Send) -> None:
        await asyncio.sleep(self.delay_s)
        if self.hold_headers is not None:
            await self.hold_headers.wait()
        if self.status != 200 and not self._recovered:
            await self._send_json(send, self.status, self.error or {"error": {"message": "no"}})
        elif body.get("stream"):
            await self._stream(body, send)
        else:
            if self.hold_at is not None:
                await self.release.wait()
            await self._send_json(send, 200, self._whole(body))

    async def _stream(self, body: dict[str, Any], send: Send) -> None:
        headers = [(b"content-type", b"text/event-stream"), *self._extra_headers()]
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        delivered = len(body.get("continue_token_ids", ()))  # a piece is a token, as a replica's
        for index, piece in enumerate((*self.pieces, None)):
            if index < delivered:
                continue
            if self._recovered:
                await self._send(send, event(self._chunk(index, piece, body)))
                continue
            if index in self.raw_at:
                await self._send(send, self.raw_at[index])
            if index == self.hold_at:
                await self.release.wait()
            if index == self.break_at:
                raise ConnectionError("told to break")  # uvicorn cuts the connection
            if index == self.stop_at:
                await send({"type": "http.response.body", "body": b""})
                return
            await asyncio.sleep(self.gap_s)
            await self._send(send, event(self._chunk(index, piece, body)))
        if (body.get("stream_options") or {}).get("include_usage"):
            usage = {**self._head("chat.completion.chunk"), "choices": [], "usage": self._usage()}
            await self._send(send, event(usage | self._reported()))
        if self.done:
            await self._send(send, b"data: [DONE]\n\n")
        if self.break_at_end:
            raise ConnectionError("told to break")
        await send({"type": "http.response.body", "body": b""})

    @property
    def _recovered(self) -> bool:
        return self.recovers_after is not None and len(self.received) > self.recovers_after

    def _chunk(self, index: int, piece: str | None, body: dict[str, Any]) -> dict[str, Any]:
        delta = {} if piece is None else {"content": piece}
        if index == 0:
            delta["role"] = "assistant"
        choice = {
            "index": 0,
            "delta": delta,
            "finish_reason": None if piece is not None else "stop",
        }
        if piece is not None:
            choice["text"] = piece
        if body.get("return_token_ids"):
            choice["token_ids"] = [] if piece is None else [index]
        choice |= self.extra.get(index, {})
        return {**self._head("chat.completion.chunk"), "choices": [choice]}

    def _whole(self, body: dict[str, Any]) -> dict[str, Any]:
        text = "".join(self.pieces)
        choice: dict[str, Any] = {"index": 0, "finish_reason": "stop"}
        choice |= (
            {"message": {"role": "assistant", "content": text}}
            if "messages" in body
            else {"text": text}
        )
        kind = "chat.completion" if "messages" in body else "text_completion"
        return {**self._head(kind), "choices": [choice], "usage": self._usage()} | self._reported()

    def _head(self, kind: str) -> dict[str, Any]:
        return {"id": "upstream-1", "object": kind, "created": 1700000000, "model": "theirs"}

    def _usage(self) -> dict[str, Any]:
        usage: dict[str, Any] = {"prompt_tokens": 11, "completion_tokens": len(self.pieces)}
        usage["total_tokens"] = usage["prompt_tokens"] + usage["completion_tokens"]
        if self.cached_tokens is not None:
            usage["prompt_tokens_details"] = {"cached_tokens": self.cached_tokens}
        return usage

    def _reported(self) -> dict[str, Any]:
        return {} if self.report is None else {"replica": self.report}

    def _extra_headers(self) -> list[tuple[bytes, bytes]]:
        return [(name.encode(), value.encode()) for name, value in self.headers.items()]

    async def _send_json(self, send: Send, status: int, body: object) -> None:
        headers = [(b"content-type", b"application/json"), *self._extra_headers()]
        await send({"type": "http.response.start", "status": status, "headers": headers})
        await send({"type": "http.response.body", "body": json.dumps(body).encode()})

    async def _send(self, send: Send, data: bytes) -> None:
        await send({"type": "http.response.body", "body": data, "more_body": True})


def event(payload: object) -> bytes:
    return b"data: " + json.dumps(payload).encode() + b"\n\n"


async def lifespan(receive: Receive, send: Send) -> None:
    await receive()
    await send({"type": "lifespan.startup.complete"})
    await receive()
    await send({"type": "lifespan.shutdown.complete"})
