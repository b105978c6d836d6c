"""Groq."""

from __future__ import annotations

from typing import ClassVar

from gateway.emulator.asked import Asked, Refusal
from gateway.emulator.limits import Account, Full
from gateway.emulator.profile import Behaviours, Object, Profile, Usage, Usual, documented, inferred
from gateway.emulator.profiles.openai import duration, openai_limit_headers
from gateway.emulator.run import Run
from gateway.emulator.settings import Settings


class Groq(Profile):
    name = "groq"
    embeds = False
    reads = "console.groq.com/docs and the groq SDK's types"
    prefix = "/openai/v1"
    model = "openai/gpt-oss-120b"
    usage_in = Usage.FINISH
    cached_is_free = True
    bills_hang_ups_whole = True
    reasoning_field = "reasoning"
    defaults = Settings(
        requests_per_minute=1000,
        tokens_per_minute=250_000,
        requests_per_day=500_000,
        tokens_per_s=500.0,
        input_usd=0.15,
        cached_usd=0.075,
        output_usd=0.6,
    )
    usual: ClassVar[Usual] = {
        413: ("Request entity too large.", "invalid_request_error", "request_too_large"),
        498: ("Flex tier capacity exceeded.", "capacity_error", "capacity_exceeded"),
        429: ("Rate limit reached for this model.", "tokens", "rate_limit_exceeded"),
    }
    behaviours: ClassVar[Behaviours] = (
        documented("a stream's first event has `x_groq.id`, its last `x_groq.usage`"),
        documented("usage has queue, prompt, completion and total times"),
        documented(
            "`x-ratelimit-*-requests` count a day, `-tokens` a minute; `retry-after` on 429"
        ),
        documented("cached tokens do not count towards limits"),
        documented("`service_tier: flex` without capacity: 498 `capacity_exceeded`"),
        documented("structured output goes neither with streams nor with tools: 400"),
        documented("a hang-up does not stop the bill"),
        inferred(
            "resets are written like `2m59.56s`; 400 `tool_use_failed` has `failed_generation`"
        ),
        inferred("an error in a stream is an event with `error`, and the end"),
    )

    def check(self, asked: Asked) -> None:
        wanted = asked.body.get("response_format")
        structured = isinstance(wanted, dict) and wanted.get("type") == "json_schema"
        if structured and (asked.stream or asked.offers_tools):
            text = "json_schema is not supported with streaming or tools"
            raise Refusal(400, text, kind="invalid_request_error", param="response_format")

    def tier(self, asked: Asked) -> str:
        return "flex" if asked.body.get("service_tier") == "flex" else "on_demand"

    def refusal(self, status: int) -> Refusal:
        refusal = super().refusal(status)
        if status == 429:
            refusal.headers["retry-after"] = "1"
        return refusal

    def body(self, refusal: Refusal) -> Object:
        if refusal.code == "tool_use_failed":
            refusal.extra = {"failed_generation": "<function=…", **refusal.extra}
        body = super().body(refusal)
        return {"error": {k: v for k, v in body["error"].items() if v is not None}}

    def limited(self, full: Full, account: Account, asked: Asked) -> Refusal:
        status = 498 if asked.body.get("service_tier") == "flex" else 429
        refusal = self.refusal(status)
        if status == 429:
            refusal.headers["retry-after"] = f"{max(0.001, full.wait_s):.3f}"
        return refusal

    def limit_headers(self, account: Account) -> dict[str, str]:
        headers, day, now = openai_limit_headers(account), account.day, account.now()
        if day.limit:
            headers["x-ratelimit-limit-requests"] = f"{day.limit:.0f}"
            headers["x-ratelimit-remaining-requests"] = f"{day.remaining(now):.0f}"
            headers["x-ratelimit-reset-requests"] = duration(day.reset_s(now))
        return headers

    def usage(self, run: Run) -> Object:
        times = {
            "queue_time": run.queue_s,
            "prompt_time": run.prefill_s,
            "completion_time": run.decode_s,
            "total_time": run.queue_s + run.prefill_s + run.decode_s,
        }
        return {**super().usage(run), **times}

    def first_event(self, chunk: Object, run: Run) -> None:
        chunk["x_groq"] = {"id": f"req_{run.number}"}

    def finish_event(self, chunk: Object, run: Run) -> None:
        usage = chunk.pop("usage", None)
        chunk["x_groq"] = {"id": f"req_{run.number}"} | ({"usage": usage} if usage else {})

    def whole(self, answer: Object, run: Run) -> None:
        answer["x_groq"] = {"id": f"req_{run.number}"}
        answer["service_tier"] = run.tier
