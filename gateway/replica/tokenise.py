"""What `/tokenize` and `/detokenize` take, under vLLM's names. No I/O."""

from __future__ import annotations

from gateway.replica.fields import Fields, admit_only, refuse
from gateway.replica.prompt import Prompt, parse_chat, parse_prompt
from gateway.replica.tools import parse_tools

LONGEST_NAME = 256  # characters
MOST_TOKENS = 1 << 17

_OF_CHAT = (
    "messages",
    "add_generation_prompt",
    "continue_final_message",
    "tools",
    "tool_choice",
    "reasoning_effort",
    "chat_template_kwargs",
)


def parse_tokenise(body: bytes) -> tuple[str | None, Prompt]:
    """The model, if one is named, and what is to become tokens. Raises InvalidRequest."""
    fields = admit_only(body, ("model", "prompt", *_OF_CHAT))
    if fields.get("messages") is not None and fields.get("prompt") is not None:
        refuse("prompt", "and messages exclude each other")
    is_chat = any(fields.get(name) is not None for name in _OF_CHAT)
    if not is_chat:
        return _model(fields), parse_prompt(fields)
    return _model(fields), parse_chat(fields, parse_tools(fields).prompt)


def parse_tokens(body: bytes, vocabulary: int) -> tuple[str | None, tuple[int, ...]]:
    """The model, if one is named, and token ids that it has. Raises InvalidRequest."""
    fields = admit_only(body, ("model", "tokens"))
    tokens = fields.integers("tokens", most=MOST_TOKENS)
    if tokens is None:
        refuse("tokens", "is required")
    if any(token >= vocabulary for token in tokens):
        refuse("tokens", f"must have token ids from 0 to {vocabulary - 1}")
    return _model(fields), tokens


def _model(fields: Fields) -> str | None:
    return fields.text("model", longest=LONGEST_NAME)
