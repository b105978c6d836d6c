"""Baseten: Model APIs, and dedicated deployments."""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar

from gateway.emulator.asked import Asked, Refusal
from gateway.emulator.http import Request
from gateway.emulator.limits import Account
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
from gateway.emulator.profiles.openai import openai_limit_headers
from gateway.emulator.run import Run
from gateway.emulator.settings import Settings


class Baseten(Profile):
    name = "baseten"
    reads = "docs.baseten.co"
    model = "openai/gpt-oss-120b"
    defaults = Settings(
        replicas=2,
        requests_per_minute=120,
        tokens_per_minute=500_000,
        input_usd=0.1,
        cached_usd=0.1,
        output_usd=0.5,
    )
    usual: ClassVar[Usual] = {
        402: ("The workspace has used up its budget.", "error", None),
        429: ("Rate limit exceeded.", "error", None),
        529: ("There is no serving capacity for this model right now.", "error", None),
    }
    behaviours: ClassVar[Behaviours] = (
        documented("errors are `{error: text}`"),
        documented("402 for billing, 529 for no capacity within the limits"),
        documented("`x-session-affinity` keeps a conversation on one replica"),
        documented("15, 120 or more requests a minute, by the account (120 here)"),
        documented("each response has an `x-baseten-request-id`"),
        inferred("the limit headers are named like OpenAI's"),
        inferred("cached usage stands in `prompt_tokens_details`; no `retry-after`"),
        inferred("an error in a stream is an event with `error`, and the end"),
    )

    def affinity(self, asked: Asked, headers: Mapping[str, str]) -> str | None:
        return headers.get("x-session-affinity")

    def body(self, refusal: Refusal) -> Object:
        return {"error": refusal.message}

    def overloaded(self) -> Refusal:
        return self.refusal(529)

    def limit_headers(self, account: Account) -> dict[str, str]:
        return openai_limit_headers(account)

    def served_headers(self, run: Run) -> dict[str, str]:
        return {"x-baseten-request-id": run.id}


class BasetenDedicated(Baseten):
    name = "baseten-dedicated"
    prefix = "/environments/production/sync/v1"
    model = "abcd1234"
    cold = Cold.HOLD
    defaults = Settings(cold_start_s=90.0, wait_s=1200.0, slots=8)
    behaviours: ClassVar[Behaviours] = (
        documented("errors are `{error: text}`"),
        documented("the key goes as `Api-Key KEY`; `Bearer` is refused with 401"),
        documented("with no replica the request is held, after 1200 s 504"),
        documented("`POST /production/wake` starts a replica; idle for 900 s it stops"),
        documented("`model` in the body is ignored"),
        inferred("`x-session-affinity` keeps a conversation on one replica"),
        inferred("streams are a plain engine's"),
    )

    def key(self, headers: Mapping[str, str]) -> str | None:
        scheme, _, key = headers.get("authorization", "").partition(" ")
        return key.strip() or None if scheme.lower() == "api-key" else None

    def limit_headers(self, account: Account) -> dict[str, str]:
        return {}

    def route(self, request: Request, machine: Machine) -> Answer | None:
        if request.method == "POST" and request.path.endswith("/wake"):
            if self.key(request.headers) is None:
                raise self.refusal(401)
            machine.start()
            return Answer(202, b"{}")
        return None
