"""An endpoint that speaks responses itself: its events as the line knows them, and as they came."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from gateway.domain import Event, Json
from gateway.errors import UpstreamBroken
from gateway.wire.error_body import Said, error_said
from gateway.wire.fast_json import loads
from gateway.wire.fields import OWNED
from gateway.wire.openai import ErrorInAnswer, parse_usage
from gateway.wire.responses.asked import Asked
from gateway.wire.responses.items import ITEMS

ENDS = {"response.completed": "stop", "response.incomplete": "length"}

DELTAS = {
    "response.output_text.delta": "content",
    "response.refusal.delta": "refusal",
    "response.reasoning_text.delta": "reasoning_content",
    "response.reasoning_summary_text.delta": "reasoning_content",
}


def native_body(body: Json, items: tuple[Any, ...]) -> Json:
    """A request that holds all that it needs: what is stored is stored here."""
    ours = ("model", "previous_response_id", "background", "store", "metadata", *OWNED)
    kept = {name: value for name, value in body.items() if name not in ours}
    return {**kept, "input": list(items), "store": False}


def told_in_chats(asked: Asked) -> Asked:
    """The same request without what only such an endpoint can do: the line measures it by that.
    Nor has it a choice of tools then, which may be of those."""
    tools = [tool for tool in asked.body.get("tools") or () if _kind(tool) in (None, "function")]
    foreign = len(tools) < len(asked.body.get("tools") or ())
    chosen = asked.body.get("tool_choice")
    if isinstance(chosen, dict) and _kind(chosen) not in ("function", "allowed_tools"):
        foreign = True
    items = tuple(item for item in asked.items if _kind(item) in (None, *ITEMS))
    if not foreign and len(items) == len(asked.items):
        return asked
    body = {**asked.body, "tools": tools, "tool_choice": None}
    return replace(asked, body=body, items=items)


def _kind(value: Any) -> Any:
    return value.get("type") if isinstance(value, dict) else None


def parse_native(raw: bytes, cached_tokens: int | None = None) -> Event:
    """Of a stream, or the whole. Raises UpstreamBroken or ErrorInAnswer."""
    try:
        told = loads(raw)
    except (ValueError, RecursionError):
        raise UpstreamBroken("the endpoint sent something that is not JSON") from None
    if not isinstance(told, dict):
        raise UpstreamBroken("the endpoint sent something that is not an answer")
    if told.get("object") == "response":
        return _whole(told)
    kind = told.get("type")
    if kind == "error" or (kind is None and told.get("error")):
        raise ErrorInAnswer(error_said(told))
    if not isinstance(kind, str):
        raise UpstreamBroken("the endpoint sent an event of no type")
    response = told.get("response")
    if kind == "response.failed" or (kind in ENDS and not isinstance(response, dict)):
        raise ErrorInAnswer(Said())
    delta: dict[str, Any] = {}
    if kind in DELTAS:
        delta[DELTAS[kind]] = str(told.get("delta") or "")
    elif kind == "response.function_call_arguments.delta":
        delta["tool_calls"] = [{"function": {"arguments": str(told.get("delta") or "")}}]
    choice = {"index": 0, "delta": delta, "finish_reason": ENDS.get(kind)}
    return _event(choice, response if kind in ENDS else None, told)


def _whole(response: dict[str, Any]) -> Event:
    if response.get("status") not in ("completed", "incomplete"):
        raise ErrorInAnswer(Said())
    reason = "stop" if response["status"] == "completed" else "length"
    message = {"role": "assistant", "content": None}
    choice = {"index": 0, "message": message, "finish_reason": reason}
    return _event(
        choice, response, {"type": f"response.{response['status']}", "response": response}
    )


def _event(choice: dict[str, Any], response: Any, told: dict[str, Any]) -> Event:
    usage = _usage(response) if isinstance(response, dict) else None
    return Event(
        payload={"choices": [choice]},
        usage=parse_usage(usage),
        report=None,
        finishes=choice["finish_reason"] is not None,
        native=told,
    )


def _usage(response: Json) -> Any:
    """As a chat tells it."""
    told = response.get("usage")
    if not isinstance(told, dict):
        return None
    return {
        "prompt_tokens": told.get("input_tokens"),
        "completion_tokens": told.get("output_tokens"),
        "prompt_tokens_details": told.get("input_tokens_details"),
    }


def renamed(told: dict[str, Any], number: str, ours: Json) -> dict[str, Any]:
    """The event with our names for the response and its items: what is stored is found by them."""
    event = {**told}
    if isinstance(response := event.get("response"), dict):
        output = [
            {**item, "id": _name(item.get("id"), number, index)}
            for index, item in enumerate(response.get("output") or ())
        ]
        event["response"] = {**response, **ours, "output": output}
    index = event.get("output_index")
    if isinstance(index, int):
        if isinstance(item := event.get("item"), dict):
            event["item"] = {**item, "id": _name(item.get("id"), number, index)}
        if "item_id" in event:
            event["item_id"] = _name(event["item_id"], number, index)
    return event


def _name(theirs: Any, number: str, index: int) -> str:
    kind = theirs.partition("_")[0] if isinstance(theirs, str) else ""
    return f"{kind or 'item'}_{number}{index:04x}"
