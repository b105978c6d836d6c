"""
A model's chat template: messages in, prompt tokens out.

The template is code that came with the weights, so it runs in Jinja's sandbox, for a bounded time
and to a bounded length. (The sandbox does not bound memory: weights are the operator's choice.)
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator
from datetime import datetime
from typing import NoReturn

from jinja2 import TemplateError
from jinja2.ext import Extension, LoopControlExtension
from jinja2.lexer import Token, TokenStream
from jinja2.runtime import Context
from jinja2.sandbox import ImmutableSandboxedEnvironment

from gateway.errors import InvalidRequest
from gateway.replica.prompt import Chat
from gateway.replica.text import MARK, Tokenizer

RENDER_S = 1.0
"""Seconds that one rendering may take; a plain one takes well under a millisecond."""

_TICK = "replica_tick"

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
        except TemplateError as error:
            raise ValueError(f"the model file's chat template is not valid: {error}") from error
        self._tokenizer = tokenizer
        self._clock = clock

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
        guard = self._tokenizer.guard
        guarded = [{key: guard(text) for key, text in message.items()} for message in chat.messages]
        if chat.continues:
            guarded[-1]["content"] += _HERE
        most = 65_536 + 4 * sum(len(text) for message in guarded for text in message.values())
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
                "messages": guarded,
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
