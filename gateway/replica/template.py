"""
A model's chat template: messages in, prompt tokens out.

The template is code that came with the weights, so it runs in Jinja's sandbox, for a bounded time
and to a bounded length. (The sandbox does not bound memory: weights are the operator's choice.)
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from datetime import datetime
from typing import NoReturn

from jinja2 import TemplateError, meta
from jinja2.ext import Extension, LoopControlExtension
from jinja2.lexer import Token, TokenStream
from jinja2.runtime import Context
from jinja2.sandbox import ImmutableSandboxedEnvironment

from gateway.errors import InvalidRequest
from gateway.replica.messages import in_words
from gateway.replica.prompt import Chat
from gateway.replica.speech import CLOSE, OPEN, Thinking
from gateway.replica.text import MARK, Tokenizer
from gateway.replica.tool_formats import format_of

RENDER_S = 1.0
"""Seconds that one rendering may take; a plain one takes well under a millisecond."""

_TICK = "replica_tick"

_TAIL = 8
"""Tokens at a prompt's end in which its thoughts may be opened."""

_OURS = {"messages", "tools", "add_generation_prompt", "bos_token", "eos_token"}
_OURS |= {"raise_exception", "strftime_now", "namespace", "range", "dict", _TICK}
"""Variables that no request may set."""

_SWITCHES = ("enable_thinking", "thinking")
"""Under which templates take whether to think."""

_HERE = "\udffe"
"""Ends a message that is to be continued, whatever the template writes after it. A lone surrogate
like MARK, so no message holds one."""


class TemplateRefused(TemplateError):
    """The template itself called `raise_exception`; its message is the template author's."""


class ChatTemplate:
    """Renders as `transformers` does. Raises ValueError if the source is no valid template."""

    def __init__(
        self,
        source: str,
        tokenizer: Tokenizer,
        *,
        now: Callable[[], datetime] = datetime.now,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        if _TICK in source:
            raise ValueError(f"the chat template may not use the name {_TICK}")
        environment = _Sandbox(
            trim_blocks=True, lstrip_blocks=True, extensions=[LoopControlExtension, _Ticking]
        )
        environment.filters["tojson"] = _to_json
        environment.globals["raise_exception"] = _refuse
        environment.globals["strftime_now"] = lambda pattern: now().strftime(pattern)
        try:
            self._template = environment.from_string(source)
            self._variables = meta.find_undeclared_variables(environment.parse(source))
        except TemplateError as error:
            raise ValueError(f"the model file's chat template is not valid: {error}") from error
        self._tokenizer = tokenizer
        self._clock = clock
        self._thinks = CLOSE in source
        self.tool_format = format_of(source)

    def thinking(self, prompt: Sequence[int]) -> Thinking:
        """Whether the answer to a prompt of this template begins with thoughts."""
        if not self._thinks:
            return Thinking.NEVER
        end = self._tokenizer.decode(prompt[-_TAIL:]).rstrip()
        if end.endswith(OPEN):
            return Thinking.BEGUN
        return Thinking.NEVER if end.endswith(CLOSE) else Thinking.PERHAPS

    def encode(self, chat: Chat) -> list[int]:
        """Prompt tokens of a chat, up to where the assistant's answer begins or goes on.

        Control tokens stand where the template writes them and nowhere else: a message that
        contains one's name gets plain text. Raises InvalidRequest when the template fails.
        """
        try:
            rendered = self._render(chat)
        except TemplateRefused as error:
            raise InvalidRequest(
                f"the model's chat template refuses these messages: {str(error)[:200]}",
                param="messages",
            ) from None
        except (
            TemplateError,
            TypeError,
            ValueError,
            ArithmeticError,
            LookupError,
            AttributeError,
            RecursionError,
        ) as error:
            # Their messages may quote a client's text.
            raise InvalidRequest(
                f"the model's chat template failed on these messages ({type(error).__name__})",
                param="messages",
            ) from None
        if chat.continues:
            rendered, here, _ = rendered.rpartition(_HERE)
            if not here:
                raise InvalidRequest(
                    "the model's chat template leaves out the last message: it cannot be continued",
                    param="continue_final_message",
                )
        return self._tokenizer.encode_marked_up(rendered)

    def _render(self, chat: Chat) -> str:
        tools, messages = [*chat.tools], [*chat.messages]
        if "tools" not in self._variables:
            tools, messages = [], in_words(chat.messages, tools)
        if chat.continues:
            last = messages.pop()
            messages.append({**last, "content": last["content"] + _HERE})
        given = {**self._variables_of(chat), "messages": messages, "tools": tools or None}
        variables = {name: self._guarded(value) for name, value in given.items()}
        most = 65_536 + 8 * chat.size
        deadline = self._clock() + RENDER_S

        def tick() -> str:
            if self._clock() > deadline:
                raise InvalidRequest(
                    f"the model's chat template ran for more than {RENDER_S:g} s", param="messages"
                )
            return ""

        bos, eos = self._tokenizer.bos, self._tokenizer.eos
        pieces: list[str] = []
        size = 0
        for piece in self._template.generate(
            {
                **variables,
                "add_generation_prompt": chat.begins_answer,
                "bos_token": bos[1] if bos else "",
                "eos_token": eos[1] if eos else "",
                _TICK: tick,
            }
        ):
            tick()
            pieces.append(piece)
            size += len(piece)
            if size > most:
                raise InvalidRequest("the model's chat template wrote too much", param="messages")
        return "".join(pieces)

    def _variables_of(self, chat: Chat) -> dict[str, object]:
        """What the request sets for the template. Raises InvalidRequest for what it has not."""
        known = self._variables - _OURS
        for name in chat.variables:
            if name not in known:
                has = ", ".join(sorted(known)) or "none"
                raise InvalidRequest(
                    f"the model's chat template has no variable {name[:64]!r}; it has: {has}",
                    param="chat_template_kwargs",
                )
        return {**self._effort(chat.effort), **chat.variables}

    def _effort(self, effort: str | None) -> Mapping[str, object]:
        if effort is None:
            return {}
        variables: dict[str, object] = {"reasoning_effort": effort} | dict.fromkeys(
            _SWITCHES, effort != "none"
        )
        taken = {name: variables[name] for name in variables if name in self._variables}
        if not taken and effort != "none":
            raise InvalidRequest(
                "reasoning_effort is not supported by this model: its chat template has no such "
                'choice; leave it out or send "none"',
                param="reasoning_effort",
            )
        return taken

    def _guarded(self, value: object) -> object:
        """A copy in which no text of the client's names a control token."""
        match value:
            case str():
                return self._tokenizer.guard(value)
            case dict():
                guard = self._tokenizer.guard
                return {guard(key): self._guarded(item) for key, item in value.items()}
            case list():
                return [self._guarded(item) for item in value]
        return value


class _Sandbox(ImmutableSandboxedEnvironment):
    """Without the two operators by which one expression can take any time and memory."""

    intercepted_binops = frozenset(("*", "**"))

    def call_binop(self, context: Context, operator: str, left: object, right: object) -> object:
        if not isinstance(left, int) or not isinstance(right, int) or operator == "**":
            raise TypeError("templates multiply integers only")
        return left * right


class _Ticking(Extension):
    """Calls `_TICK` in each turn of a loop and each call of a macro: all that can go on for long.

    It works on the lexer's tokens, after whitespace control, so the text is not changed.
    """

    def filter_stream(self, stream: TokenStream) -> Iterator[Token]:
        repeats = False
        for token in stream:
            yield token
            if token.type == "block_begin":
                repeats = stream.current.test_any("name:for", "name:macro")
            elif token.type == "block_end" and repeats:
                line = token.lineno
                yield Token(line, "variable_begin", "{{")
                yield Token(line, "name", _TICK)
                yield Token(line, "lparen", "(")
                yield Token(line, "rparen", ")")
                yield Token(line, "variable_end", "}}")


def _refuse(message: str) -> NoReturn:
    raise TemplateRefused(message.replace(MARK, "").replace(_HERE, ""))


def _to_json(value: object, indent: int | None = None) -> str:
    # Jinja's own escapes for HTML, and an ASCII escape would hide a MARK
    return json.dumps(value, ensure_ascii=False, indent=indent)
