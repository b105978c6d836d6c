"""What a chat may call: `tools`, `tool_choice` and `parallel_tool_calls`."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from enum import Enum

from gateway.replica.fields import Fields, refuse, valid_json

MOST_TOOLS = 128
_NO_PARAMETERS = {"type": "object", "properties": {}, "additionalProperties": False}
_NAME = re.compile(r"[a-zA-Z0-9_.-]{1,64}")


@dataclass(frozen=True, slots=True)
class Tool:
    """A function that the caller runs."""

    name: str
    parameters: Mapping[str, object]  # a JSON schema
    strict: bool  # its arguments must be valid, whoever chose to call it
    given: Mapping[str, object]  # as the client sent it, and as templates take it


class ToolChoice(Enum):
    NONE = "none"
    AUTO = "auto"
    REQUIRED = "required"


@dataclass(frozen=True, slots=True)
class Tools:
    """Without any, nothing can be called."""

    shown: tuple[Tool, ...] = ()  # in the prompt
    callable: tuple[Tool, ...] = ()  # those of them that this answer may call
    choice: ToolChoice = ToolChoice.NONE
    several: bool = True  # an answer may have more calls than one

    @property
    def prompt(self) -> tuple[Mapping[str, object], ...]:
        """As templates take them."""
        return tuple(tool.given for tool in self.shown)


NO_TOOLS = Tools()


def parse_tools(fields: Fields) -> Tools:
    """Raises InvalidRequest."""
    given = fields.get("tools")
    given = [] if given is None else given
    if not isinstance(given, list) or len(given) > MOST_TOOLS:
        refuse("tools", f"must be a list of at most {MOST_TOOLS} functions")
    tools = {tool.name: tool for tool in map(_tool, given, map("tools[{}]".format, range(128)))}
    if len(tools) < len(given):
        refuse("tools", "must have different names")
    several = fields.flag("parallel_tool_calls", default=True)
    chosen = fields.get("tool_choice")
    match chosen:
        case None:
            choice, names = ToolChoice.AUTO, [*tools]
        case "none" | "auto" | "required":
            choice, names = ToolChoice(chosen), [*tools]
        case {"type": "function", "function": {"name": str(name)}}:
            choice, names, several = ToolChoice.REQUIRED, [name], False
        case {"type": "allowed_tools", "allowed_tools": dict(allowed)}:
            choice, names = _allowed(allowed)
        case _:
            refuse("tool_choice", _CHOICES)
    for name in names:
        if name not in tools:
            refuse("tool_choice", f"names {name[:64]!r}, which is not among the tools")
    if choice is ToolChoice.REQUIRED and not names:
        refuse("tool_choice", "needs tools")
    if choice is ToolChoice.NONE or not tools:
        return NO_TOOLS
    able = tuple(tool for name, tool in tools.items() if name in names)
    return Tools(tuple(tools.values()), able, choice, several)


_CHOICES = (
    "must be 'none', 'auto', 'required', a function by its name "
    "({'type': 'function', 'function': {'name': ...}}), or allowed_tools"
)


def _allowed(allowed: Mapping[str, object]) -> tuple[ToolChoice, list[str]]:
    mode, entries = allowed.get("mode"), allowed.get("tools")
    if mode not in ("auto", "required"):
        refuse("tool_choice.allowed_tools.mode", "must be 'auto' or 'required'")
    names: list[str] = []
    for entry in entries if isinstance(entries, list) else ():
        match entry:
            case {"type": "function", "function": {"name": str(name)}}:
                names.append(name)
            case _:
                refuse("tool_choice.allowed_tools.tools", "must name functions")
    if not names:
        refuse("tool_choice.allowed_tools.tools", "must be a list of functions")
    return ToolChoice(mode), names


def _tool(value: object, where: str) -> Tool:
    if not isinstance(value, dict) or value.get("type") != "function":
        refuse(f"{where}.type", "must be 'function': other tools are not run here")
    function = value.get("function")
    if not isinstance(function, dict):
        refuse(f"{where}.function", "must be an object")
    for name in function.keys() - {"name", "description", "parameters", "strict"}:
        what = "is unknown; known: name, description, parameters, strict"
        refuse(f"{where}.function.{name[:64]}", what)
    name, parameters = function.get("name"), function.get("parameters")
    if not isinstance(name, str) or not _NAME.fullmatch(name):
        refuse(f"{where}.function.name", "must have 1 to 64 letters, digits, '_', '-' or '.'")
    if parameters is not None and not isinstance(parameters, dict):
        refuse(f"{where}.function.parameters", "must be a JSON schema")
    strict = function.get("strict")
    if strict is not None and not isinstance(strict, bool):
        refuse(f"{where}.function.strict", "must be true or false")
    schema = parameters or _NO_PARAMETERS
    shown = {key: value for key, value in function.items() if value is not None and key != "strict"}
    given = {"type": "function", "function": {**shown, "parameters": schema}}
    return Tool(name, schema, strict is True, valid_json(given, where))
