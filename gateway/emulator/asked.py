"""A request's body, as every imitated provider reads it."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from gateway.emulator.text import plausible


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
    stop = body.get("stop") or ()
    limit = _typed(body, "max_completion_tokens", int, None)
    return Asked(
        chat=chat,
        model=model,
        conversation=conversation,
        begun=begun,
        stream=_typed(body, "stream", bool, False),
        include_usage=bool((_typed(body, "stream_options", dict, {})).get("include_usage")),
        max_tokens=_typed(body, "max_tokens", int, None) if limit is None else limit,
        stop=(stop,) if isinstance(stop, str) else tuple(map(str, stop)),
        n=max(1, _typed(body, "n", int, 1)),
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
    if not isinstance(given, list) or not given or not all(given):
        message = "'input' must be a text, token ids, or a list of either"
        raise Refusal(400, message, kind="invalid_request_error", param="input")
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
    except ValueError:
        raise Refusal(400, "the body is not valid JSON", kind="invalid_request_error") from None
    if not isinstance(body, dict):
        raise Refusal(400, "the body is not a JSON object", kind="invalid_request_error")
    return body


def _typed(body: Mapping[str, Any], name: str, kind: type, default: Any) -> Any:
    value = body.get(name)
    if value is None:
        return default
    if not isinstance(value, kind) or (kind is int and isinstance(value, bool)):
        message = f"'{name}' must be a {kind.__name__}"
        raise Refusal(400, message, kind="invalid_request_error", param=name)
    return value


def _conversation(body: Mapping[str, Any], goes_on: bool) -> tuple[str, str]:
    messages = body.get("messages")
    if not isinstance(messages, list) or not messages:
        message = "'messages' must be a list of messages"
        raise Refusal(400, message, kind="invalid_request_error", param="messages")
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
        message = "'prompt' must be a text"
        raise Refusal(400, message, kind="invalid_request_error", param="prompt")
    return prompt


def _tool(body: Mapping[str, Any]) -> tuple[str, str] | None:
    choice = body.get("tool_choice")
    if not isinstance(choice, dict) and choice != "required":
        return None
    return first_tool(body, choice["function"]["name"] if isinstance(choice, dict) else None)


def first_tool(body: Mapping[str, Any], name: str | None = None) -> tuple[str, str] | None:
    """The first tool offered, or the one of this name, called with plausible arguments."""
    for tool in body.get("tools") or ():
        function = tool.get("function", {})
        if name in (None, function.get("name")):
            arguments = json.dumps(plausible(function.get("parameters") or {"type": "object"}))
            return str(function.get("name")), arguments
    return None


def _json_text(wanted: object) -> str | None:
    if not isinstance(wanted, dict) or wanted.get("type") not in ("json_object", "json_schema"):
        return None
    schema = wanted.get("schema") or (wanted.get("json_schema") or {}).get("schema")
    return json.dumps(plausible(schema or {"type": "object", "properties": {"answer": {}}}))
