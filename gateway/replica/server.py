"""The replica over HTTP: its routes, whom it trusts, and what each endpoint answers."""

from __future__ import annotations

import asyncio
import hmac
import logging
from collections.abc import Callable, Sequence
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
from gateway.replica.client import listening, read_body
from gateway.replica.exchange import Exchange, Submits
from gateway.replica.grammar import Grammar, Grammars
from gateway.replica.guide import guide
from gateway.replica.inbox import Inbox
from gateway.replica.local import LoopbackOnly
from gateway.replica.manner import PLAIN, Manner
from gateway.replica.metrics import CONTENT_TYPE, EngineMetrics, exposition
from gateway.replica.prompt import Chat, Prompt
from gateway.replica.request import Counts, Finish
from gateway.replica.rescue import Rescue, json_response, unrouted
from gateway.replica.stats import EngineStats
from gateway.replica.template import ChatTemplate
from gateway.replica.text import Tokenizer
from gateway.replica.tokenise import parse_tokenise, parse_tokens
from gateway.replica.tools import ToolChoice

logger = logging.getLogger(__name__)

SECRET_HEADER = "x-replica-secret"

INLINE_TEXT = 16_384
"""Characters that are tokenised on the event loop, in about 5 ms; longer texts go to a thread."""


class Engine(Submits, Protocol):
    """What the server needs of the engine."""

    metrics: EngineMetrics

    @property
    def accepting(self) -> bool:
        """Whether it takes requests."""
        ...

    def stats(self) -> EngineStats: ...


class Tracing(Protocol):
    def watch(self, traceparent: str | None) -> Callable[[Finish, Counts], None] | None:
        """Whom to tell of the end of a request with this header; None: nobody wants to know."""
        ...


@dataclass(frozen=True, slots=True)
class Replica:
    """What all endpoints share."""

    engine: Engine
    tokenizer: Tokenizer
    template: ChatTemplate | None  # None: the model cannot chat
    grammars: Grammars
    models: tuple[str, ...]  # the names it serves
    created: int  # seconds since the epoch
    secret: str | None = field(default=None, repr=False)  # None: nobody is trusted
    tracing: Tracing | None = None
    local_only: bool = False  # only this machine's own programs may ask, and no web page
    most_body: int = 4 << 20  # bytes
    draining: asyncio.Event = field(default_factory=asyncio.Event)
    # One at a time, so that long prompts leave the other cores to the engine.
    tokenising: anyio.CapacityLimiter = field(default_factory=lambda: anyio.CapacityLimiter(1))

    reading: anyio.CapacityLimiter = field(default_factory=lambda: anyio.CapacityLimiter(1))
    """The same for grammars."""

    def trusts(self, headers: Headers) -> bool:
        shown = headers.get(SECRET_HEADER, "")
        return self.secret is not None and hmac.compare_digest(shown.encode(), self.secret.encode())

    def report(self) -> ReplicaReport:
        stats = self.engine.stats()
        return ReplicaReport(stats.epoch, stats.running, stats.queued_tokens, stats.horizon_age_s)

    def check_model(self, name: str) -> None:
        """Raises ModelNotFound."""
        if name not in self.models:
            known = ", ".join(self.models)
            raise ModelNotFound(f"this replica serves {known}, not {name!r}", param="model")

    async def encode(self, prompt: Prompt) -> tuple[int, ...]:
        """The prompt's tokens. Raises InvalidRequest."""
        if isinstance(prompt, tuple):
            return prompt
        size = prompt.size if isinstance(prompt, Chat) else len(prompt)
        if size <= INLINE_TEXT:
            return self._encode(prompt)
        return await anyio.to_thread.run_sync(self._encode, prompt, limiter=self.tokenising)

    def manner(self, ask: Ask, prompt: Sequence[int]) -> Manner:
        if self.template is None or not isinstance(ask.prompt, Chat):
            return PLAIN
        names = frozenset(tool.name for tool in ask.tools.callable)
        forced = ask.tools.choice is ToolChoice.REQUIRED
        return Manner(self.template.thinking(prompt), self.template.tool_format, names, forced)

    async def grammar(self, ask: Ask, manner: Manner) -> Grammar | None:
        """Raises InvalidRequest for one that is not supported."""
        mark = self.grammars.literal
        wanted = guide(ask.tools, ask.schema, manner.form, manner.thinking, mark)
        if wanted is None:
            return None
        read = self.grammars.read
        return await anyio.to_thread.run_sync(read, wanted.lark, wanted.field, limiter=self.reading)

    def _encode(self, prompt: Chat | str) -> tuple[int, ...]:
        if isinstance(prompt, str):
            return tuple(self.tokenizer.encode_prompt(prompt))
        if self.template is None:
            raise InvalidRequest("this model has no chat template; use /v1/completions")
        return tuple(self.template.encode(prompt))


def create_app(replica: Replica) -> ASGIApp:
    async def models(request: Request) -> Response:
        return json_response({"object": "list", "data": _models(replica)})

    async def health(request: Request) -> Response:
        if replica.draining.is_set():
            raise Unavailable("the replica is draining")
        if not replica.engine.accepting:
            raise Unavailable("the replica's engine has stopped")
        return json_response({"status": "ok"})

    async def stats(request: Request) -> Response:
        return json_response(_stats(replica))

    async def metrics(request: Request) -> Response:
        return Response(_metrics(replica), media_type=CONTENT_TYPE)

    async def tokenize(request: Request) -> Response:
        model, prompt = parse_tokenise(await read_body(request.receive, replica.most_body))
        if model is not None:
            replica.check_model(model)
        tokens = await replica.encode(prompt)
        most = replica.engine.stats().context_length
        return json_response({"count": len(tokens), "max_model_len": most, "tokens": tokens})

    async def detokenize(request: Request) -> Response:
        body = await read_body(request.receive, replica.most_body)
        model, tokens = parse_tokens(body, replica.tokenizer.vocabulary)
        if model is not None:
            replica.check_model(model)
        return json_response({"prompt": replica.tokenizer.decode(tokens)})

    app = Starlette(
        routes=[
            Route("/v1/chat/completions", Generate(replica, Operation.CHAT), methods=["POST"]),
            Route("/v1/completions", Generate(replica, Operation.COMPLETION), methods=["POST"]),
            Route("/v1/models", models),
            Route("/health", health),
            Route("/stats", stats),
            Route("/metrics", metrics),
            Route("/tokenize", tokenize, methods=["POST"]),
            Route("/detokenize", detokenize, methods=["POST"]),
        ],
        middleware=[
            Middleware(Rescue),
            *([Middleware(LoopbackOnly)] if replica.local_only else []),
        ],
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
        body = await read_body(receive, self._replica.most_body)
        inbox = Inbox(asyncio.get_running_loop())
        async with listening(receive, inbox):
            await self._answer(Headers(scope=scope), body, inbox, send)

    async def _answer(self, headers: Headers, body: bytes, inbox: Inbox, send: Send) -> None:
        replica = self._replica
        trusted = replica.trusts(headers)
        ask = parse(self._operation, body, trusted=trusted)
        replica.check_model(ask.model)
        prompt = await replica.encode(ask.prompt)
        manner = replica.manner(ask, prompt)
        traceparent = headers.get("traceparent") if trusted else None
        exchange = Exchange(
            ask=ask,
            prompt=prompt,
            engine=replica.engine,
            context_length=replica.engine.stats().context_length,
            tokenizer=replica.tokenizer,
            report=replica.report if trusted else lambda: None,
            inbox=inbox,
            manner=manner,
            grammar=await replica.grammar(ask, manner),
            traced=None if replica.tracing is None else replica.tracing.watch(traceparent),
        )
        for done in (piece.end for piece in await exchange.run(send) if piece.end is not None):
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
        "busy_s": stats.busy_s,
        "models": list(replica.models),
    }


def _metrics(replica: Replica) -> str:
    stats = replica.engine.stats()
    return exposition(
        replica.engine.metrics,
        gauges={
            "num_requests_running": stats.running,
            "num_requests_waiting": stats.waiting,
            "kv_cache_usage_perc": stats.owned_blocks / stats.total_blocks,
        },
        counters={"num_preemptions_total": stats.preemptions},
        model=replica.models[0],
    )
