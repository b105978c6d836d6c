"""A chat's messages, in the shape that chat templates take."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import TypedDict

from gateway.replica.fields import refuse, valid_json, valid_text

MOST_MESSAGES = 4096

_ROLES = {
    "system": "system",
    "developer": "system",
    "user": "user",
    "assistant": "assistant",
    "tool": "tool",
}
"""What the template gets for each role; OpenAI's `developer` is the newer name of `system`."""

_FIELDS = ("role", "content", "name")
_MORE_FIELDS = {
    "assistant": ("tool_calls", "reasoning_content"),
    "tool": ("tool_call_id",),
}


class Function(TypedDict):
    name: str
    arguments: object  # an object as templates want it, or text that is none


class Call(TypedDict):
    id: str
    type: str
    function: Function


class Message(TypedDict, total=False):
    role: str  # this and the content are always there
    content: str
    tool_calls: list[Call]
    reasoning_content: str
    tool_call_id: str
    name: str  # who of those in this role speaks, for templates that tell them apart


def parse_messages(value: object) -> tuple[Message, ...]:
    """Raises InvalidRequest."""
    if not isinstance(value, list) or not 1 <= len(value) <= MOST_MESSAGES:
        refuse("messages", f"must be a list of 1 to {MOST_MESSAGES} messages")
    return tuple(_message(message, f"messages[{i}]") for i, message in enumerate(value))


def _message(value: object, where: str) -> Message:
    if not isinstance(value, dict):
        refuse(where, "must be an object with role and content")
    role = value.get("role")
    if not isinstance(role, str) or role not in _ROLES:
        refuse(f"{where}.role", f"must be one of {', '.join(_ROLES)}")
    known = (*_FIELDS, *_MORE_FIELDS.get(role, ()))
    # An assistant's message comes back as the SDK dumped it, with its empty fields.
    for name in value.keys() - set(known):
        if value[name] not in (None, []):
            refuse(f"{where}.{name[:64]}", f"is not supported here; known: {', '.join(known)}")
    message: Message = {"role": _ROLES[role], "content": ""}
    calls = value.get("tool_calls")
    if calls not in (None, []):
        if not isinstance(calls, list):
            refuse(f"{where}.tool_calls", "must be a list")
        message["tool_calls"] = [
            _call(call, f"{where}.tool_calls[{i}]") for i, call in enumerate(calls)
        ]
    if value.get("content") is not None or not calls:  # beside calls there may be none
        message["content"] = _content(value.get("content"), f"{where}.content")
    if (thought := value.get("reasoning_content")) is not None:
        message["reasoning_content"] = valid_text(thought, f"{where}.reasoning_content")
    if role == "tool":
        id_ = value.get("tool_call_id")
        message["tool_call_id"] = valid_text(id_, f"{where}.tool_call_id")
    if (name := value.get("name")) is not None:
        message["name"] = valid_text(name, f"{where}.name")
    return message


def _call(value: object, where: str) -> Call:
    match value:
        case {"id": str(id_), "function": {"name": str(name), "arguments": str(arguments)}}:
            pass
        case _:
            refuse(where, "must be a function's call with an id, a name and arguments as text")
    function = Function(
        name=valid_text(name, f"{where}.function.name"),
        arguments=_arguments(valid_text(arguments, f"{where}.function.arguments"), where),
    )
    return Call(id=valid_text(id_, f"{where}.id"), type="function", function=function)


def _arguments(text: str, where: str) -> object:
    """What a model wrote that is no object stays as it wrote it."""
    try:
        arguments = json.loads(text)
    except (ValueError, RecursionError):
        return text
    if not isinstance(arguments, dict):
        return text
    return valid_json(arguments, f"{where}.function.arguments")


def _content(value: object, where: str) -> str:
    if not isinstance(value, list):
        return valid_text(value, where)
    # Lines of their own, as vLLM and llama.cpp join them for templates that know strings only.
    return "\n".join(_part(part, f"{where}[{i}]") for i, part in enumerate(value))


def _part(value: object, where: str) -> str:
    if not isinstance(value, dict) or not isinstance(value.get("type"), str):
        refuse(where, "must be an object with a type")
    if value["type"] != "text":
        refuse(f"{where}.type", f"{value['type'][:64]!r} is not supported here; known: 'text'")
    return valid_text(value.get("text"), f"{where}.text")


def in_words(messages: tuple[Message, ...], tools: list[Mapping[str, object]]) -> list[Message]:
    """The same for a template that knows no tools: they are told in the system's message, calls
    and results in the others', all in Hermes' way.
    """
    said: list[Message] = []
    for message in messages:
        if message["role"] == "tool":
            result = f"<tool_response>\n{message['content']}\n</tool_response>"
            if said and said[-1]["role"] == "tool":
                said[-1]["content"] += "\n" + result
            else:
                said.append({"role": "tool", "content": result})
        elif calls := message.get("tool_calls"):
            lines = [message["content"]] if message["content"] else []
            lines += [_in_words(call["function"]) for call in calls]
            said.append({"role": message["role"], "content": "\n".join(lines)})
        else:
            said.append(message.copy())
    for message in said:
        if message["role"] == "tool":
            message["role"] = "user"
    if tools:
        lines = [_HEAD, "<tools>", *map(_dumps, tools), "</tools>", _HOW]
        told = "\n".join(lines)
        if said[0]["role"] == "system":
            said[0]["content"] += "\n\n" + told
        else:
            said.insert(0, {"role": "system", "content": told})
    return said


_HEAD = "You may call one or more of these functions; each line is one, with its parameters:"
_HOW = (
    "For each call write its name and arguments as a JSON object inside marks:\n"
    '<tool_call>\n{"name": <name>, "arguments": <object>}\n</tool_call>'
)


def _in_words(function: Function) -> str:
    return f"<tool_call>\n{_dumps(function)}\n</tool_call>"


def _dumps(value: object) -> str:
    return json.dumps(value, ensure_ascii=False)
