"""The items that a response was made from, page by page."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from gateway.errors import InvalidRequest, UnsupportedRequest

MOST = 100
PREFIXES = {"function_call": "fc", "function_call_output": "fco", "reasoning": "rs"}


def page(response_id: str, items: Sequence[Any], query: Mapping[str, str]) -> dict[str, Any]:
    """The newest first, unless `order` says otherwise. Raises InvalidRequest."""
    for name in query:
        if name not in ("limit", "order", "after"):
            raise UnsupportedRequest(f"{name!r} is not known here", param=name)
    limit, order = query.get("limit", "20"), query.get("order", "desc")
    if len(limit) > 9 or not limit.isdecimal() or not 1 <= int(limit) <= MOST:
        raise InvalidRequest(f"'limit' must be a number from 1 to {MOST}", param="limit")
    if order not in ("asc", "desc"):
        raise InvalidRequest("'order' must be asc or desc", param="order")
    listed = [_named(response_id, index, item) for index, item in enumerate(items)]
    if order == "desc":
        listed.reverse()
    if "after" in query:
        ids = [item["id"] for item in listed]
        if query["after"] not in ids:
            raise InvalidRequest("'after' names none of these items", param="after")
        listed = listed[ids.index(query["after"]) + 1 :]
    shown = listed[: int(limit)]
    return {
        "object": "list",
        "data": shown,
        "first_id": shown[0]["id"] if shown else None,
        "last_id": shown[-1]["id"] if shown else None,
        "has_more": len(listed) > len(shown),
    }


def _named(response_id: str, index: int, item: dict[str, Any]) -> dict[str, Any]:
    kind = item.get("type", "message")
    number = response_id.partition("_")[2]
    id = f"{PREFIXES.get(kind, 'msg')}_{number}i{index:04x}"
    named = {"id": id, "type": kind, "status": "completed", **item}
    if isinstance(content := item.get("content"), str):
        part = "output_text" if item.get("role") == "assistant" else "input_text"
        named["content"] = [{"type": part, "text": content}]
    return named
