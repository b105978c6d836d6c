"""The one table of a response's fields.

Three classes, as in `wire/fields.py`. *Ours*: what the gateway itself honours, with a type.
*Translated*: what has a place in a chat. *Refused*: what neither the gateway nor a chat can do, by
name. All others go to the endpoint as they are, as a chat's do.
"""

from __future__ import annotations

from collections.abc import Mapping
from types import NoneType
from typing import Any

from gateway.domain import Json
from gateway.errors import InvalidRequest, UnsupportedRequest
from gateway.wire.fields import TOKENS, check_bounds, check_metadata, check_table

TYPES: Mapping[str, tuple[type, ...]] = {
    "model": (str,),
    "input": (str, list, NoneType),
    "instructions": (str, NoneType),
    "max_output_tokens": (int, NoneType),
    "max_tool_calls": (int, NoneType),  # of built-in tools, of which there are none
    "metadata": (dict, NoneType),
    "parallel_tool_calls": (bool, NoneType),
    "previous_response_id": (str, NoneType),
    "reasoning": (dict, NoneType),
    "store": (bool, NoneType),
    "background": (bool, NoneType),
    "stream": (bool, NoneType),
    "stream_options": (dict, NoneType),
    "text": (dict, NoneType),
    "tool_choice": (str, dict, NoneType),
    "tools": (list, NoneType),
    "top_logprobs": (int, NoneType),
    "truncation": (str, NoneType),
    "include": (list, NoneType),
}
"""Those that are not sent on under their name, but for `model` and what a chat checks itself."""

SAME = ("parallel_tool_calls", "stream")
"""Of those, what a chat calls the same."""

REFUSED: Mapping[str, str] = {
    "conversation": "conversations are not kept here: use 'previous_response_id'",
    "prompt": "prompt templates are not kept here: send the text itself",
    "context_management": "nothing is compacted here",
    "moderation": "nothing is moderated here",
    # A chat's fields, which would get past what is checked here.
    "messages": "a response has 'input'",
    "max_tokens": "a response has 'max_output_tokens'",
    "max_completion_tokens": "a response has 'max_output_tokens'",
    "response_format": "a response has 'text.format'",
    "reasoning_effort": "a response has 'reasoning.effort'",
    "verbosity": "a response has 'text.verbosity'",
    "functions": "a response has 'tools'",
    "function_call": "a response has 'tool_choice'",
    "logprobs": "a response has 'top_logprobs' and 'include'",
    "n": "a response is one choice",
}

WITHIN: Mapping[str, tuple[str, ...]] = {
    "reasoning": ("effort", "summary", "generate_summary"),
    "text": ("format", "verbosity"),
    "stream_options": ("include_obfuscation",),
}
"""What is read of those that are objects; nothing else of them has a place in a chat."""

LOGPROBS = "message.output_text.logprobs"
INCLUDED = (LOGPROBS, "reasoning.encrypted_content")
"""The second is given in the clear: a reasoning item has its text."""


def check(body: Json) -> None:
    """Raises InvalidRequest for a wrong type, UnsupportedRequest for what cannot be done."""
    if "model" not in body:
        raise InvalidRequest("you must provide 'model'", param="model")
    check_table(body, REFUSED, TYPES, WITHIN)
    check_metadata(body.get("metadata"))
    for name in body.get("include") or ():
        if name not in INCLUDED:
            known = " and ".join(INCLUDED)
            raise UnsupportedRequest(
                f"'include' may name {known}, not {_short(name)}", param="include"
            )
    if body.get("truncation") not in (None, "disabled"):
        raise UnsupportedRequest(
            "'truncation' must be 'disabled': nothing of a conversation is dropped here",
            param="truncation",
        )
    if body.get("background") and body.get("stream"):
        raise UnsupportedRequest(
            "a background response cannot be streamed: retrieve it until it is there",
            param="stream",
        )
    if body.get("background") and body.get("store") is False:
        raise InvalidRequest("a background response must be stored", param="store")
    if (body.get("stream_options") or {}).get("include_obfuscation"):
        raise UnsupportedRequest(
            "nothing is obfuscated here", param="stream_options.include_obfuscation"
        )
    check_bounds("max_output_tokens", body.get("max_output_tokens"), TOKENS)


def _short(value: Any) -> str:
    return repr(value)[:100]
