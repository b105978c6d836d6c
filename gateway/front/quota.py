"""What is left of the caller's limits, as OpenAI's headers say it."""

from __future__ import annotations

from collections.abc import Iterable

from gateway.domain import Quota


def quota_headers(quotas: Iterable[Quota]) -> dict[str, str]:
    headers: dict[str, str] = {}
    for quota in quotas:
        headers[f"x-ratelimit-limit-{quota.what}"] = str(int(quota.limit))
        headers[f"x-ratelimit-remaining-{quota.what}"] = str(int(quota.left + 1e-6))
        headers[f"x-ratelimit-reset-{quota.what}"] = _span(quota.reset_s)
    return headers


def _span(seconds: float) -> str:
    """`120ms`, `7.66s`, `6m0s`, `23h0m12s`: as OpenAI writes them."""
    if seconds < 1:
        return f"{round(seconds * 1000)}ms"
    if seconds < 60:
        return f"{seconds:.4g}s"
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}h{minutes}m{rest}s" if hours else f"{minutes}m{rest}s"
