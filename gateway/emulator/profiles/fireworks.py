"""Fireworks AI: serverless, and on-demand deployments."""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar

from gateway.emulator.asked import Asked, Refusal
from gateway.emulator.limits import Account, Full
from gateway.emulator.profile import (
    Behaviours,
    Cold,
    Object,
    Profile,
    Usage,
    Usual,
    documented,
    inferred,
)
from gateway.emulator.run import Run
from gateway.emulator.settings import Settings

SHARED = (
    documented("usage comes unasked, in the event with the finish reason"),
    documented(
        "headers `fireworks-prompt-tokens`, `fireworks-cached-prompt-tokens`, "
        "`fireworks-server-time-to-first-token`, where the answer is no stream"
    ),
    documented("`perf_metrics_in_response` puts the same into the last event or the answer"),
    documented("`prompt_cache_key`, then `user`, then `x-session-affinity` choose the replica"),
    documented("`prompt_cache_isolation_key` and its header keep caches apart"),
    documented(
        "a prompt that is too long is cut, unless `context_length_exceeded_behavior: error`"
    ),
    documented("both `max_tokens` and `max_completion_tokens`: 400"),
    documented("412 for a suspended account"),
    inferred("an error in a stream is an event with `error`, and the end"),
)


class Fireworks(Profile):
    name = "fireworks"
    reads = "docs.fireworks.ai and the fireworks-ai SDK's types"
    prefix = "/inference/v1"
    model = "accounts/fireworks/models/gpt-oss-120b"
    usage_in = Usage.FINISH
    adaptive = True
    defaults = Settings(
        replicas=4,
        tokens_per_minute=900_000,
        requests_per_minute=6000,
        input_usd=0.15,
        cached_usd=0.015,
        output_usd=0.6,
    )
    cached_is_free = True
    usual: ClassVar[Usual] = {
        412: ("Account is suspended.", "error", "ACCOUNT_SUSPENDED"),
        429: ("Rate limit exceeded.", "error", "RATE_LIMIT_EXCEEDED"),
        503: ("The service is overloaded, please try again later.", "error", "OVERLOADED"),
    }
    behaviours: ClassVar[Behaviours] = (
        *SHARED,
        documented("the limit on uncached tokens follows use: 429 on a steep ramp"),
        documented("limit headers count tokens per second"),
        documented("503 sheds the standard tier before `service_tier: priority`"),
        inferred("bodies of 429 and 503; priority costs 1.5 times; no `retry-after`"),
    )

    def affinity(self, asked: Asked, headers: Mapping[str, str]) -> str | None:
        named = asked.body.get("prompt_cache_key") or asked.body.get("user")
        return str(named) if named else headers.get("x-session-affinity")

    def cache_salt(self, asked: Asked, headers: Mapping[str, str], account: str) -> str:
        apart = asked.body.get("prompt_cache_isolation_key")
        return f"{account}/{apart or headers.get('x-prompt-cache-isolation-key', '')}"

    def check(self, asked: Asked) -> None:
        if "max_tokens" in asked.body and "max_completion_tokens" in asked.body:
            text = "Only one of max_tokens and max_completion_tokens may be given."
            raise Refusal(400, text, kind="invalid_request_error")

    def overflow(self, asked: Asked, prompt_tokens: int) -> Refusal | None:
        if asked.body.get("context_length_exceeded_behavior") != "error":
            return None
        return super().overflow(asked, prompt_tokens)

    def tier(self, asked: Asked) -> str:
        return "priority" if asked.body.get("service_tier") == "priority" else "default"

    def price_factor(self, tier: str) -> float:
        return 1.5 if tier == "priority" else 1.0

    def body(self, refusal: Refusal) -> Object:
        error = {"message": refusal.message, "type": refusal.kind or "error"}
        return {"error": error | ({"code": refusal.code} if refusal.code else {})}

    def limited(self, full: Full, account: Account, asked: Asked) -> Refusal:
        refusal = self.refusal(429)
        refusal.headers["x-ratelimit-over-limit"] = "yes"
        return refusal

    def limit_headers(self, account: Account) -> dict[str, str]:
        per_s = account.tokens.limit / 60
        shares = (("prompt", 4), ("cache-adjusted-prompt", 1), ("generated", 0.04))
        return {f"x-ratelimit-limit-tokens-{what}": f"{per_s * n:.0f}" for what, n in shares}

    def whole_headers(self, run: Run) -> dict[str, str]:
        return {f"fireworks-{name}": value for name, value in _metrics(run).items()}

    def finish_event(self, chunk: Object, run: Run) -> None:
        if run.asked.body.get("perf_metrics_in_response"):
            chunk["perf_metrics"] = _metrics(run)

    def whole(self, answer: Object, run: Run) -> None:
        if run.asked.body.get("perf_metrics_in_response"):
            answer["perf_metrics"] = _metrics(run)


class FireworksDedicated(Fireworks):
    name = "fireworks-dedicated"
    model = "accounts/me/deployedModels/mine"
    cold = Cold.REFUSE
    adaptive = False
    defaults = Settings(cold_start_s=120.0, idle_s=3600.0, slots=8)
    behaviours: ClassVar[Behaviours] = (
        *SHARED,
        documented("scaled to zero: 503 `DEPLOYMENT_SCALING_UP` at once, and a start"),
        documented("idle for an hour it scales to zero"),
    )

    def limit_headers(self, account: Account) -> dict[str, str]:
        return {}

    def starting(self, wait_s: float) -> Refusal:
        text = (
            "Deployment is currently scaled to zero and is scaling up. "
            "Please retry your request in a few minutes."
        )
        return Refusal(503, text, kind="error", code="DEPLOYMENT_SCALING_UP")


def _metrics(run: Run) -> dict[str, str]:
    first_s = run.queue_s + run.prefill_s
    return {
        "prompt-tokens": str(run.prompt_tokens),
        "cached-prompt-tokens": str(run.cached_tokens),
        "server-time-to-first-token": f"{first_s:.3f}",
        "server-processing-time": f"{first_s + run.decode_s:.3f}",
    }
