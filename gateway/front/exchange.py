"""
One exchange, start to finish, in one task.

The client may hang up at any moment: while it sends, before an endpoint has answered, in the
middle of a stream. The server says so, and whatever ends the exchange, it is settled once, after
everything it held has been given back.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Callable, Mapping
from dataclasses import dataclass
from typing import Any

from starlette.responses import Response
from starlette.types import Message, Receive, Scope, Send

from gateway.dispatch import Dispatcher
from gateway.domain import Ended, Event, InferenceRequest, Outcome
from gateway.errors import GatewayError, Unavailable
from gateway.front.api import Answer, Api, Asker
from gateway.front.body import BodyLimits, HungUp, read_body
from gateway.front.decision import decision_headers
from gateway.front.quota import quota_headers
from gateway.front.request_id import name_headers
from gateway.front.rescue import DEFECT, error_response
from gateway.wire.openai import TenantKeys, finish_reasons

logger = logging.getLogger(__name__)

STREAM_HEADERS = {
    "content-type": "text/event-stream; charset=utf-8",
    "cache-control": "no-cache",
    "x-accel-buffering": "no",  # nginx in front of us would gather events otherwise
}


BODY = "http.response.body"

WHEN_LEFT = "gateway.when_left"
"""Our server's extension of ASGI: told whom to call when the client leaves before its answer's last
byte. To wait for that in `receive` takes a task more for each request. Requests from inside have
no client that could."""

SESSION_HEADERS = ("x-session-id", "x-session-affinity")
"""By which clients name a conversation; the body's `session_id` comes before them."""


def session_of(headers: Mapping[str, str]) -> str | None:
    return next((headers[name] for name in SESSION_HEADERS if headers.get(name)), None)


@dataclass(slots=True)
class Exchange:
    scope: Scope
    receive: Receive
    send: Send
    headers: Mapping[str, str]
    api: Api[Any]
    outcome: Outcome
    keys: TenantKeys
    dispatcher: Dispatcher
    limits: BodyLimits
    clock: Callable[[], float]
    answer: Answer | None = None  # from when the request has been read
    started: bool = False  # the point of no return: the response's head is out
    _alone: bool = False  # the client has its response, and the exchange goes on without it
    _whole: bytes = b""  # an answer that is not streamed
    _task: asyncio.Task[Any] | None = None  # while there is something to hang up on

    async def run(self) -> None:
        task = asyncio.current_task()
        assert task is not None
        try:
            await self._answer(task)
        finally:
            self.outcome.ended = self.outcome.ended or Ended.FAILED
            self.outcome.finished = self.clock()
            self.dispatcher.settle(self.outcome)

    async def _answer(self, task: asyncio.Task[Any]) -> None:
        try:
            raw = await read_body(self.scope, self.receive, self.limits)
            self._task = task
            if WHEN_LEFT in (extensions := self.scope.get("extensions", {})):
                extensions[WHEN_LEFT]["call"](self._left)
            asker = Asker(
                self.keys, session_of(self.headers), self.outcome.request_id, self._detach
            )
            request, self.answer = await self.api.read(raw, asker)
            await self._serve(request, self.answer)
        except HungUp:
            self.outcome.ended = Ended.HUNG_UP
        except GatewayError as error:
            await self._fail(error)
        except asyncio.CancelledError:
            if self.outcome.ended is Ended.HUNG_UP:
                task.uncancel()
                return
            if self.outcome.ended is None:  # not the client: this server is going down
                await self._fail(Unavailable("the gateway is shutting down"))
            raise
        except Exception:  # the rim: a defect of ours must end in an answer
            logger.exception("exchange %s failed", self.outcome.request_id)
            await self._fail(GatewayError(DEFECT))

    def _left(self) -> None:
        if not self._alone:
            self._hang_up()

    def _hang_up(self) -> None:
        if self.outcome.ended is None and self._task is not None:
            self.outcome.ended = Ended.HUNG_UP
            self._task.cancel()

    async def _detach(self, body: bytes) -> Callable[[], None]:
        self._alone = True
        await self._respond(Response(body, 200, media_type="application/json"))
        self.send = _nowhere
        return self._hang_up

    async def _serve(self, request: InferenceRequest, answer: Answer) -> None:
        self.outcome.model = request.model
        show = self._stream if request.stream else self._keep_whole
        await self.dispatcher.answer(request, self.outcome, self.headers, show)
        # Only now, with the lease given back: a client that reads our last byte and asks again
        # must find the endpoint free. And before that byte: whoever has it may leave at once.
        last = answer.end() if request.stream else self._whole
        await self.api.keep(answer)
        self.outcome.ended = Ended.FINISHED
        if not request.stream:
            length = {"content-length": str(len(last)), "content-type": "application/json"}
            await self._start(self._headers() | length)
        await self._end(last)

    async def _stream(self, events: AsyncIterator[Event]) -> None:
        answer = self.answer
        assert answer is not None, "the request has been read"
        await self._start(STREAM_HEADERS | self._headers())
        async for event in events:
            self._note(event)
            if piece := answer.piece(event):
                await self.send({"type": BODY, "body": piece, "more_body": True})

    async def _keep_whole(self, events: AsyncIterator[Event]) -> None:
        assert self.answer is not None, "the request has been read"
        async for event in events:  # the one there is
            self._note(event)
            self._whole = self.answer.whole(event)

    async def _fail(self, error: GatewayError) -> None:
        self.outcome.ended = Ended.FAILED
        self.outcome.error, self.outcome.blamed = error.code, error.fault
        if self.started and self.answer is not None:
            last = self.answer.broken(error)
            await self.api.keep(self.answer)
            await self._end(last)
        else:
            body = self.api.refusal(error, self.outcome.request_id)
            response = error_response(error, body)
            response.headers.update(decision_headers(self.outcome, self.headers))
            quotas = self.outcome.quotas or self.dispatcher.limiter.quotas(self.outcome.principal)
            response.headers.update(quota_headers(quotas))
            await self._respond(response)

    async def _respond(self, response: Response) -> None:
        self.started = True
        self.outcome.status = response.status_code
        response.headers.update(name_headers(self.scope))
        await response(self.scope, self.receive, self.send)

    async def _start(self, headers: dict[str, str]) -> None:
        self.started = True
        self.outcome.status = 200
        raw = [(name.encode(), value.encode()) for name, value in headers.items()]
        await self.send({"type": "http.response.start", "status": 200, "headers": raw})

    async def _end(self, last: bytes) -> None:
        await self.send({"type": BODY, "body": last, "more_body": False})

    def _headers(self) -> dict[str, str]:
        assert self.outcome.request is not None, "only an answer has these headers"
        answering, cache = self.outcome.answering, self.outcome.cache
        return {
            "x-gateway-endpoint": answering.endpoint if answering else "cache",
            "x-gateway-model": self.outcome.request.model,
            "x-gateway-policy": self.outcome.policy or "",
            **name_headers(self.scope),
            **quota_headers(self.outcome.quotas),
            **({} if cache is None else {"x-gateway-cache": cache}),
            **decision_headers(self.outcome, self.headers),
        }

    def _note(self, event: Event) -> None:
        outcome = self.outcome
        outcome.events += 1
        if event.text is not None and outcome.answer is None:
            return
        if event.usage is not None:
            outcome.usage = event.usage
        if event.report is not None:
            outcome.report = event.report
        if event.finishes:
            outcome.finish_reasons += finish_reasons(event.payload)
        if outcome.answer is not None:
            outcome.answer.append(event.payload)


async def _nowhere(message: Message) -> None:
    """For what nobody listens to any more."""
