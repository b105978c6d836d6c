"""OpenRouter."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

from gateway.emulator.asked import Asked, Refusal
from gateway.emulator.limits import Account, Full
from gateway.emulator.profile import Behaviours, Object, Profile, Usage, documented, inferred
from gateway.emulator.run import Run
from gateway.emulator.settings import Settings


class OpenRouter(Profile):
    name = "openrouter"
    reads = "OpenRouter's published documentation sources"
    prefix = "/api/v1"
    model = "openai/gpt-oss-120b"
    usage_in = Usage.ALWAYS
    waiting_comment = "OPENROUTER PROCESSING"
    reasoning_field = "reasoning"
    defaults = Settings(replicas=4, input_usd=0.1, cached_usd=0.05, output_usd=0.5)
    behaviours: ClassVar[Behaviours] = (
        documented("comments `: OPENROUTER PROCESSING` before the first token"),
        documented("usage always, in a last event, with `cost` and `cost_details`"),
        documented("errors are `{error: {code: status, message, metadata}}`"),
        documented("an error after the beginning may come under status 200"),
        documented("an error in a stream has a choice with finish reason `error`"),
        documented("no charge for an answer that is empty or failed"),
        documented("`session_id`, then `x-session-id`, then `prompt_cache_key` are sticky"),
        documented("`x-ratelimit-*` only on its own 429; `retry-after` on 429 and 503"),
        documented("each response has an `x-generation-id`"),
        inferred("the prices; all of a session on one replica"),
    )

    def affinity(self, asked: Asked, headers: Mapping[str, str]) -> str | None:
        named = asked.body.get("session_id") or headers.get("x-session-id")
        named = named or asked.body.get("prompt_cache_key")
        return str(named) if named else None

    def refusal(self, status: int) -> Refusal:
        refusal = super().refusal(status)
        if status in (429, 503):
            refusal.headers["retry-after"] = "1"
        return refusal

    def limited(self, full: Full, account: Account, asked: Asked) -> Refusal:
        refusal = self.refusal(429)
        refusal.headers = {
            "retry-after": f"{max(0.001, full.wait_s):.3f}",
            "x-ratelimit-limit": f"{account.requests.limit:.0f}",
            "x-ratelimit-remaining": "0",
        }
        return refusal

    def body(self, refusal: Refusal) -> Object:
        metadata: Object = {"error_type": refusal.kind, "provider_code": refusal.code}
        error: Object = {
            "code": refusal.status,
            "message": refusal.message,
            "metadata": metadata,
        }
        if retry_after := refusal.headers.get("retry-after"):
            error["availability"] = {
                "code": refusal.code,
                "retryable": True,
                "retry_after": float(retry_after),
            }
        return {"error": error}

    def error_event(self, refusal: Refusal, run: Run) -> Object:
        choice: Object = {"index": 0, "delta": {"content": ""}, "finish_reason": "error"}
        head = {"id": run.id, "object": "chat.completion.chunk", "created": run.created}
        return {**head, "model": run.asked.model, **self.body(refusal), "choices": [choice]}

    def usage(self, run: Run) -> Object:
        counts: dict[str, Any] = super().usage(run)
        cost = super().usd(run, run.completion_tokens)
        counts["prompt_tokens_details"]["cache_write_tokens"] = 0
        details = {"upstream_inference_cost": cost}
        return {**counts, "cost": cost, "cost_details": details}

    def usd(self, run: Run, completion_tokens: int) -> float:
        return super().usd(run, completion_tokens) if run.finished and completion_tokens else 0.0

    def served_headers(self, run: Run) -> dict[str, str]:
        return {"x-generation-id": run.id}
