"""The OpenAI dialect that a replica speaks: bytes of a request in, a frozen `Ask` out. No I/O."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import cast

from gateway.domain import Operation
from gateway.replica.fields import Fields, admit, is_integer, refuse, valid_text

COMPLETION_MAX_TOKENS = 16
"""What OpenAI's completions generate when the client does not say."""

MOST_TOKENS = 2**31 - 1
MOST_STOPS = 4
LONGEST_STOP = 256  # characters; so much of the stream is held back
LONGEST_NAME = 256  # characters of a model's name, a salt, a session's name
MOST_MESSAGES = 4096

_ROLES = {"system": "system", "developer": "system", "user": "user", "assistant": "assistant"}
"""What the template gets for each role; OpenAI's `developer` is the newer name of `system`."""


@dataclass(frozen=True, slots=True)
class Ask:
    """One parsed request. Its `repr` tells nothing of the prompt."""

    operation: Operation
    model: str
    messages: tuple[Mapping[str, str], ...] = field(repr=False)
    """Of a chat, each with `role` and `content`."""
    prompt: str | tuple[int, ...] = field(repr=False)
    """Of a completion: text, or token ids."""
    stream: bool
    include_usage: bool
    temperature: float
    top_p: float
    seed: int | None
    stop: tuple[str, ...]
    max_tokens: int | None  # None: whatever the context leaves
    cache_salt: bytes = field(repr=False)  # empty: the public chain
    priority: int
    session_id: str | None


def parse(operation: Operation, body: bytes, *, trusted: bool) -> Ask:
    """Raises InvalidRequest, and Forbidden for a gateway-only field of an untrusted caller."""
    fields = admit(operation, body, trusted=trusted)
    is_chat = operation is Operation.CHAT
    priority = fields.integer("priority", low=0, high=1000)
    return Ask(
        operation=operation,
        model=fields.text("model", longest=LONGEST_NAME) or refuse("model", "is required"),
        messages=_messages(fields.get("messages")) if is_chat else (),
        prompt="" if is_chat else _prompt(fields.get("prompt")),
        stream=fields.flag("stream"),
        include_usage=_include_usage(fields),
        temperature=fields.number("temperature", default=1.0, low=0.0, high=2.0),
        top_p=fields.number("top_p", default=1.0, low=0.0, high=1.0),
        seed=fields.integer("seed", low=-(2**63), high=2**63 - 1),
        stop=_stop(fields.get("stop")),
        max_tokens=_max_tokens(fields, operation),
        # never empty when given: the empty salt is the public chain's
        cache_salt=(fields.text("cache_salt", longest=LONGEST_NAME) or "").encode(),
        priority=1 if priority is None else priority,
        session_id=fields.text("session_id", longest=LONGEST_NAME),
    )


def _messages(value: object) -> tuple[Mapping[str, str], ...]:
    if not isinstance(value, list) or not 1 <= len(value) <= MOST_MESSAGES:
        refuse("messages", f"must be a list of 1 to {MOST_MESSAGES} messages")
    return tuple(_message(message, f"messages[{i}]") for i, message in enumerate(value))


def _message(value: object, where: str) -> Mapping[str, str]:
    if not isinstance(value, dict):
        refuse(where, "must be an object with role and content")
    # An assistant's message comes back as the SDK dumped it, with its empty fields.
    for name in value.keys() - {"role", "content"}:
        if value[name] not in (None, []):
            refuse(f"{where}.{name[:64]}", "is not supported here; known: role, content")
    role = value.get("role")
    if not isinstance(role, str) or role not in _ROLES:
        refuse(f"{where}.role", f"must be one of {', '.join(_ROLES)}")
    return {"role": _ROLES[role], "content": _content(value.get("content"), f"{where}.content")}


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


def _prompt(value: object) -> str | tuple[int, ...]:
    if isinstance(value, list) and len(value) == 1 and isinstance(value[0], str | list):
        value = value[0]
    if isinstance(value, list) and value and all(is_integer(token) for token in value):
        return tuple(value)
    if isinstance(value, list):
        refuse("prompt", "must be one prompt: a string, or a list of token ids that is not empty")
    return valid_text(value, "prompt") or refuse("prompt", "must not be empty")


def _include_usage(fields: Fields) -> bool:
    options = fields.get("stream_options")
    if options is None:
        return False
    if not isinstance(options, dict):
        refuse("stream_options", "must be an object")
    if not fields.flag("stream"):
        refuse("stream_options", "is only allowed with stream: true")
    for name in options.keys() - {"include_usage", "include_obfuscation"}:
        refuse(f"stream_options.{name[:64]}", "is unknown; known: include_usage")
    if options.get("include_obfuscation"):
        refuse("stream_options.include_obfuscation", "is not supported here; leave it out")
    include = options.get("include_usage")
    if include is not None and not isinstance(include, bool):
        refuse("stream_options.include_usage", "must be true or false")
    return include is True


def _stop(value: object) -> tuple[str, ...]:
    if value is None:
        return ()
    stops = cast(Sequence[object], value if isinstance(value, list) else [value])
    if len(stops) > MOST_STOPS:
        refuse("stop", f"must have at most {MOST_STOPS} strings")
    texts = tuple(valid_text(stop, "stop") for stop in stops)
    if not all(1 <= len(text) <= LONGEST_STOP for text in texts):
        refuse("stop", f"must have strings of 1 to {LONGEST_STOP} characters")
    return texts


def _max_tokens(fields: Fields, operation: Operation) -> int | None:
    older = fields.integer("max_tokens", low=1, high=MOST_TOKENS)
    if operation is Operation.COMPLETION:
        return COMPLETION_MAX_TOKENS if older is None else older
    newer = fields.integer("max_completion_tokens", low=1, high=MOST_TOKENS)
    if older is not None and newer is not None and older != newer:
        refuse("max_tokens", "differs from max_completion_tokens; send one of them")
    return older if newer is None else newer
