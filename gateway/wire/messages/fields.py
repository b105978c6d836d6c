"""The one table of a message's fields: as in `wire/responses/fields.py`."""

from __future__ import annotations

from collections.abc import Mapping
from types import NoneType
from typing import Any

from gateway.domain import Json
from gateway.errors import InvalidRequest
from gateway.wire.fields import TOKENS, check_bounds, check_table

TYPES: Mapping[str, tuple[type, ...]] = {
    "model": (str,),
    "max_tokens": (int,),
    "messages": (list,),
    "system": (str, list, NoneType),
    "stop_sequences": (list, NoneType),
    "stream": (bool, NoneType),
    "tools": (list, NoneType),
    "tool_choice": (dict, NoneType),
    "thinking": (dict, NoneType),
    "metadata": (dict, NoneType),
    "service_tier": (str, NoneType),
    "output_config": (dict, NoneType),
    "output_format": (dict, NoneType),
    "cache_control": (dict, NoneType),  # every cache behind us works without being asked
}
"""Those that are not sent on under their name."""

WITHIN: Mapping[str, tuple[str, ...]] = {
    "thinking": ("type", "budget_tokens", "display"),  # the last: thoughts are shown in any case
    "output_config": ("effort", "format"),
    "output_format": ("type", "schema"),
    "metadata": ("user_id",),
    "tool_choice": ("type", "name", "disable_parallel_tool_use"),
}
"""What is read of those that are objects."""

TOOL = (
    *("type", "name", "description", "input_schema", "strict", "cache_control"),
    "eager_input_streaming",  # as it comes here in any case
)

MESSAGE = ("role", "content")

_EVERY = ("type", "cache_control")

BLOCKS: Mapping[str, tuple[str, ...]] = {
    "text": (*_EVERY, "text", "citations"),  # the last: an answer's, of documents seen elsewhere
    "image": (*_EVERY, "source"),
    "document": (*_EVERY, "source", "title", "context", "citations"),
    "thinking": (*_EVERY, "thinking", "signature"),  # the last: nobody here can check one
    "tool_use": (*_EVERY, "id", "name", "input", "caller"),  # the last: here a model calls
    "tool_result": (*_EVERY, "tool_use_id", "content", "is_error"),
}
"""What a block of each type may hold."""

SOURCES: Mapping[str, tuple[str, ...]] = {
    "base64": ("type", "media_type", "data"),
    "text": ("type", "media_type", "data"),
    "url": ("type", "url"),
}

REFUSED: Mapping[str, str] = {
    "container": "nothing is run here",
    "mcp_servers": "nothing is run here: only tools, which the caller runs",
    "context_management": "nothing of a conversation is dropped here",
    "inference_geo": "where a request goes is the policy's decision",
    "speed": "how fast a request goes is the policy's decision",
    "diagnostics": "it is not known here",
    # A chat's fields, which would get past what is checked here.
    "max_completion_tokens": "a message has 'max_tokens'",
    "response_format": "a message has 'output_config.format'",
    "reasoning_effort": "a message has 'thinking' and 'output_config.effort'",
    "stop": "a message has 'stop_sequences'",
    "functions": "a message has 'tools'",
    "function_call": "a message has 'tool_choice'",
    "logprobs": "a message has none",
    "n": "a message is one choice",
}


def check(body: Json, required: tuple[str, ...]) -> None:
    """Raises InvalidRequest for a wrong type, UnsupportedRequest for what cannot be done."""
    for name in required:
        if name not in body:
            raise InvalidRequest(f"{name}: field required", param=name)
    check_table(body, REFUSED, TYPES, WITHIN)
    check_bounds("max_tokens", body.get("max_tokens"), TOKENS)
    if body.get("service_tier") not in (None, "auto", "standard_only"):
        raise InvalidRequest("'service_tier' must be auto or standard_only", param="service_tier")


def short(value: Any) -> str:
    return repr(value)[:100]
