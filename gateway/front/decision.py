"""Why an endpoint was chosen, in one response header, for a caller that asks and may know."""

from __future__ import annotations

import json
from collections.abc import Mapping

from gateway.domain import Considered, Outcome, first_choice

ASK = "x-gateway-explain"
HEADER = "x-gateway-decision"
MAX_BYTES = 4096
"""Proxies in front of us take 8 KB of headers or refuse the answer."""


def decision_headers(outcome: Outcome, asked: Mapping[str, str]) -> dict[str, str]:
    if asked.get(ASK) != "1" or not outcome.principal.may_explain or outcome.policy is None:
        return {}
    return {HEADER: decision_json(outcome)}


def decision_json(outcome: Outcome) -> str:
    """ASCII on one line, at most `MAX_BYTES`; candidates that do not fit are cut from the end."""
    chosen = first_choice(outcome.considered)
    head = {
        "policy": outcome.policy,
        "model": outcome.request.model if outcome.request else outcome.model,
        "chosen": chosen.endpoint if chosen else None,
        "cut": len(outcome.considered),
    }
    left = MAX_BYTES - len(_compact(head | {"considered": []}))
    shown: list[dict[str, object]] = []
    for considered in outcome.considered:
        fields = _fields(considered)
        left -= len(_compact(fields)) + 1  # and a comma
        if left < 0:
            break
        shown.append(fields)
    return _compact(head | {"cut": len(outcome.considered) - len(shown), "considered": shown})


def _fields(considered: Considered) -> dict[str, object]:
    if considered.dropped_by is not None:
        dropped = {"endpoint": considered.endpoint, "dropped_by": considered.dropped_by}
        return dropped | _said(unavailable=considered.unavailable)
    values = {name: getattr(considered, name) for name in considered.__slots__}
    for name in ("dropped_by", "unavailable", "limited", "full"):
        del values[name]
    said = _said(
        unavailable=considered.unavailable,
        limited=considered.limited or None,
        full=considered.full or None,
    )
    return said | {k: float(f"{v:.6g}") if isinstance(v, float) else v for k, v in values.items()}


def _said(**fields: object) -> dict[str, object]:
    return {name: value for name, value in fields.items() if value is not None}


def _compact(value: object) -> str:
    return json.dumps(value, separators=(",", ":"))
