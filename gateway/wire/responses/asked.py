"""A request for a response, and the chat that it comes to."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from gateway.domain import Json
from gateway.errors import InvalidRequest, UnsupportedRequest
from gateway.wire.fields import check_known, tools_of
from gateway.wire.responses.fields import LOGPROBS, SAME, TYPES
from gateway.wire.responses.items import messages


@dataclass(frozen=True, slots=True)
class Asked:
    body: Json  # as the client sent it, checked
    tenant: str
    items: tuple[Any, ...]  # all that the model is given, earlier turns first
    before: int  # how many of them are of earlier turns

    @property
    def stored(self) -> bool:
        return self.body.get("store") is not False

    @property
    def background(self) -> bool:
        return bool(self.body.get("background"))

    @property
    def summarised(self) -> bool:
        """What the model thought is to be told as a summary, which is where clients look."""
        asked = self.body.get("reasoning") or {}
        return bool(asked.get("summary") or asked.get("generate_summary"))

    @property
    def logprobs(self) -> bool:
        asked = LOGPROBS in (self.body.get("include") or ())
        return asked or bool(self.body.get("top_logprobs"))


def chat_of(asked: Asked) -> dict[str, Any]:
    """A chat's body. Raises InvalidRequest or UnsupportedRequest."""
    body = asked.body
    if not asked.items:
        raise InvalidRequest("'input' must not be empty", param="input")
    said = messages(asked.items, asked.before)
    if body.get("instructions"):
        said.insert(0, {"role": "system", "content": body["instructions"]})
    chat = {name: value for name, value in body.items() if name not in TYPES}
    chat |= {name: body[name] for name in SAME if body.get(name) is not None}
    tools = _tools(body)
    chat |= {"model": body["model"], "messages": said, **tools, **_shape(body)}
    if body.get("max_output_tokens") is not None:
        chat["max_completion_tokens"] = body["max_output_tokens"]
    if (effort := (body.get("reasoning") or {}).get("effort")) is not None:
        chat["reasoning_effort"] = effort
    if asked.logprobs:
        chat |= {"logprobs": True, "top_logprobs": body.get("top_logprobs") or 0}
    if body.get("stream"):
        chat["stream_options"] = {"include_usage": True}  # a response always tells it
    return chat


def _shape(body: Json) -> dict[str, Any]:
    text = body.get("text") or {}
    shape = {} if text.get("verbosity") is None else {"verbosity": text["verbosity"]}
    match text.get("format"):
        case None | {"type": "text"}:
            return shape
        case {"type": "json_object"}:
            return shape | {"response_format": {"type": "json_object"}}
        case {"type": "json_schema", "name": str(), "schema": dict()} as wanted:
            names = ("name", "schema", "strict", "description")
            check_known(wanted, ("type", *names), "text.format")
            schema = {name: wanted[name] for name in names if wanted.get(name) is not None}
            return shape | {"response_format": {"type": "json_schema", "json_schema": schema}}
    raise InvalidRequest(
        "'text.format' must be of type text, json_object, or json_schema with a name and a schema",
        param="text.format",
    )


def _tools(body: Json) -> dict[str, Any]:
    given = body.get("tools") or ()
    tools: list[Json] = [_tool(tool, f"tools[{index}]") for index, tool in enumerate(given)]
    choice = body.get("tool_choice")
    match choice:
        case None | "auto" | "none" | "required":
            chosen = choice
        case {"type": "function", "name": str(name)}:
            chosen = {"type": "function", "function": {"name": name}}
        case {"type": "allowed_tools", "mode": "auto" | "required" as mode, "tools": list(allowed)}:
            tools = _allowed(tools, allowed)
            chosen = mode
        case _:
            raise UnsupportedRequest(
                "'tool_choice' must be auto, none or required, or name a function or allowed_tools",
                param="tool_choice",
            )
    return tools_of(tools, chosen)


def _allowed(tools: list[Json], allowed: list[Any]) -> list[Json]:
    names = [tool.get("name") if isinstance(tool, dict) else None for tool in allowed]
    known = [tool["function"]["name"] for tool in tools]
    if any(name not in known for name in names):
        raise InvalidRequest(
            "'tool_choice' allows what is not among the tools", param="tool_choice"
        )
    return [tool for tool in tools if tool["function"]["name"] in names]


def _tool(tool: Any, where: str) -> dict[str, Any]:
    match tool:
        case {"type": "function", "name": str()}:
            names = ("name", "description", "parameters", "strict")
            check_known(tool, ("type", *names), where)
            function = {name: tool[name] for name in names if tool.get(name) is not None}
            return {"type": "function", "function": function}
        case {"type": "function"}:
            raise InvalidRequest(f"{where}.name must be a string", param=f"{where}.name")
        case {"type": str(kind)}:
            raise UnsupportedRequest(
                f"{where} is a tool of type {kind[:100]!r}, which nobody runs here: only "
                "functions, which the caller runs",
                param=f"{where}.type",
            )
    raise InvalidRequest(f"{where} must be an object with a type", param=where)
