"""`POST` of whatever a model answers: who asks, then one exchange."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, Protocol

from starlette.types import Receive, Scope, Send

from gateway.dispatch import Dispatcher
from gateway.domain import Operation, Outcome, TraceContext
from gateway.errors import GatewayError
from gateway.front.api import Api
from gateway.front.door import Door
from gateway.front.drain import Drain
from gateway.front.exchange import Exchange
from gateway.front.request_id import naming, request_id
from gateway.front.rescue import DEFECT, error_response
from gateway.wire.openai import TenantKeys

logger = logging.getLogger(__name__)

tenant_keys = lru_cache(maxsize=1024)(TenantKeys.derive)


def headers_of(scope: Scope) -> Mapping[str, str]:
    """Names in lower case, as the server gives them; of a name that stands twice, the first."""
    return {
        name.decode("latin-1"): value.decode("latin-1")
        for name, value in reversed(scope["headers"])
    }


class Begins(Protocol):
    """What is asked of whoever traces, when an exchange begins."""

    @property
    def content(self) -> bool:
        """Whether an operator wants to see answers."""
        ...

    def begin(self, headers: Mapping[str, str]) -> TraceContext: ...


@dataclass(frozen=True)
class Inference:
    api: Api[Any]
    operation: Operation  # what it comes to behind the door
    door: Door
    drain: Drain
    dispatcher: Dispatcher
    clock: Callable[[], float]
    tracing: Begins | None = None  # None: nobody traces
    refused: Callable[[str], None] = lambda code: (
        None
    )  # told the error's, of whoever is turned away

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            exchange = self.exchange(scope, receive, send)
        except GatewayError as error:
            self.refused(error.code or "")
            await self._answer(error, scope, receive, send)
        except Exception:
            self.refused(GatewayError.code or "")
            await self._defect(scope, receive, send)
        else:
            try:
                await exchange.run()
            except Exception:
                if exchange.started:
                    raise
                await self._defect(scope, receive, send)

    async def _defect(self, scope: Scope, receive: Receive, send: Send) -> None:
        """The rim: beside the exchange's own, which cannot answer where answering is what fails."""
        logger.exception("exchange %s failed", request_id(scope))
        await self._answer(GatewayError(DEFECT), scope, receive, send)

    async def _answer(
        self, error: GatewayError, scope: Scope, receive: Receive, send: Send
    ) -> None:
        response = error_response(error, self.api.refusal(error, request_id(scope)))
        await response(scope, receive, naming(scope, send))

    def exchange(self, scope: Scope, receive: Receive, send: Send) -> Exchange:
        """Raises Unavailable, InvalidKey."""
        self.drain.check()
        headers = headers_of(scope)
        principal = self.door.principal(scope, headers)
        began, path = self.clock(), scope["path"]
        outcome = Outcome(request_id(scope), principal, began, self.operation, path=path)
        if self.tracing is not None:
            outcome.trace = self.tracing.begin(headers)
            outcome.answer = [] if self.tracing.content else None
        return Exchange(
            scope,
            receive,
            send,
            headers,
            self.api,
            outcome,
            tenant_keys(self.door.secret, principal.tenant),
            self.dispatcher,
            self.door.limits,
            self.clock,
        )
