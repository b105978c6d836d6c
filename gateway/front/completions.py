"""`POST /v1/chat/completions` and `/v1/completions`: who asks, then one exchange."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from starlette.datastructures import Headers
from starlette.types import Receive, Scope, Send

from gateway.dispatch import Dispatcher
from gateway.domain import Operation, Outcome
from gateway.front.door import Door
from gateway.front.drain import Drain
from gateway.front.exchange import Exchange
from gateway.front.request_id import request_id
from gateway.wire.openai import TenantKeys


@dataclass(frozen=True)
class Completions:
    operation: Operation
    door: Door
    drain: Drain
    dispatcher: Dispatcher
    clock: Callable[[], float]

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        self.drain.check()
        principal = self.door.ring.identify(Headers(scope=scope).get("authorization"))
        outcome = Outcome(request_id(scope), principal, self.clock(), self.operation)
        exchange = Exchange(
            scope,
            receive,
            send,
            self.operation,
            outcome,
            TenantKeys.derive(self.door.secret, principal.tenant),
            self.dispatcher,
            self.door.limits,
            self.clock,
        )
        await exchange.run()
