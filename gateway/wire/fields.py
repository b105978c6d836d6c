"""The one table of request fields: who owns each, and what type it has.

Three classes. *Owned* by the gateway: what would let a caller choose its tenant, its place in a
queue, its upstream or the template; each is overwritten or refused, below. *Forwarded*: OpenAI's
fields, checked for their type here so that a mistake gets the same answer from every endpoint, and
everything we do not know, for the endpoint to judge. *Refused* by a dialect that cannot honour a
field: that is the provider's to say. Nothing is dropped in silence.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from enum import Enum
from types import NoneType
from typing import Any

from gateway.domain import Json, Operation
from gateway.errors import InvalidRequest, UnsupportedRequest


class Owned(Enum):
    OVERWRITTEN = "overwritten"  # the caller's value is folded into the tenant's
    REFUSED = "refused"


OWNED: Mapping[str, Owned] = {
    "cache_salt": Owned.OVERWRITTEN,
    "prompt_cache_isolation_key": Owned.REFUSED,  # Fireworks' name of the same
    "session_id": Owned.OVERWRITTEN,
    "prompt_cache_key": Owned.OVERWRITTEN,  # OpenAI's name of the same
    # Its class comes with the caller's key, not with the request.
    "priority": Owned.REFUSED,
    # A template from a caller runs on the engine's machine.
    "chat_template": Owned.REFUSED,
    # Where a request goes is the policy's decision; what it costs is on the operator's bill.
    "provider": Owned.REFUSED,
    "route": Owned.REFUSED,
    "models": Owned.REFUSED,
    "plugins": Owned.REFUSED,
    "transforms": Owned.REFUSED,
    "api_base": Owned.REFUSED,
    "api_key": Owned.REFUSED,
    "base_url": Owned.REFUSED,
    "extra_headers": Owned.REFUSED,
    # Weights and embeddings of a caller's own.
    "lora_path": Owned.REFUSED,
    "input_embeds": Owned.REFUSED,
    "prompt_embeds": Owned.REFUSED,
    "preset": Owned.REFUSED,
    # Engines' inner fields: transfer of KV between machines, ranks, hosts to connect to, names of
    # requests and caches, code to run.
    "bootstrap_host": Owned.REFUSED,
    "bootstrap_port": Owned.REFUSED,
    "bootstrap_room": Owned.REFUSED,
    "custom_logit_processor": Owned.REFUSED,
    "data_parallel_rank": Owned.REFUSED,
    "extra_key": Owned.REFUSED,
    "kv_transfer_params": Owned.REFUSED,
    "logits_processors": Owned.REFUSED,
    "request_id": Owned.REFUSED,
    "rid": Owned.REFUSED,
    "continue_token_ids": Owned.REFUSED,
    "return_token_ids": Owned.REFUSED,
    "session_params": Owned.REFUSED,
}

_NUMBER = (int, float)
_COMMON: Mapping[str, tuple[type, ...]] = {
    "model": (str,),
    "stream": (bool, NoneType),
    "stream_options": (dict, NoneType),
    "max_tokens": (int, NoneType),
    "temperature": (*_NUMBER, NoneType),
    "top_p": (*_NUMBER, NoneType),
    "n": (int, NoneType),
    "stop": (str, list, NoneType),
    "seed": (int, NoneType),
    "frequency_penalty": (*_NUMBER, NoneType),
    "presence_penalty": (*_NUMBER, NoneType),
    "logit_bias": (dict, NoneType),
    "user": (str, NoneType),
    "cache_salt": (str, NoneType),
    "session_id": (str, NoneType),
}

FIELDS: Mapping[Operation, Mapping[str, tuple[type, ...]]] = {
    Operation.CHAT: {
        **_COMMON,
        "messages": (list,),
        "max_completion_tokens": (int, NoneType),
        "logprobs": (bool, NoneType),
        "top_logprobs": (int, NoneType),
        "tools": (list, NoneType),
        "tool_choice": (str, dict, NoneType),
        "parallel_tool_calls": (bool, NoneType),
        "response_format": (dict, NoneType),
        "metadata": (dict, NoneType),
        "prompt_cache_key": (str, NoneType),
        "reasoning_effort": (str, NoneType),
        "service_tier": (str, NoneType),
        "store": (bool, NoneType),
    },
    Operation.COMPLETION: {
        **_COMMON,
        "prompt": (str, list),
        "best_of": (int, NoneType),
        "echo": (bool, NoneType),
        "logprobs": (int, NoneType),
        "suffix": (str, NoneType),
    },
    Operation.EMBEDDINGS: {
        "stream_options": (dict, NoneType),
        "model": (str,),
        "input": (str, list),
        "dimensions": (int, NoneType),
        "encoding_format": (str, NoneType),
        **{name: _COMMON[name] for name in ("user", "cache_salt", "session_id")},
    },
}

TOKENS = range(1, 2**31)
"""How many an answer may be asked to have; more fit into no context, and no engine's integer."""

CHOICES = range(1, 129)
"""How many answers to one prompt may be asked for: as many as OpenAI gives."""

BOUNDS: Mapping[Operation, Mapping[str, range]] = {
    Operation.CHAT: {"max_tokens": TOKENS, "max_completion_tokens": TOKENS, "n": CHOICES},
    Operation.COMPLETION: {
        "max_tokens": range(TOKENS.stop),  # none, to be told the prompt's log-probabilities
        "n": CHOICES,
        "best_of": range(CHOICES.stop),
    },
    Operation.EMBEDDINGS: {"dimensions": range(1, 2**31)},
}

METADATA = (16, 64, 512)
"""Pairs, characters of a key, and of a value."""

_NAMES: Mapping[type, str] = {
    str: "a string",
    int: "an integer",
    float: "a number",
    bool: "a boolean",
    list: "an array",
    dict: "an object",
    NoneType: "null",
}


def check_fields(operation: Operation, body: Json) -> None:
    """Raise InvalidRequest for an owned field that is refused, or a value of the wrong type or out
    of its bounds."""
    known, bounds = FIELDS[operation], BOUNDS[operation]
    for name, value in body.items():
        if OWNED.get(name) is Owned.REFUSED and value is not None:
            raise InvalidRequest(f"{name!r} is set by the gateway, not by its callers", param=name)
        if name == "chat_template_kwargs" and isinstance(value, dict) and "chat_template" in value:
            raise InvalidRequest("it must not hold 'chat_template'", param=name)
        if name in known:
            check_type(name, value, known[name])
        if name in bounds:
            check_bounds(name, value, bounds[name])


def check_type(name: str, value: Any, types: tuple[type, ...]) -> None:
    """Raises InvalidRequest."""
    if type(value) not in types:  # in Python True is an int; in JSON it is not
        raise InvalidRequest(
            f"{name!r} must be {_described(types)}, not {_NAMES[type(value)]}", param=name
        )


def check_bounds(name: str, value: int | None, bounds: range) -> None:
    """Raises InvalidRequest."""
    if value is None or value in bounds:
        return
    allowed = f"at least {bounds[0]}" if value < bounds[0] else f"at most {bounds[-1]}"
    raise InvalidRequest(f"{name!r} must be {allowed}", param=name)


def _described(types: tuple[type, ...]) -> str:
    names = [_NAMES[t] for t in types if not (t is int and float in types)]
    return " or ".join(names)


def check_metadata(metadata: Any) -> None:
    """What callers keep with what is kept for them, as OpenAI bounds it. Raises InvalidRequest."""
    pairs, key, value = METADATA
    if metadata is not None and not (
        isinstance(metadata, dict)
        and len(metadata) <= pairs
        and all(
            len(k) <= key and isinstance(v, str) and len(v) <= value for k, v in metadata.items()
        )
    ):
        raise InvalidRequest(
            f"'metadata' must have at most {pairs} pairs, keys of {key} characters "
            f"and strings of {value}",
            param="metadata",
        )


def check_known(given: Json, names: Collection[str], where: str) -> None:
    """Raises UnsupportedRequest for what else is said there: it would be lost on the way."""
    for name, value in given.items():
        if value is not None and name not in names:
            what = f"{where}.{name[:100]}"
            raise UnsupportedRequest(f"{what!r} is not known here", param=what)


def tools_of(tools: list[Json], choice: Any) -> dict[str, Any]:
    """Those of the chat that another API's request comes to, and what it chose of them. Raises
    InvalidRequest for what is not among them: without tools a chat has no place for a choice."""
    names = [tool["function"]["name"] for tool in tools]
    match choice:
        case {"function": {"name": str(name)}} if name not in names:
            raise InvalidRequest(
                f"'tool_choice' names {name[:100]!r}, which is not among the tools",
                param="tool_choice",
            )
        case "required" if not tools:
            raise InvalidRequest("'tool_choice' needs tools", param="tool_choice")
    if not tools:
        return {}
    return {"tools": tools} | ({} if choice is None else {"tool_choice": choice})


def check_table(
    body: Json,
    refused: Mapping[str, str],
    types: Mapping[str, tuple[type, ...]],
    within: Mapping[str, Collection[str]],
) -> None:
    """Another API's fields by its table: `refused` with the reason, `within` what is read of those
    that are objects. Raises InvalidRequest for a wrong type, UnsupportedRequest for the others."""
    for name, why in refused.items():
        if body.get(name) is not None:
            raise UnsupportedRequest(f"{name!r} cannot be used: {why}", param=name)
    for name, known in types.items():
        if name in body:
            check_type(name, body[name], known)
    for outer, names in within.items():
        check_known(body.get(outer) or {}, names, outer)
