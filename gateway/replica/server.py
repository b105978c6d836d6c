"""The replica over HTTP: its routes, whom it trusts, and what each endpoint answers."""

from __future__ import annotations

import asyncio
import hmac
import logging
from dataclasses import dataclass, field
from typing import Protocol

import anyio
from starlette.applications import Starlette
from starlette.datastructures import Headers
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route
from starlette.types import ASGIApp, Receive, Scope, Send

from gateway.domain import Operation, ReplicaReport
from gateway.errors import InvalidRequest, ModelNotFound, Unavailable
from gateway.replica.answer import report_body
from gateway.replica.api import Ask, parse
from gateway.replica.engine import EngineStats
from gateway.replica.exchange import Exchange, HungUp, Inbox, Submits, listening, read_body
from gateway.replica.rescue import Rescue, json_response, unrouted
from gateway.replica.template import ChatTemplate
from gateway.replica.text import Tokenizer

logger = logging.getLogger(__name__)

SECRET_HEADER = "x-replica-secret"

INLINE_TEXT = 16_384
"""Characters that are tokenised on the event loop, in about 5 ms; longer texts go to a thread."""


class Engine(Submits, Protocol):
    """What the server needs of the engine."""

    def stats(self) -> EngineStats: ...


@dataclass(frozen=True, slots=True)
class Replica:
    """What all endpoints share."""

    engine: Engine
    tokenizer: Tokenizer
    template: ChatTemplate | None  # None: the model cannot chat
    models: tuple[str, ...]  # the names it serves
    created: int  # seconds since the epoch
    secret: str | None = field(default=None, repr=False)  # None: nobody is trusted
    most_body: int = 4 << 20  # bytes
    draining: asyncio.Event = field(default_factory=asyncio.Event)
    # One at a time, so that long prompts leave the other cores to the engine.
    tokenising: anyio.CapacityLimiter = field(default_factory=lambda: anyio.CapacityLimiter(1))

    def trusts(self, headers: Headers) -> bool:
        shown = headers.get(SECRET_HEADER, "")
        return self.secret is not None and hmac.compare_digest(shown.encode(), self.secret.encode())

    def report(self) -> ReplicaReport:
        stats = self.engine.stats()
        return ReplicaReport(stats.epoch, stats.running, stats.queued_tokens, stats.horizon_age_s)

    async def encode(self, ask: Ask) -> tuple[int, ...]:
        """The prompt's tokens. Raises InvalidRequest."""
        if isinstance(ask.prompt, tuple):
            return ask.prompt
        size = len(ask.prompt) + sum(len(message["content"]) for message in ask.messages)
        if size <= INLINE_TEXT:
            return self._encode(ask, ask.prompt)
        return await anyio.to_thread.run_sync(
            self._encode, ask, ask.prompt, limiter=self.tokenising
        )

    def _encode(self, ask: Ask, prompt: str) -> tuple[int, ...]:
        if ask.operation is Operation.COMPLETION:
            return tuple(self.tokenizer.encode_prompt(prompt))
        if self.template is None:
            raise InvalidRequest("this model has no chat template; use /v1/completions")
        return tuple(self.template.encode(ask.messages))


def create_app(replica: Replica) -> ASGIApp:
    async def models(request: Request) -> Response:
        return json_response({"object": "list", "data": _models(replica)})

    async def health(request: Request) -> Response:
        if replica.draining.is_set():
            raise Unavailable("the replica is draining")
        return json_response({"status": "ok"})

    async def stats(request: Request) -> Response:
        return json_response(_stats(replica))

    app = Starlette(
        routes=[
            Route("/v1/chat/completions", Generate(replica, Operation.CHAT), methods=["POST"]),
            Route("/v1/completions", Generate(replica, Operation.COMPLETION), methods=["POST"]),
            Route("/v1/models", models),
            Route("/health", health),
            Route("/stats", stats),
        ],
        middleware=[Middleware(Rescue)],
        exception_handlers={HTTPException: unrouted},
    )
    app.router.redirect_slashes = False
    return app


class Generate:
    """The endpoint of one operation, as an ASGI app."""

    def __init__(self, replica: Replica, operation: Operation) -> None:
        self._replica = replica
        self._operation = operation

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            body = await read_body(receive, self._replica.most_body)
            inbox = Inbox(asyncio.get_running_loop())
            async with listening(receive, inbox):
                await self._answer(Headers(scope=scope), body, inbox, send)
        except HungUp:
            logger.info("%s: the client hung up", self._operation)

    async def _answer(self, headers: Headers, body: bytes, inbox: Inbox, send: Send) -> None:
        replica = self._replica
        trusted = replica.trusts(headers)
        ask = parse(self._operation, body, trusted=trusted)
        if ask.model not in replica.models:
            known = ", ".join(replica.models)
            raise ModelNotFound(f"this replica serves {known}, not {ask.model!r}", param="model")
        exchange = Exchange(
            ask=ask,
            prompt=await replica.encode(ask),
            engine=replica.engine,
            tokenizer=replica.tokenizer,
            report=replica.report if trusted else lambda: None,
            inbox=inbox,
        )
        done = await exchange.run(send)
        logger.info(
            "%s: %s, %s, session %r", ask.operation, done.finish, done.counts, ask.session_id
        )


def _models(replica: Replica) -> list[dict[str, object]]:
    context = replica.engine.stats().context_length
    shared = {"object": "model", "created": replica.created, "owned_by": "replica"}
    return [{"id": name, **shared, "context_length": context} for name in replica.models]


def _stats(replica: Replica) -> dict[str, object]:
    stats = replica.engine.stats()
    return {
        **report_body(replica.report()),
        "waiting": stats.waiting,
        "block_size": stats.block_size,
        "blocks": {
            "total": stats.total_blocks,
            "free": stats.free_blocks,
            "cached": stats.cached_blocks,
            "owned": stats.owned_blocks,
        },
        "context_length": stats.context_length,
        "models": list(replica.models),
    }
