"""DeepInfra."""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar

from gateway.emulator.asked import Asked, Refusal
from gateway.emulator.limits import Account, Full
from gateway.emulator.profile import Behaviours, Object, Profile, Usual, documented, inferred
from gateway.emulator.run import Run
from gateway.emulator.settings import Settings

FACTORS = {"priority": 1.5, "flex": 0.8}


class DeepInfra(Profile):
    name = "deepinfra"
    reads = "reading notes on deepinfra.com's docs, and its clients"
    prefix = "/v1/openai"
    model = "openai/gpt-oss-120b"
    defaults = Settings(replicas=4, concurrency=200, input_usd=0.037, output_usd=0.17)
    usual: ClassVar[Usual] = {
        429: ("Rate limited", "error", None),
        401: ("Invalid authentication", "error", None),
    }
    behaviours: ClassVar[Behaviours] = (
        documented("200 requests at once, then 429 `Rate limited`; no limit headers"),
        documented("errors are `{detail: text}`, for a field `{detail: [{loc, msg, type}]}`"),
        documented("`service_tier` priority costs 1.5 times, flex 0.8; the answer echoes it"),
        documented("`tool_choice` is auto or none, else 422"),
        documented("`prompt_cache_key` keeps a conversation together"),
        inferred("usage has `estimated_cost`"),
        inferred("an error in a stream is an event with `error`, and the end"),
    )

    def affinity(self, asked: Asked, headers: Mapping[str, str]) -> str | None:
        named = asked.body.get("prompt_cache_key")
        return str(named) if named else None

    def check(self, asked: Asked) -> None:
        if asked.tool is not None:
            text = "tool_choice must be auto or none"
            raise Refusal(422, text, kind="value_error", param="tool_choice")

    def tier(self, asked: Asked) -> str:
        wanted = asked.body.get("service_tier")
        return wanted if wanted in FACTORS else "default"

    def price_factor(self, tier: str) -> float:
        return FACTORS.get(tier, 1.0)

    def limited(self, full: Full, account: Account, asked: Asked) -> Refusal:
        return self.refusal(429)

    def body(self, refusal: Refusal) -> Object:
        if refusal.param is not None:
            where = ["body", refusal.param]
            return {"detail": [{"loc": where, "msg": refusal.message, "type": refusal.kind}]}
        return {"detail": refusal.message}

    def error_event(self, refusal: Refusal, run: Run) -> Object:
        return {"error": {"message": refusal.message, "type": refusal.kind}}

    def usage(self, run: Run) -> Object:
        return {**super().usage(run), "estimated_cost": self.usd(run, run.completion_tokens)}

    def first_event(self, chunk: Object, run: Run) -> None:
        chunk["service_tier"] = run.tier

    def whole(self, answer: Object, run: Run) -> None:
        answer["service_tier"] = run.tier
