"""A conversation's items as a chat's messages.

What comes from the assistant side by side (what it thought, said and called) is one message there.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from gateway.domain import Json
from gateway.errors import InvalidRequest, UnsupportedRequest

ROLES = {"user": "user", "system": "system", "developer": "system", "assistant": "assistant"}
"""Open models' templates know no developer."""


ITEMS = ("message", "function_call", "function_call_output", "reasoning")
"""Types that have their place in a chat."""


def as_list(given: Any) -> list[Any]:
    """A text is a user's message. Raises InvalidRequest."""
    if isinstance(given, str):
        return [{"type": "message", "role": "user", "content": given}]
    return list(given or ())


def messages(items: Sequence[Any], before: int = 0) -> list[dict[str, Any]]:
    """Raises InvalidRequest or UnsupportedRequest, counting the caller's items only: `before` of
    them are of earlier responses."""
    said: list[dict[str, Any]] = []
    for index, item in enumerate(items):
        where = f"input[{index - before}]"
        if not isinstance(item, dict):
            raise InvalidRequest(f"{where} must be an object", param=where)
        _add(said, item, where)
    for message in said:
        if message["role"] == "assistant" and len(message) == 2 and "content" not in message:
            message["content"] = ""  # it thought, and was not heard
    return said


def _add(said: list[dict[str, Any]], item: Json, where: str) -> None:
    match item.get("type", "message" if "role" in item else None):
        case "message":
            _message(said, item, where)
        case "function_call":
            call = {name: _text(item, name, where) for name in ("call_id", "name", "arguments")}
            function = {"name": call["name"], "arguments": call["arguments"]}
            _assistant(said).setdefault("tool_calls", []).append(
                {"id": call["call_id"], "type": "function", "function": function}
            )
        case "function_call_output":
            output = item.get("output")
            content = output if isinstance(output, str) else _parts(output, f"{where}.output")
            id = _text(item, "call_id", where)
            said.append({"role": "tool", "tool_call_id": id, "content": content})
        case "reasoning":
            if thought := _thought(item, where):
                message = _assistant(said, closed_by=("content", "tool_calls"))
                known = message.get("reasoning_content", "")
                message["reasoning_content"] = known + thought
        case kind:
            raise UnsupportedRequest(
                f"{where}.type must be message, function_call, function_call_output, reasoning or "
                f"item_reference, not {_short(kind)}",
                param=f"{where}.type",
            )


def _message(said: list[dict[str, Any]], item: Json, where: str) -> None:
    role = item.get("role")
    if not isinstance(role, str) or role not in ROLES:
        raise InvalidRequest(
            f"{where}.role must be one of {', '.join(ROLES)}", param=f"{where}.role"
        )
    content = item.get("content")
    parts = content if isinstance(content, str) else _parts(content, f"{where}.content")
    if ROLES[role] == "assistant":
        _assistant(said, closed_by=("content", "tool_calls"))["content"] = parts
    else:
        said.append({"role": ROLES[role], "content": parts})


def _assistant(said: list[dict[str, Any]], closed_by: Sequence[str] = ()) -> dict[str, Any]:
    """The message that goes on, or a new one: after what the others said, or what ends one."""
    if not said or said[-1]["role"] != "assistant" or any(n in said[-1] for n in closed_by):
        said.append({"role": "assistant"})
    return said[-1]


def _parts(content: Any, where: str) -> str | list[dict[str, Any]]:
    """One text is a string: every template and every server takes that."""
    if not isinstance(content, list):
        raise InvalidRequest(f"{where} must be a string or an array of parts", param=where)
    parts = [_part(part, f"{where}[{index}]") for index, part in enumerate(content)]
    if all(part["type"] == "text" for part in parts) and len(parts) < 2:
        return "".join(part["text"] for part in parts)
    return parts


def _part(part: Any, where: str) -> dict[str, Any]:
    match part:
        case {"type": "input_text" | "output_text" | "text", "text": str(text)}:
            return {"type": "text", "text": text}
        case {"type": "refusal", "refusal": str(text)}:
            return {"type": "refusal", "refusal": text}
        case {"type": "input_image", "image_url": str(url)}:
            detail = part.get("detail")
            image = {"url": url} | ({} if detail is None else {"detail": detail})
            return {"type": "image_url", "image_url": image}
        case {"type": "input_audio", "input_audio": dict(audio)}:
            return {"type": "input_audio", "input_audio": audio}
        case {"type": "input_file", "file_data": str(data)}:
            name = part.get("filename")
            file = {"file_data": data} | ({} if name is None else {"filename": name})
            return {"type": "file", "file": file}
        case {"type": "input_image" | "input_file"}:
            raise UnsupportedRequest(
                f"{where} must hold its data: an image_url or file_data; files are not kept for "
                "responses here",
                param=where,
            )
        case {"type": kind}:
            raise InvalidRequest(f"{where} is no part of type {_short(kind)}", param=where)
    raise InvalidRequest(f"{where} must be an object with a type", param=where)


def _thought(item: Json, where: str) -> str:
    for name in ("content", "summary"):
        parts = item.get(name) or []
        if not isinstance(parts, list) or not all(isinstance(part, dict) for part in parts):
            raise InvalidRequest(f"{where}.{name} must be an array", param=f"{where}.{name}")
        if text := "".join(str(part.get("text") or "") for part in parts):
            return text
    if item.get("encrypted_content"):
        raise UnsupportedRequest(
            f"{where}.encrypted_content is sealed by somebody else: nobody here can read it",
            param=f"{where}.encrypted_content",
        )
    return ""


def _text(item: Json, name: str, where: str) -> str:
    value = item.get(name)
    if not isinstance(value, str):
        raise InvalidRequest(f"{where}.{name} must be a string", param=f"{where}.{name}")
    return value


def _short(value: Any) -> str:
    return repr(value)[:100]
