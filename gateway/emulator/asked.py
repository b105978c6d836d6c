"""A request's body, as every imitated provider reads it."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from gateway.emulator.text import plausible

MOST_CHOICES = 128
MOST_DIMENSIONS = 16_384
MOST_TOKENS = 2**31 - 1


class Refusal(Exception):
    """No answer, and why; the profile puts it in its provider's words.

    `code` is the provider's own. `extra` goes beside the message where the body is an object.
    """

    def __init__(
        self,
        status: int,
        message: str,
        *,
        code: str | None = None,
        kind: str | None = None,
        param: str | None = None,
        headers: Mapping[str, str] | None = None,
        extra: Mapping[str, Any] | None = None,
    ) -> None:
        super().__init__(message)
        self.status, self.message, self.code, self.param = status, message, code, param
        self.kind = kind
        self.headers = dict(headers or {})
        self.extra = dict(extra or {})


@dataclass(frozen=True, slots=True)
class Asked:
    chat: bool
    model: str
    conversation: str  # all that the model reads, but for `begun`
    begun: str  # the beginning of its answer, where that is given
    stream: bool
    include_usage: bool
    max_tokens: int | None
    stop: tuple[str, ...]
    n: int
    tool: tuple[str, str] | None  # name and arguments of the call that is asked for
    json_text: str | None  # the answer where JSON is asked for
    body: Mapping[str, Any] = field(repr=False)
    inputs: tuple[str, ...] = ()  # of which vectors are asked for, and no answer

    @property
    def offers_tools(self) -> bool:
        return bool(self.body.get("tools"))


def read(raw: bytes, *, chat: bool, continues: bool, prefills: bool = False) -> Asked:
    """For text. Raises Refusal. `continues`: the engine knows continue_final_message; `prefills`:
    it goes on with a message of the assistant's at the end without being asked."""
    body = _object(raw)
    model = _typed(body, "model", str, "")
    goes_on = prefills or (continues and bool(body.get("continue_final_message")))
    conversation, begun = _conversation(body, goes_on) if chat else (_prompt(body), "")
    limits = [_number(body, name, 0, None) for name in ("max_completion_tokens", "max_tokens")]
    _typed(body, "service_tier", str, None)
    return Asked(
        chat=chat,
        model=model,
        conversation=conversation,
        begun=begun,
        stream=_typed(body, "stream", bool, False),
        include_usage=bool((_typed(body, "stream_options", dict, {})).get("include_usage")),
        max_tokens=next((limit for limit in limits if limit is not None), None),
        stop=_stop(body.get("stop") or []),
        n=_number(body, "n", 1, 1, most=MOST_CHOICES),
        tool=_tool(body),
        json_text=_json_text(body.get("response_format")),
        body=body,
    )


def read_inputs(raw: bytes) -> Asked:
    """For vectors. Raises Refusal."""
    body = _object(raw)
    given = body.get("input")
    if isinstance(given, str) or (isinstance(given, list) and given and type(given[0]) is int):
        given = [given]
    texts = isinstance(given, list) and all(one and isinstance(one, str | list) for one in given)
    if not given or not texts:
        raise _odd("input", "must be a text, token ids, or a list of either")
    _number(body, "dimensions", 1, None, most=MOST_DIMENSIONS)
    inputs = tuple(one if isinstance(one, str) else " ".join(map(str, one)) for one in given)
    return Asked(
        chat=False,
        model=_typed(body, "model", str, ""),
        conversation="\n".join(inputs),
        begun="",
        stream=False,
        include_usage=False,
        max_tokens=None,
        stop=(),
        n=0,
        tool=None,
        json_text=None,
        body=body,
        inputs=inputs,
    )


def _object(raw: bytes) -> dict[str, Any]:
    try:
        body = json.loads(raw)
    except (ValueError, RecursionError):
        raise Refusal(400, "the body is not valid JSON", kind="invalid_request_error") from None
    if not isinstance(body, dict):
        raise Refusal(400, "the body is not a JSON object", kind="invalid_request_error")
    return body


def _typed(body: Mapping[str, Any], name: str, kind: type, default: Any) -> Any:
    value = body.get(name)
    if value is None:
        return default
    if not isinstance(value, kind) or (kind is int and isinstance(value, bool)):
        raise _odd(name, f"must be a {kind.__name__}")
    return value


def _number(
    body: Mapping[str, Any], name: str, least: int, default: Any, most: int = MOST_TOKENS
) -> Any:
    value = _typed(body, name, int, default)
    if value is not None and not least <= value <= most:
        raise _odd(name, f"must be from {least} to {most}")
    return value


def _odd(name: str, must: str) -> Refusal:
    return Refusal(400, f"'{name}' {must}", kind="invalid_request_error", param=name)


def _stop(given: Any) -> tuple[str, ...]:
    texts = [given] if isinstance(given, str) else given
    if not isinstance(texts, list) or not all(isinstance(text, str) for text in texts):
        raise _odd("stop", "must be a text or a list of texts")
    return tuple(texts)


def _conversation(body: Mapping[str, Any], goes_on: bool) -> tuple[str, str]:
    messages = body.get("messages")
    if not isinstance(messages, list) or not messages:
        raise _odd("messages", "must be a list of messages")
    for message in messages:
        if not isinstance(message, dict) or not isinstance(message.get("role"), str):
            text = "each of 'messages' must have a role"
            raise Refusal(400, text, kind="invalid_request_error", param="messages")
    begun = ""
    if goes_on and messages[-1]["role"] == "assistant":
        begun = str(messages[-1].get("content") or "")
        messages = messages[:-1]
    text = "".join(f"{message['role']}\n{_content(message)}\n" for message in messages)
    tools = body.get("tools")
    return (json.dumps(tools, sort_keys=True) + "\n" if tools else "") + text, begun


def _content(message: Mapping[str, Any]) -> str:
    content = message.get("content")
    rest = {k: v for k, v in message.items() if k not in ("role", "content")}
    text = content if isinstance(content, str) else json.dumps(content, sort_keys=True)
    return text + (json.dumps(rest, sort_keys=True) if rest else "")


def _prompt(body: Mapping[str, Any]) -> str:
    prompt = body.get("prompt")
    if isinstance(prompt, list):
        prompt = " ".join(map(str, prompt))
    if not isinstance(prompt, str) or not prompt:
        raise _odd("prompt", "must be a text")
    return prompt


def _tool(body: Mapping[str, Any]) -> tuple[str, str] | None:
    for tool in _typed(body, "tools", list, []):
        if not isinstance(tool, dict) or not isinstance(tool.get("function", {}), dict):
            raise _odd("tools", "must be a list of functions")
    match body.get("tool_choice"):
        case None | "auto" | "none":
            return None
        case "required":
            return first_tool(body)
        case {"function": {"name": str(name)}}:
            return first_tool(body, name)
    raise _odd("tool_choice", "must be auto, none or required, or name a function")


def first_tool(body: Mapping[str, Any], name: str | None = None) -> tuple[str, str] | None:
    """The first tool offered, or the one of this name, called with plausible arguments. Raises
    Refusal."""
    for tool in body.get("tools") or ():
        function = tool.get("function", {})
        if name in (None, function.get("name")):
            arguments = _plausible("tools", function.get("parameters") or {"type": "object"})
            return str(function.get("name")), arguments
    return None


def _json_text(wanted: object) -> str | None:
    if not isinstance(wanted, dict) or wanted.get("type") not in ("json_object", "json_schema"):
        return None
    named = wanted.get("json_schema") or {}
    if not isinstance(named, dict):
        raise _odd("response_format", "must have an object as its json_schema")
    schema = wanted.get("schema") or named.get("schema")
    schema = schema or {"type": "object", "properties": {"answer": {}}}
    return _plausible("response_format", schema)


def _plausible(param: str, schema: object) -> str:
    """JSON. Raises Refusal."""
    try:
        return json.dumps(plausible(schema))
    except ValueError as error:
        raise _odd(param, f"has a schema that makes no sense: {error}") from None
