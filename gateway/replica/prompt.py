"""What a request gives the model to go on from: a chat, a text, or token ids."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from gateway.replica.fields import Fields, is_integer, refuse, valid_text

MOST_MESSAGES = 4096

_ROLES = {"system": "system", "developer": "system", "user": "user", "assistant": "assistant"}
"""What the template gets for each role; OpenAI's `developer` is the newer name of `system`."""


@dataclass(frozen=True, slots=True)
class Chat:
    messages: tuple[Mapping[str, str], ...]  # each with `role` and `content`
    begins_answer: bool = True  # the template writes where the assistant's turn begins
    continues: bool = False  # the last message is the assistant's, and its end is left open


Prompt = Chat | str | tuple[int, ...]


def parse_chat(fields: Fields) -> Chat:
    value = fields.get("messages")
    if not isinstance(value, list) or not 1 <= len(value) <= MOST_MESSAGES:
        refuse("messages", f"must be a list of 1 to {MOST_MESSAGES} messages")
    messages = tuple(_message(message, f"messages[{i}]") for i, message in enumerate(value))
    continues = fields.flag("continue_final_message")
    begins = fields.flag("add_generation_prompt", default=not continues)
    if continues and begins:
        refuse("add_generation_prompt", "must be false with continue_final_message")
    if continues and messages[-1]["role"] != "assistant":
        refuse("continue_final_message", "needs a last message of the assistant")
    return Chat(messages, begins, continues)


def parse_prompt(fields: Fields) -> str | tuple[int, ...]:
    value = fields.get("prompt")
    if isinstance(value, list) and len(value) == 1 and isinstance(value[0], str | list):
        value = value[0]
    if isinstance(value, list) and value and all(is_integer(token) for token in value):
        return tuple(value)
    if isinstance(value, list):
        refuse("prompt", "must be one prompt: a string, or a list of token ids that is not empty")
    return valid_text(value, "prompt") or refuse("prompt", "must not be empty")


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
