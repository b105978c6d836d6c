"""Modal: web functions, and servers. Behind both is an engine like vLLM."""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar

from gateway.emulator.asked import Asked, Refusal
from gateway.emulator.http import Request
from gateway.emulator.limits import Account, Full
from gateway.emulator.machine import Machine
from gateway.emulator.profile import (
    Answer,
    Behaviours,
    Cold,
    Object,
    Profile,
    Usual,
    documented,
    inferred,
)
from gateway.emulator.settings import Settings


class ModalFunction(Profile):
    name = "modal-function"
    reads = "modal.com/docs"
    model = "Qwen/Qwen3.5-4B"
    credentials: ClassVar[Mapping[str, str]] = {"api_key": "wk-rehearsal", "secret": "ws-rehearsal"}
    cold = Cold.HOLD
    result_wait_s: ClassVar[float | None] = 150.0
    continues = True
    bills_hang_ups_whole = True
    defaults = Settings(cold_start_s=60.0, idle_s=60.0, wait_s=3000.0, slots=8)
    usual: ClassVar[Usual] = {
        401: ("modal-http: missing credentials for proxy authorization", "error", None)
    }
    behaviours: ClassVar[Behaviours] = (
        documented("`Modal-Key` and `Modal-Secret`, else 401 before the engine"),
        documented("after 150 s 303 to where the result will be; a GET there waits 150 s more"),
        documented("with no container the request is held"),
        inferred("the result's address has `__modal_function_call_id`"),
        inferred("the body of 401 is `{error: text}`, and a hang-up changes no bill"),
        inferred("everything else is a plain engine's"),
    )

    def key(self, headers: Mapping[str, str]) -> str | None:
        key, secret = headers.get("modal-key"), headers.get("modal-secret")
        return key if key and secret else None

    def body(self, refusal: Refusal) -> Object:
        return {"error": refusal.message} if refusal.status == 401 else super().body(refusal)


class ModalServer(ModalFunction):
    name = "modal-server"
    cold = Cold.REFUSE
    result_wait_s = None
    defaults = Settings(cold_start_s=60.0, idle_s=60.0, replicas=2, slots=8, max_queued=1)
    usual: ClassVar[Usual] = {
        **ModalFunction.usual,
        429: ("Too many concurrent requests", "error", None),
        503: ("No live replica", "error", None),
    }
    behaviours: ClassVar[Behaviours] = (
        documented("`Modal-Key` and `Modal-Secret`, else 401 before the engine"),
        documented("with no live replica 503 at once, and a start; no queue, no retries"),
        documented("over the concurrency 429"),
        documented("`Modal-Session-ID` or `Modal-Routing-Affinity-Key` choose by rendezvous"),
        documented("`/health` is the engine's, 503 until it is up"),
        inferred("bodies of 401, 429 and 503; no `retry-after`"),
        inferred("everything else is a plain engine's"),
    )

    def affinity(self, asked: Asked, headers: Mapping[str, str]) -> str | None:
        return headers.get("modal-session-id") or headers.get("modal-routing-affinity-key")

    def overloaded(self) -> Refusal:
        return self.refusal(429)

    def limited(self, full: Full, account: Account, asked: Asked) -> Refusal:
        return self.refusal(429)

    def route(self, request: Request, machine: Machine) -> Answer | None:
        if request.path != "/health":
            return None
        if self.key(request.headers) is None:
            raise self.refusal(401)
        if machine.start():
            raise self.refusal(503)
        return Answer(200, b"{}")
