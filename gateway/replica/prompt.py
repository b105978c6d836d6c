"""What a request gives the model to go on from: a chat, a text, or token ids."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from gateway.replica.fields import Fields, is_integer, refuse, valid_json, valid_text
from gateway.replica.messages import Message, parse_messages


@dataclass(frozen=True, slots=True)
class Chat:
    messages: tuple[Message, ...]
    begins_answer: bool = True  # the template writes where the assistant's turn begins
    continues: bool = False  # the last message is the assistant's, and its end is left open
    tools: tuple[Mapping[str, object], ...] = ()
    effort: str | None = None  # of thinking; None: the template's own
    variables: Mapping[str, object] = field(default_factory=dict)  # for the template

    @property
    def size(self) -> int:
        """Characters, about."""
        return len(str(self.messages)) + len(str(self.tools))


Prompt = Chat | str | tuple[int, ...]

EFFORTS = ("none", "minimal", "low", "medium", "high", "xhigh")


def parse_chat(fields: Fields, tools: tuple[Mapping[str, object], ...] = ()) -> Chat:
    messages = parse_messages(fields.get("messages"))
    continues = fields.flag("continue_final_message")
    begins = fields.flag("add_generation_prompt", default=not continues)
    if continues and begins:
        refuse("add_generation_prompt", "must be false with continue_final_message")
    if continues and messages[-1]["role"] != "assistant":
        refuse("continue_final_message", "needs a last message of the assistant")
    effort = fields.get("reasoning_effort")
    if effort is not None and (not isinstance(effort, str) or effort not in EFFORTS):
        refuse("reasoning_effort", f"must be one of {', '.join(EFFORTS)}")
    variables = fields.get("chat_template_kwargs")
    if variables is None:
        variables = {}
    if not isinstance(variables, dict):
        refuse("chat_template_kwargs", "must be an object")
    valid_json(variables, "chat_template_kwargs")
    return Chat(messages, begins, continues, tools, effort, variables)


def parse_prompt(fields: Fields) -> str | tuple[int, ...]:
    value = fields.get("prompt")
    if isinstance(value, list) and len(value) == 1 and isinstance(value[0], str | list):
        value = value[0]
    if isinstance(value, list) and value and all(is_integer(token) for token in value):
        return tuple(value)
    if isinstance(value, list):
        refuse("prompt", "must be one prompt: a string, or a list of token ids that is not empty")
    return valid_text(value, "prompt") or refuse("prompt", "must not be empty")
