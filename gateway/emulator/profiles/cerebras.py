"""Cerebras."""

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
    Object,
    Profile,
    Usage,
    Usual,
    documented,
    inferred,
)
from gateway.emulator.run import Run
from gateway.emulator.settings import Settings


class Cerebras(Profile):
    name = "cerebras"
    embeds = False
    reads = "Cerebras' docs and its SDK's types"
    model = "gpt-oss-120b"
    usage_in = Usage.FINISH
    cached_is_free = True
    reasoning_field = "reasoning"
    defaults = Settings(
        block_tokens=128,
        requests_per_day=14_400,
        tokens_per_minute=1_000_000,
        tokens_per_s=2000.0,
        input_usd=0.35,
        output_usd=0.75,
    )
    usual: ClassVar[Usual] = {
        401: ("Wrong API Key", "invalid_request_error", "wrong_api_key"),
        402: ("Payment required.", "payment_required_error", "payment_required"),
        429: ("Too many requests.", "too_many_requests_error", "request_quota_exceeded"),
        503: ("Too many people are trying right now.", "too_many_requests_error", "queue_exceeded"),
    }
    behaviours: ClassVar[Behaviours] = (
        documented("`time_info` beside usage: queue, prompt, completion and total times"),
        documented("caches in blocks of 128 tokens; cached tokens cost as much as others"),
        documented("`prompt_cache_key` keeps a conversation together"),
        documented("`x-ratelimit-*-requests-day` and `-tokens-minute`, resets in seconds"),
        documented("an error in a stream has `status_code` beside `error`"),
        documented("`GET /v1/tcp_warming` answers"),
        documented("every event and answer has a `system_fingerprint`"),
        documented("uncached tokens have a limit of their own"),
        inferred("errors are flat, `{message, type, param, code}`; usage on the finish event"),
    )

    def affinity(self, asked: Asked, headers: Mapping[str, str]) -> str | None:
        named = asked.body.get("prompt_cache_key")
        return str(named) if named else None

    def body(self, refusal: Refusal) -> Object:
        return dict(super().body(refusal)["error"])

    def error_event(self, refusal: Refusal, run: Run) -> Object:
        return {
            "error": {"id": run.id, **self.body(refusal)},
            "status_code": refusal.status,
        }

    def limit_headers(self, account: Account) -> dict[str, str]:
        headers, now = {}, account.now()
        for what, bucket in (("requests-day", account.day), ("tokens-minute", account.tokens)):
            if bucket.limit:
                headers[f"x-ratelimit-limit-{what}"] = f"{bucket.limit:.0f}"
                headers[f"x-ratelimit-remaining-{what}"] = f"{max(0, bucket.remaining(now)):.0f}"
                headers[f"x-ratelimit-reset-{what}"] = f"{bucket.reset_s(now):.3f}"
        return headers

    def head(self, run: Run) -> Object:
        return {"system_fingerprint": f"fp_{self.model}"}

    def finish_event(self, chunk: Object, run: Run) -> None:
        chunk["time_info"] = _times(run)

    def whole(self, answer: Object, run: Run) -> None:
        answer["time_info"] = _times(run)

    def route(self, request: Request, machine: Machine) -> Answer | None:
        return Answer(200, b"{}") if request.path == "/v1/tcp_warming" else None


def _times(run: Run) -> Object:
    return {
        "queue_time": run.queue_s,
        "prompt_time": run.prefill_s,
        "completion_time": run.decode_s,
        "total_time": run.queue_s + run.prefill_s + run.decode_s,
        "created": run.created,
    }
