"""Together AI: serverless, and dedicated endpoints."""

from __future__ import annotations

from collections.abc import Mapping
from hashlib import blake2b
from typing import ClassVar

from gateway.emulator.asked import Asked, Refusal
from gateway.emulator.limits import Account
from gateway.emulator.profile import Behaviours, Cold, Object, Profile, Usual, documented, inferred
from gateway.emulator.run import Run
from gateway.emulator.settings import Settings


class Together(Profile):
    name = "together"
    reads = "docs.together.ai and the together SDK's types"
    model = "openai/gpt-oss-120b"
    adaptive = True
    reasoning_field = "reasoning"
    defaults = Settings(
        replicas=4,
        requests_per_minute=600,
        tokens_per_minute=180_000,
        input_usd=0.15,
        output_usd=0.6,
    )
    usual: ClassVar[Usual] = {
        402: ("The spend limit has been reached.", "credit_limit", None),
        429: ("You have reached the rate limit for this model.", "rate_limit", "rate_limit"),
        503: ("The service is overloaded, please retry.", "service_unavailable", None),
        524: ("The request timed out.", "timeout", None),
    }
    behaviours: ClassVar[Behaviours] = (
        documented("above the dynamic rate 429, for want of capacity below it 503"),
        documented("a prompt and answer over the context: 403"),
        documented("errors are `{error: {message, type, param, code}}`"),
        documented("finish reason `eos` where the model stops by itself"),
        documented("reasoning in `reasoning`"),
        documented(
            "headers `x-ratelimit-{limit,remaining,reset}`, `x-tokenlimit-{limit,remaining}`"
        ),
        documented("`x-cluster` says who served"),
        documented("usage knows no cached tokens"),
        inferred("the dynamic rate is twice the last minute's; usage only if asked"),
        inferred("an error in a stream is an event with `error`, and the end"),
    )

    def overflow(self, asked: Asked, prompt_tokens: int) -> Refusal | None:
        limit = self.settings.context_tokens
        text = (
            f"Input validation error: `inputs` tokens + `max_new_tokens` must be <= {limit}. "
            f"Given: {prompt_tokens} `inputs` tokens and {asked.max_tokens or 0} `max_new_tokens`"
        )
        return Refusal(403, text, kind="invalid_request_error", param="max_tokens")

    def finish_reason(self, reason: str) -> str:
        return "eos" if reason == "stop" else reason

    def usage(self, run: Run) -> Object:
        counts = super().usage(run)
        return {k: v for k, v in counts.items() if not k.endswith("_details")}

    def limit_headers(self, account: Account) -> dict[str, str]:
        now, requests, of_tokens = account.now(), account.requests, account.tokens
        headers = {}
        if requests.limit:
            headers["x-ratelimit-limit"] = f"{requests.limit:.0f}"
            headers["x-ratelimit-remaining"] = f"{max(0, requests.remaining(now)):.0f}"
            headers["x-ratelimit-reset"] = f"{requests.reset_s(now):.3f}"
        if of_tokens.limit:
            headers["x-tokenlimit-limit"] = f"{of_tokens.limit:.0f}"
            headers["x-tokenlimit-remaining"] = f"{max(0, of_tokens.remaining(now)):.0f}"
        return headers

    def served_headers(self, run: Run) -> dict[str, str]:
        return {"x-request-id": run.id, "x-cluster": f"emulated-{run.replica}"}


class TogetherDedicated(Together):
    name = "together-dedicated"
    model = "my-project/my-endpoint"
    adaptive = False
    cold = Cold.REFUSE
    defaults = Settings(replicas=2, slots=8, cold_start_s=120.0, idle_s=1e9)
    usual: ClassVar[Usual] = {
        **Together.usual,
        503: ("No ready replica for this endpoint.", "routing_error", "routing_error"),
    }
    behaviours: ClassVar[Behaviours] = (
        documented("without a ready replica 503 `routing_error`"),
        documented("`prompt_cache_key`, then `user`, then the content choose the deployment"),
        documented("it does not stop by itself; `POST /emulator/stop` stops it"),
        documented("headers `x-cluster` and `x-i-router-log-event`"),
        documented("a prompt and answer over the context: 403; finish reason `eos`"),
        inferred("each deployment is one replica; a request starts one that is stopped"),
    )

    def affinity(self, asked: Asked, headers: Mapping[str, str]) -> str | None:
        named = asked.body.get("prompt_cache_key") or asked.body.get("user")
        return str(named or blake2b(asked.conversation.encode("utf-8", "replace")).hexdigest())

    def served_headers(self, run: Run) -> dict[str, str]:
        return {**super().served_headers(run), "x-i-router-log-event": run.id}
