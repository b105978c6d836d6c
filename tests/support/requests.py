"""Requests as a client writes them, and as the gateway reads them."""

from __future__ import annotations

import json
from typing import Any

from gateway.domain import InferenceRequest, Operation
from gateway.wire.openai import TenantKeys, parse_request

SECRET = b"the gateway's own"


def turns(*texts: str) -> list[dict[str, str]]:
    """A conversation that the user begins."""
    return [
        {"role": ("user", "assistant")[index % 2], "content": text}
        for index, text in enumerate(texts)
    ]


def parsed(
    body: dict[str, Any] | bytes, operation: Operation = Operation.CHAT, *, tenant: str = "acme"
) -> InferenceRequest:
    raw = body if isinstance(body, bytes) else json.dumps(body).encode()
    return parse_request(operation, raw, TenantKeys.derive(SECRET, tenant))


def chat(*texts: str, tenant: str = "acme", **fields: Any) -> InferenceRequest:
    return parsed({"model": "m", "messages": turns(*(texts or ("hi",))), **fields}, tenant=tenant)


def completion(prompt: Any = "hi", *, tenant: str = "acme", **fields: Any) -> InferenceRequest:
    body = {"model": "m", "prompt": prompt, **fields}
    return parsed(body, Operation.COMPLETION, tenant=tenant)
