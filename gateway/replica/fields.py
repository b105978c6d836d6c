"""
The request fields that a replica knows, in one table, and typed access to them.

Nothing is dropped in silence: a field that this replica cannot honour is refused by name, and so
is one that it does not know.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import Enum, auto
from typing import NoReturn, TypeGuard

from gateway.domain import Operation
from gateway.errors import Forbidden, InvalidRequest


class _Class(Enum):
    HONOURED = auto()
    LABEL = auto()  # for the client's own books: it asks for no other answer
    NEUTRAL = auto()  # accepted with the values that ask for nothing, refused with others
    GATEWAY = auto()  # counts only with the replica's secret


@dataclass(frozen=True, slots=True)
class _Field:
    kind: _Class
    neutral: tuple[object, ...] = ()
    only: Operation | None = None


_CHAT, _COMPLETION = Operation.CHAT, Operation.COMPLETION

_FIELDS: Mapping[str, _Field] = {
    "model": _Field(_Class.HONOURED),
    "messages": _Field(_Class.HONOURED, only=_CHAT),
    "add_generation_prompt": _Field(_Class.HONOURED, only=_CHAT),
    "continue_final_message": _Field(_Class.HONOURED, only=_CHAT),
    "prompt": _Field(_Class.HONOURED, only=_COMPLETION),
    "echo": _Field(_Class.HONOURED, only=_COMPLETION),
    "stream": _Field(_Class.HONOURED),
    "stream_options": _Field(_Class.HONOURED),
    "n": _Field(_Class.HONOURED),
    "best_of": _Field(_Class.HONOURED, only=_COMPLETION),
    "temperature": _Field(_Class.HONOURED),
    "top_p": _Field(_Class.HONOURED),
    "top_k": _Field(_Class.HONOURED),
    "min_p": _Field(_Class.HONOURED),
    "repetition_penalty": _Field(_Class.HONOURED),
    "presence_penalty": _Field(_Class.HONOURED),
    "frequency_penalty": _Field(_Class.HONOURED),
    "logit_bias": _Field(_Class.HONOURED),
    "seed": _Field(_Class.HONOURED),
    "logprobs": _Field(_Class.HONOURED),
    "top_logprobs": _Field(_Class.HONOURED, only=_CHAT),
    "max_tokens": _Field(_Class.HONOURED),
    "max_completion_tokens": _Field(_Class.HONOURED, only=_CHAT),
    "min_tokens": _Field(_Class.HONOURED),
    "stop": _Field(_Class.HONOURED),
    "stop_token_ids": _Field(_Class.HONOURED),
    "include_stop_str_in_output": _Field(_Class.HONOURED),
    "ignore_eos": _Field(_Class.HONOURED),
    "user": _Field(_Class.LABEL),
    "metadata": _Field(_Class.LABEL),
    "safety_identifier": _Field(_Class.LABEL),
    "prompt_cache_key": _Field(_Class.LABEL),  # the cache here goes by content
    "store": _Field(_Class.NEUTRAL, (False,)),
    "service_tier": _Field(_Class.NEUTRAL, ("auto", "default")),
    "response_format": _Field(_Class.HONOURED, only=_CHAT),
    "tools": _Field(_Class.HONOURED, only=_CHAT),
    "tool_choice": _Field(_Class.HONOURED, only=_CHAT),
    "parallel_tool_calls": _Field(_Class.HONOURED, only=_CHAT),
    "reasoning_effort": _Field(_Class.HONOURED, only=_CHAT),
    "chat_template_kwargs": _Field(_Class.HONOURED, only=_CHAT),
    "functions": _Field(_Class.NEUTRAL, ([],), only=_CHAT),
    "function_call": _Field(_Class.NEUTRAL, ("none",), only=_CHAT),
    "modalities": _Field(_Class.NEUTRAL, (["text"],), only=_CHAT),
    "audio": _Field(_Class.NEUTRAL, only=_CHAT),
    "prediction": _Field(_Class.NEUTRAL, only=_CHAT),
    "verbosity": _Field(_Class.NEUTRAL, ("medium",), only=_CHAT),
    "web_search_options": _Field(_Class.NEUTRAL, only=_CHAT),
    "suffix": _Field(_Class.NEUTRAL, ("",), only=_COMPLETION),
    "cache_salt": _Field(_Class.GATEWAY),
    "priority": _Field(_Class.GATEWAY),
    "session_id": _Field(_Class.GATEWAY),
    "continue_token_ids": _Field(_Class.GATEWAY),
    "return_token_ids": _Field(_Class.GATEWAY),
}


class Fields:
    """A request's admitted fields, by name and type; null counts as left out.

    Every method raises InvalidRequest that names the field when its value is of another kind.
    """

    def __init__(self, values: Mapping[str, object]) -> None:
        self._values = values

    def get(self, name: str) -> object:
        return self._values.get(name)

    def text(self, name: str, *, longest: int) -> str | None:
        value = self.get(name)
        if value is None:
            return None
        text = valid_text(value, name)
        if not 1 <= len(text) <= longest:
            refuse(name, f"must have 1 to {longest} characters")
        return text

    def flag(self, name: str, *, default: bool = False) -> bool:
        value = self.get(name)
        if value is None:
            return default
        if not isinstance(value, bool):
            refuse(name, "must be true or false")
        return value

    def integer(self, name: str, *, low: int, high: int) -> int | None:
        value = self.get(name)
        if value is None:
            return None
        if not is_integer(value) or not low <= value <= high:
            refuse(name, f"must be an integer from {low} to {high}")
        return value

    def integers(self, name: str, *, most: int) -> tuple[int, ...] | None:
        """A list of non-negative ones."""
        value = self.get(name)
        if value is None:
            return None
        if not isinstance(value, list) or not all(is_integer(v) and v >= 0 for v in value):
            refuse(name, "must be a list of integers from 0 on")
        if len(value) > most:
            refuse(name, f"must have at most {most} entries")
        return tuple(value)

    def number(self, name: str, *, default: float, low: float, high: float) -> float:
        value = self.get(name)
        if value is None:
            return default
        if isinstance(value, bool) or not isinstance(value, int | float):
            refuse(name, "must be a number")
        if not low <= value <= high:
            refuse(name, f"must be from {low:g} to {high:g}")
        return float(value)


def admit(operation: Operation, body: bytes, *, trusted: bool) -> Fields:
    """The fields of a request's body, each one allowed to be there.

    Raises InvalidRequest, and Forbidden for a gateway-only field of an untrusted caller.
    """
    values = {name: value for name, value in _load(body).items() if value is not None}
    for name, value in values.items():
        field = _FIELDS.get(name)
        if field is None or field.only not in (None, operation):
            known = ", ".join(_usable(operation, trusted=trusted))
            raise InvalidRequest(f"unknown field {name[:64]!r}; known: {known}", param=name[:64])
        if field.kind is _Class.GATEWAY and not trusted:
            raise Forbidden(f"{name} counts only with the replica's secret", param=name)
        if field.kind is _Class.NEUTRAL and not _is_one_of(value, field.neutral):
            harmless = " or ".join(json.dumps(v) for v in field.neutral if not isinstance(v, float))
            hint = f"leave it out{f' or send {harmless}' if harmless else ''}"
            refuse(name, f"is not supported here with this value; {hint}")
    return Fields(values)


def admit_only(body: bytes, known: Sequence[str]) -> Fields:
    """The fields of a body that may have these and no others. Raises InvalidRequest."""
    values = _load(body)
    for name in values.keys() - set(known):
        named = ", ".join(known)
        raise InvalidRequest(f"unknown field {name[:64]!r}; known: {named}", param=name[:64])
    return Fields(values)


def refuse(param: str, what: str) -> NoReturn:
    raise InvalidRequest(f"{param} {what}", param=param)


def valid_text(value: object, param: str) -> str:
    """A string that UTF-8 can carry: JSON's escapes can also spell half a surrogate pair."""
    if not isinstance(value, str):
        refuse(param, "must be a string")
    try:
        value.encode()
    except UnicodeEncodeError:
        refuse(param, "holds a lone surrogate, which is not a character")
    return value


def valid_json(value: Mapping[str, object], param: str) -> Mapping[str, object]:
    """As `valid_text`, for all text in it."""
    try:
        json.dumps(value, ensure_ascii=False).encode()
    except UnicodeEncodeError:
        refuse(param, "holds a lone surrogate, which is not a character")
    except RecursionError:
        refuse(param, "is nested too deeply")
    return value


def is_integer(value: object) -> TypeGuard[int]:
    return isinstance(value, int) and not isinstance(value, bool)


def _load(body: bytes) -> dict[str, object]:
    try:
        values = json.loads(body, parse_constant=_no_constant)
    except (ValueError, RecursionError):
        raise InvalidRequest("the body is not valid JSON") from None
    if not isinstance(values, dict):
        raise InvalidRequest("the body must be a JSON object")
    return values


def _no_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is not JSON")


def _is_one_of(value: object, neutral: tuple[object, ...]) -> bool:
    # by type too: 1 == True and 0 == False in Python
    return any(type(value) is type(other) and value == other for other in neutral)


def _usable(operation: Operation, *, trusted: bool) -> list[str]:
    return [
        name
        for name, field in _FIELDS.items()
        if field.only in (None, operation)
        and field.kind is not _Class.NEUTRAL
        and (trusted or field.kind is not _Class.GATEWAY)
    ]
