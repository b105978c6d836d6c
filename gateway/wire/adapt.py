"""A request's fields as one dialect names them, and as the rest of an answer that broke off."""

from __future__ import annotations

from typing import Any

from gateway.domain import Delivered, InferenceRequest, Json, Operation
from gateway.errors import UpstreamRefused

BYTES_PER_TOKEN = 4
"""Of delivered text whose tokens were not told: a guess at English."""


def with_max_tokens_as(name: str, fields: Json) -> Json:
    """The bound under this name alone: some refuse both, and the newer one is the stronger."""
    names = ("max_completion_tokens", "max_tokens")
    given = [fields[n] for n in names if fields.get(n) is not None]
    if not given:
        return fields
    return {**{k: v for k, v in fields.items() if k not in names}, name: given[0]}


def with_reasoning_as(name: str, fields: Json) -> Json:
    """What the model thought in earlier turns; clients have it from us as `reasoning_content`."""
    messages = fields.get("messages")
    if not isinstance(messages, list) or not any("reasoning_content" in m for m in messages):
        return fields
    renamed = [
        {(name if k == "reasoning_content" else k): v for k, v in m.items()} for m in messages
    ]
    return {**fields, "messages": renamed}


def continued_from_text(request: InferenceRequest, delivered: Delivered) -> Json:
    """The fields of a request for the rest: its beginning is the start of the assistant's message,
    or of the text to complete, and has spent some of the tokens that it was to have at most.

    Raises UpstreamRefused when the beginning has no place to stand.
    """
    fields = {**request.forwarded, **_beginning(request, delivered.text)}
    spent = _tokens(delivered)
    for name, least in (("max_tokens", 1), ("max_completion_tokens", 1), ("min_tokens", 0)):
        if isinstance(fields.get(name), int):
            fields[name] = max(least, fields[name] - spent)
    return fields


def _tokens(delivered: Delivered) -> int:
    if delivered.token_ids is not None:
        return len(delivered.token_ids)
    if delivered.tokens:
        return delivered.tokens
    return -(-len(delivered.text.encode(errors="replace")) // BYTES_PER_TOKEN)


def _beginning(request: InferenceRequest, text: str) -> dict[str, Any]:
    if request.operation is Operation.COMPLETION:
        prompt = request.forwarded["prompt"]
        if not isinstance(prompt, str):
            raise UpstreamRefused("the endpoint can only go on with a prompt that is text")
        return {"prompt": prompt + text, "echo": False}
    messages = request.forwarded["messages"]
    if request.forwarded.get("continue_final_message"):
        *messages, last = messages
        if not isinstance(last.get("content"), str):
            raise UpstreamRefused("the endpoint can only go on with a message that is text")
        text = last["content"] + text
    return {
        "messages": [*messages, {"role": "assistant", "content": text}],
        "continue_final_message": True,
        "add_generation_prompt": False,
    }
