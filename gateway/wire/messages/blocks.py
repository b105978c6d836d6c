"""A conversation's blocks as a chat's messages."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from gateway.domain import Json
from gateway.errors import InvalidRequest, UnsupportedRequest
from gateway.wire.fields import check_known
from gateway.wire.messages.fields import BLOCKS, MESSAGE, SOURCES, short
from gateway.wire.openai import encode_json

Message = dict[str, Any]


def messages(given: Sequence[Any]) -> list[Message]:
    """Raises InvalidRequest or UnsupportedRequest."""
    said: list[Message] = []
    for index, message in enumerate(given):
        where = f"messages.{index}"
        if not isinstance(message, dict):
            raise InvalidRequest(f"{where} must be an object", param=where)
        check_known(message, MESSAGE, where)
        match message.get("role"):
            case "user":
                said += _user(_blocks(message.get("content"), f"{where}.content"), where)
            case "assistant":
                said.append(_assistant(_blocks(message.get("content"), f"{where}.content"), where))
            case "system":
                content = text_of(message.get("content"), f"{where}.content")
                said.append({"role": "system", "content": content})
            case _:
                raise InvalidRequest(
                    f"{where}.role must be user or assistant", param=f"{where}.role"
                )
    return said


def text_of(content: Any, where: str) -> str | list[Message]:
    """Of a system prompt, which is text and nothing else."""
    parts = [_part(block, at) for block, at in _placed(_blocks(content, where), where)]
    if any(part["type"] != "text" for part in parts):
        raise InvalidRequest(f"{where} must be text", param=where)
    return _plain(parts)


def _user(blocks: list[Any], where: str) -> Iterator[Message]:
    """Results come first: a chat wants them right after their calls. Pictures that a tool gave
    follow as the user's, since a tool's message holds text."""
    shown: list[Message] = []
    for block, at in _placed(blocks, f"{where}.content"):
        if isinstance(block, dict) and block.get("type") == "tool_result":
            result, pictures = _result(block, at)
            shown += pictures
            yield result
        else:
            shown.append(_part(block, at))
    if shown or not blocks:
        yield {"role": "user", "content": _plain(shown)}


def _result(block: Json, where: str) -> tuple[Message, list[Message]]:
    content = block.get("content")
    given = [] if content is None else _blocks(content, f"{where}.content")
    parts = [_part(one, at) for one, at in _placed(given, f"{where}.content")]
    texts = [part for part in parts if part["type"] == "text"]
    text = _plain(texts)
    if block.get("is_error"):  # a chat has no other place for it
        plain = text if isinstance(text, str) else "\n".join(part["text"] for part in texts)
        text = f"<error>{plain}</error>"
    if not isinstance(id := block.get("tool_use_id"), str):
        raise InvalidRequest(f"{where}.tool_use_id must be a string", param=f"{where}.tool_use_id")
    pictures = [part for part in parts if part["type"] != "text"]
    return {"role": "tool", "tool_call_id": id, "content": text}, pictures


def _assistant(blocks: list[Any], where: str) -> Message:
    texts: list[Message] = []
    thoughts: list[str] = []
    calls: list[Message] = []
    for block, at in _placed(blocks, f"{where}.content"):
        match block:
            case {"type": "thinking", "thinking": str(thought)}:
                thoughts.append(thought)
            case {"type": "tool_use", "id": str(id), "name": str(name), "input": dict(given)}:
                function = {"name": name, "arguments": encode_json(given).decode()}
                calls.append({"id": id, "type": "function", "function": function})
            case _:
                texts.append(_part(block, at))
    message: Message = {"role": "assistant"}
    if texts or not calls:
        message["content"] = _plain(texts)
    if thoughts:
        message["reasoning_content"] = "".join(thoughts)
    return message | ({"tool_calls": calls} if calls else {})


def _blocks(content: Any, where: str) -> list[Any]:
    if isinstance(content, str):
        return [{"type": "text", "text": content}]
    if not isinstance(content, list):
        raise InvalidRequest(f"{where} must be a string or an array of blocks", param=where)
    return content


def _placed(blocks: Sequence[Any], where: str) -> Iterator[tuple[Any, str]]:
    """Each with where it stands. Raises UnsupportedRequest for what one holds besides."""
    for index, block in enumerate(blocks):
        at = f"{where}.{index}"
        _check_fields(block, BLOCKS, at)
        if isinstance(block, dict):
            _check_fields(block.get("source"), SOURCES, f"{at}.source")
            _check_citations(block, f"{at}.citations")
        yield block, at


def _check_fields(given: Any, by_type: Mapping[str, tuple[str, ...]], where: str) -> None:
    match given:
        case {"type": str(kind)} if kind in by_type:
            check_known(given, by_type[kind], where)


def _check_citations(block: Json, where: str) -> None:
    """A text's are of what was answered elsewhere; a document may want some."""
    match block:
        case {"type": "document", "citations": {"enabled": enabled}} if enabled:
            raise UnsupportedRequest(
                f"{where!r} cannot be used: nothing is cited here", param=where
            )


def _plain(parts: list[Message]) -> str | list[Message]:
    """One text is a string: every template and every server takes that."""
    if all(part["type"] == "text" for part in parts) and len(parts) < 2:
        return "".join(part["text"] for part in parts)
    return parts


def _about(document: Json, where: str) -> Iterator[str]:
    """What a document says of itself, which a chat has no other place for."""
    for name in ("title", "context"):
        text = document.get(name)
        if not isinstance(text, str | None):
            raise InvalidRequest(f"{where}.{name} must be a string", param=f"{where}.{name}")
        if text:
            yield text


def _part(block: Any, where: str) -> Message:
    match block:
        case {"type": "text", "text": str(text)}:
            return {"type": "text", "text": text}
        case {
            "type": "image",
            "source": {"type": "base64", "media_type": str(kind), "data": str(data)},
        }:
            return {"type": "image_url", "image_url": {"url": f"data:{kind};base64,{data}"}}
        case {"type": "image", "source": {"type": "url", "url": str(url)}}:
            return {"type": "image_url", "image_url": {"url": url}}
        case {"type": "document", "source": {"type": "text", "data": str(text)}}:
            return {"type": "text", "text": "\n\n".join([*_about(block, where), text])}
        case {"type": "text" | "image" | "document" | "tool_use" | "thinking" as kind}:
            raise UnsupportedRequest(f"{where} is no {kind} that can be told here", param=where)
        case {"type": kind}:
            raise UnsupportedRequest(
                f"{where}.type must be text, image, tool_use, tool_result or thinking, not "
                f"{short(kind)}",
                param=f"{where}.type",
            )
    raise InvalidRequest(f"{where} must be an object with a type", param=where)
