"""A request for a message, and the chat that it comes to."""

from __future__ import annotations

from typing import Any

from gateway.domain import Json
from gateway.errors import InvalidRequest, UnsupportedRequest
from gateway.wire.fields import check_known, tools_of
from gateway.wire.messages.blocks import messages, text_of
from gateway.wire.messages.fields import TOOL, TYPES

EFFORTS = ((4096, "low"), (16_384, "medium"))
"""Tokens to think with, at most -> the effort that a chat has for it; more is high."""


def chat_of(body: Json) -> dict[str, Any]:
    """A chat's body. Raises InvalidRequest or UnsupportedRequest."""
    said = messages(body["messages"])
    if not said:
        raise InvalidRequest("'messages' must not be empty", param="messages")
    chat = {name: value for name, value in body.items() if name not in TYPES}
    chat |= {"model": body["model"], "messages": said}
    if said[-1]["role"] == "assistant":  # which is to be gone on with
        chat |= {"continue_final_message": True, "add_generation_prompt": False}
    if body.get("system"):
        said.insert(0, {"role": "system", "content": text_of(body["system"], "system")})
    if "max_tokens" in body:
        chat["max_tokens"] = body["max_tokens"]
    if body.get("stop_sequences"):
        chat["stop"] = body["stop_sequences"]
    if (user := (body.get("metadata") or {}).get("user_id")) is not None:
        chat["user"] = user
    if body.get("service_tier") == "standard_only":
        chat["service_tier"] = "default"
    if body.get("stream"):
        chat |= {"stream": True, "stream_options": {"include_usage": True}}
    return chat | _tools(body) | _effort(body) | _format(body)


def _effort(body: Json) -> dict[str, Any]:
    effort = (body.get("output_config") or {}).get("effort")
    match body.get("thinking"):
        case None | {"type": "disabled" | "adaptive"}:
            pass
        case {"type": "enabled", "budget_tokens": int(budget)}:
            fitting = next((name for most, name in EFFORTS if budget <= most), "high")
            effort = effort or fitting
        case _:
            raise InvalidRequest(
                "'thinking' must be disabled, adaptive, or enabled with budget_tokens",
                param="thinking",
            )
    return {} if effort is None else {"reasoning_effort": effort}


def _format(body: Json) -> dict[str, Any]:
    match body.get("output_format") or (body.get("output_config") or {}).get("format"):
        case None:
            return {}
        case {"type": "json_schema", "schema": dict(schema)}:
            named = {"name": "output", "schema": schema, "strict": True}
            return {"response_format": {"type": "json_schema", "json_schema": named}}
    raise InvalidRequest(
        "'output_config.format' must be of type json_schema with a schema",
        param="output_config.format",
    )


def _tools(body: Json) -> dict[str, Any]:
    given = body.get("tools") or ()
    tools: list[Json] = [_tool(tool, f"tools.{index}") for index, tool in enumerate(given)]
    chosen: Any
    choice = body.get("tool_choice") or {}
    match choice:
        case {"type": "tool", "name": str(name)}:
            chosen = {"type": "function", "function": {"name": name}}
        case {"type": "auto" | "any" | "none" as kind}:
            chosen = {"any": "required"}.get(kind, kind)
        case {} if not choice:
            chosen = None
        case _:
            raise InvalidRequest(
                "'tool_choice' must be auto, any, none, or tool with a name", param="tool_choice"
            )
    side_by_side = choice.get("disable_parallel_tool_use")
    if tools and side_by_side is not None:
        return tools_of(tools, chosen) | {"parallel_tool_calls": not side_by_side}
    return tools_of(tools, chosen)


def _tool(tool: Any, where: str) -> dict[str, Any]:
    match tool:
        case {"name": str(name), "input_schema": dict(schema)} if tool.get("type") in (
            None,
            "custom",
        ):
            check_known(tool, TOOL, where)
            function = {"name": name, "parameters": schema}
            names = ("description", "strict")
            function |= {n: tool[n] for n in names if tool.get(n) is not None}
            return {"type": "function", "function": function}
        case {"type": str(kind)} if kind != "custom":
            raise UnsupportedRequest(
                f"{where} is a tool of type {kind[:100]!r}, which only its maker's models know: "
                "give it a name and an input_schema",
                param=f"{where}.type",
            )
    raise InvalidRequest(f"{where} must have a name and an input_schema", param=where)
