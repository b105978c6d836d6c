"""Any OpenAI-compatible server: the base, with its limit headers."""

from __future__ import annotations

from typing import ClassVar

from gateway.emulator.asked import Asked, Refusal
from gateway.emulator.limits import Account, Full
from gateway.emulator.profile import Behaviours, Profile, documented, inferred


def duration(seconds: float) -> str:
    """`12ms`, `1.5s`, `2m59.56s`"""
    if seconds < 1:
        return f"{seconds * 1000:.0f}ms"
    minutes, rest = divmod(round(seconds, 3), 60)
    return f"{minutes:.0f}m{rest:g}s" if minutes else f"{rest:g}s"


def openai_limit_headers(account: Account) -> dict[str, str]:
    """`x-ratelimit-{limit,remaining,reset}-{requests,tokens}`, for the limits that there are."""
    headers, now = {}, account.now()
    for what, bucket in (("requests", account.requests), ("tokens", account.tokens)):
        if bucket.limit:
            headers[f"x-ratelimit-limit-{what}"] = f"{bucket.limit:.0f}"
            headers[f"x-ratelimit-remaining-{what}"] = f"{max(0, bucket.remaining(now)):.0f}"
            headers[f"x-ratelimit-reset-{what}"] = duration(bucket.reset_s(now))
    return headers


class OpenAI(Profile):
    name = "openai"
    reads = "OpenAI's API reference"
    model = "some-model"
    null_usage = True
    behaviours: ClassVar[Behaviours] = (
        documented("errors are `{error: {message, type, param, code}}`, all four keys"),
        documented("usage in a last event with no choices, if asked; `usage: null` before it"),
        documented("headers `x-ratelimit-{limit,remaining,reset}-{requests,tokens}`"),
        documented("a stream ends with `[DONE]`"),
        inferred("an error in a stream is an event with `error`, and the end"),
        inferred("a 429 names the seconds in `retry-after`"),
    )

    def limit_headers(self, account: Account) -> dict[str, str]:
        return openai_limit_headers(account)

    def limited(self, full: Full, account: Account, asked: Asked) -> Refusal:
        refusal = self.refusal(429)
        refusal.headers["retry-after"] = f"{max(0.001, full.wait_s):.3f}"
        return refusal
