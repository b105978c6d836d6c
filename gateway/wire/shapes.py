"""Answers of every dialect in OpenAI's one shape: changed in place, before anything reads them.

The names do not collide, and routers in front of several providers pass on any of them: so all
are known everywhere, and no dialect needs code of its own for them.
"""

from __future__ import annotations

from typing import Any

FINISH_REASONS = {"eos": "stop", "eos_token": "stop", "stop_sequence": "stop"}


def usage_to_openai(payload: dict[str, Any], cached: int | None = None) -> Any:
    """Its usage; `cached` are tokens that were told beside it, where it does not tell them."""
    usage = payload.get("usage")
    if usage is None and "x_groq" in payload:
        _move_usage(payload)
        usage = payload.get("usage")
    if isinstance(usage, dict):
        tell_cached(usage, _cached_elsewhere(payload))
        tell_cached(usage, cached)
    return usage


def tell_cached(usage: dict[str, Any], cached: int | None) -> None:
    """Put cached tokens where OpenAI has them, unless they are told there."""
    details = usage.get("prompt_tokens_details")
    told = details.get("cached_tokens") if isinstance(details, dict) else None
    if told is None and cached is not None:
        known = details if isinstance(details, dict) else {}
        usage["prompt_tokens_details"] = {**known, "cached_tokens": cached}


def choice_to_openai(choice: dict[str, Any]) -> Any:
    """Its finish reason, if it has one."""
    reason = choice.get("finish_reason")
    if isinstance(reason, str):
        reason = choice["finish_reason"] = FINISH_REASONS.get(reason, reason)
    for name in ("delta", "message"):
        said = choice.get(name)
        if isinstance(said, dict) and "reasoning" in said:
            _reasoning_to_openai(said)
    return reason


def _reasoning_to_openai(said: dict[str, Any]) -> None:
    if isinstance(said["reasoning"], str | None):
        thought = said.pop("reasoning")
        if thought is not None and said.get("reasoning_content") is None:
            said["reasoning_content"] = thought


def _move_usage(payload: dict[str, Any]) -> None:
    """Groq tells a stream's usage in `x_groq`."""
    groq = payload.get("x_groq")
    if isinstance(groq, dict) and isinstance(groq.get("usage"), dict):
        payload["usage"] = groq["usage"]


def _cached_elsewhere(payload: dict[str, Any]) -> int | None:
    """DeepSeek counts hits beside the tokens, Fireworks in its measurements."""
    hits = payload["usage"].get("prompt_cache_hit_tokens")
    if hits is None and isinstance(payload.get("perf_metrics"), dict):
        hits = payload["perf_metrics"].get("cached-prompt-tokens")
    return count(hits)


def count(value: Any) -> int | None:
    """A number of tokens, also as text: headers, and what is copied from them."""
    if isinstance(value, str) and value.isascii() and value.isdigit() and len(value) < 16:
        value = int(value)
    return value if type(value) is int and value >= 0 else None
