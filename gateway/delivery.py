"""
What a client has of an answer, and how the rest is joined to it.

A client sees one stream however many endpoints it takes: one role, one finish reason, and the usage
of the whole answer. No I/O, no choice of endpoints.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

from gateway.domain import Delivered, Event, InferenceRequest, Operation, Usage
from gateway.errors import UpstreamBroken
from gateway.providers.base import Continuation
from gateway.wire.openai import Ending

REDRAWN = ("response_format", "guided_json", "guided_regex", "guided_grammar", "structured_outputs")
"""What shapes an answer from its first token on: a text that is gone on with would begin anew."""


class Delivery:
    """Everything passes `take` on its way to the client, and what it gives is what is sent."""

    def __init__(self, request: InferenceRequest) -> None:
        self.begun = False  # something was sent: from here on the answer can only be taken up
        self.finished = False  # every choice, with a finish reason
        self.tokens = 0
        self._request = request
        self._streamed, self._is_chat = request.stream, request.operation is Operation.CHAT
        self._ending = Ending(request)
        self._texts: list[str] = []
        self._token_ids: list[int] | None = []
        self._one_plain_choice = request.stream and _asks_for_one(request.forwarded)
        self._text_is_all = True  # as far as it has come
        self._seen = False  # some of it can be seen: more than that somebody speaks
        # Of the attempt that is going on.
        self._again = False  # the client has the role already
        self._by: Continuation | None = None  # None: it began the answer
        self._before = 0  # tokens that were delivered before it

    def fits(self, continuation: Continuation | None) -> bool:
        """An endpoint that goes on like this can be asked for what is missing."""
        if not self.begun:
            return True
        if not self._one_plain_choice:
            return False
        match continuation:
            case _ if not self._seen:
                return True  # from the beginning
            case Continuation.TOKEN_IDS:
                return self._token_ids is not None
            case Continuation.TEXT:
                return self._text_is_all and _is_text(self._request)
        return False

    def request_for(self, continuation: Continuation | None) -> InferenceRequest:
        """What to send to an endpoint that goes on like this; the next events are its."""
        self._again = self.begun
        if not self._seen:
            self._texts, self._token_ids, self.tokens = [], [], 0
        self._by, self._before = (continuation if self._seen else None), self.tokens
        if self._by is None:
            return self._request
        token_ids = None if self._token_ids is None else tuple(self._token_ids)
        delivered = Delivered("".join(self._texts), token_ids, self.tokens)
        return dataclasses.replace(self._request, delivered=delivered)

    def take(self, event: Event) -> Event | None:
        """The event as the client gets it, if anything of it is news. Raises UpstreamBroken."""
        if not self._streamed:
            self.finished = True
            return event
        if event.text is not None and self._is_chat and event.native is None and not self._again:
            self._add(event.text, event.token_ids)
            self._seen = self._seen or event.text != ""
            self.begun = True
            return event
        for choice in event.payload["choices"]:
            self._note(choice, event.token_ids)
        if event.native is not None:
            self._one_plain_choice = False  # nobody else could go on in its words
        self._ending.note(event)
        self.finished = self._ending.reached
        if event.usage is not None and self._by is Continuation.TEXT:
            _tell_usage(event, _moved(event.usage, -self._before))
        if self._again and _is_empty(event):
            return None
        self.begun = True
        return event

    def billed(self, told: Usage) -> Usage:
        """What the endpoint computed for the attempt that is going on, by the usage that it told:
        whoever goes on from tokens counts those as the answer's, and computes them as a prompt."""
        return _moved(told, self._before) if self._by is Continuation.TOKEN_IDS else told

    def _note(self, choice: dict[str, Any], token_ids: tuple[int, ...] | None) -> None:
        said, key = choice, "text"
        if self._is_chat:
            said, key = choice.get("delta") or {}, "content"
            choice["delta"] = said
        text = said.get(key, "") if type(said) is dict else None
        if type(text) is not str:
            if type(said) is not dict or text is not None:
                raise UpstreamBroken("the endpoint sent a piece that makes no sense")
            text = ""
        if self._again:
            said.pop("role", None)
        self._add(text, token_ids)
        others = [name for name, value in said.items() if value and name not in _KNOWN]
        self._seen = self._seen or bool(text or others)
        if choice.get("index") not in (None, 0) or choice.get("logprobs"):
            self._one_plain_choice = False
        if others:
            self._text_is_all = False

    def _add(self, text: str, token_ids: tuple[int, ...] | None) -> None:
        self._texts.append(text)
        if token_ids is None:
            self._token_ids = None
            self.tokens += text != ""
        else:
            if self._token_ids is not None:
                self._token_ids.extend(token_ids)
            self.tokens += len(token_ids)


_KNOWN = {"role", "content", "text", "index", "finish_reason", "stop_reason", "matched_stop"}


def _asks_for_one(forwarded: Mapping[str, Any]) -> bool:
    return (
        forwarded.get("n") in (None, 1)
        and forwarded.get("best_of") in (None, 1)
        and forwarded.get("logprobs") in (None, False)
    )


def _is_text(request: InferenceRequest) -> bool:
    """The answer could be gone on with by its text."""
    asked = request.forwarded
    if any(asked.get(name) for name in (*REDRAWN, "echo", "suffix")):
        return False
    return request.operation is Operation.CHAT or isinstance(asked.get("prompt"), str)


def _moved(usage: Usage, tokens: int) -> Usage:
    """`tokens` of the answer counted as prompt, or the other way round; their sum stays."""
    moved = max(-usage.prompt_tokens + 1, min(tokens, usage.completion_tokens))
    return dataclasses.replace(
        usage,
        prompt_tokens=usage.prompt_tokens + moved,
        completion_tokens=usage.completion_tokens - moved,
    )


def _tell_usage(event: Event, usage: Usage) -> None:
    """The client's too, if it gets any: a total stays right, for the sum does."""
    event.usage = usage
    if event.payload.get("usage"):
        event.payload["usage"] |= {
            "prompt_tokens": usage.prompt_tokens,
            "completion_tokens": usage.completion_tokens,
        }


def _is_empty(event: Event) -> bool:
    """Nothing that the client has not: a role again, or text that is still held back."""
    if event.usage is not None or event.finishes:
        return False
    return not any(
        any(value for name, value in choice.get("delta", choice).items() if name != "index")
        for choice in event.payload["choices"]
    )
