"""
What providers differ in, and OpenAI's way as the base.

A profile is a file in `profiles/`: it overrides what its provider does otherwise, and says of each
thing whether the provider's documents say so or we infer it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import Enum
from typing import Any, ClassVar
from urllib.parse import parse_qs

from gateway.emulator.asked import Asked, Refusal
from gateway.emulator.http import Request
from gateway.emulator.limits import Account, Full
from gateway.emulator.machine import Machine
from gateway.emulator.run import Run
from gateway.emulator.settings import Settings

Object = dict[str, Any]


Usual = Mapping[int, tuple[str, str, str | None]]
"""Message, type and code by status."""


class Basis(Enum):
    DOCUMENTED = "D"
    INFERRED = "I"


@dataclass(frozen=True, slots=True)
class Behaviour:
    basis: Basis
    text: str


Behaviours = tuple[Behaviour, ...]


def documented(text: str) -> Behaviour:
    return Behaviour(Basis.DOCUMENTED, text)


def inferred(text: str) -> Behaviour:
    return Behaviour(Basis.INFERRED, text)


@dataclass(frozen=True, slots=True)
class Answer:
    status: int
    body: bytes
    headers: Mapping[str, str] = field(default_factory=dict)
    media_type: str = "application/json"


class Usage(Enum):
    """Where a stream tells it."""

    ASKED = "in an event of its own, if stream_options.include_usage asks"
    ALWAYS = "in an event of its own"
    FINISH = "in the event with the finish reason"


class Cold(Enum):
    HOLD = "the request waits"
    REFUSE = "the request is refused"


USUAL: Usual = {
    400: ("The request is not valid.", "invalid_request_error", None),
    401: ("Incorrect API key provided.", "invalid_request_error", "invalid_api_key"),
    402: ("The account has no credit left.", "billing_error", "insufficient_quota"),
    403: ("You have no access to this.", "permission_error", "permission_denied"),
    404: ("There is no such path.", "invalid_request_error", "not_found"),
    429: ("Rate limit reached.", "rate_limit_error", "rate_limit_exceeded"),
    500: ("The server had an error.", "server_error", None),
    502: ("Bad gateway.", "server_error", None),
    503: ("The server is overloaded.", "server_error", "server_is_overloaded"),
    504: ("The request took too long.", "server_error", "timeout"),
}


class Profile:
    name: ClassVar[str] = ""
    reads: ClassVar[str] = ""  # what it imitates, as our reading of whose documents
    prefix: ClassVar[str] = "/v1"
    model: ClassVar[str] = "gpt-oss-120b"  # as the provider would call one
    credentials: ClassVar[Mapping[str, str]] = {"api_key": "rehearsal"}  # in a gateway's config
    behaviours: ClassVar[Behaviours] = ()
    defaults: ClassVar[Settings] = Settings()

    usual: ClassVar[Usual] = {}  # over USUAL
    needs_key: ClassVar[bool] = True
    usage_in: ClassVar[Usage] = Usage.ASKED
    cold: ClassVar[Cold] = Cold.HOLD
    adaptive: ClassVar[bool] = False  # its limit on tokens follows use
    cached_is_free: ClassVar[bool] = False  # of the limit on tokens
    bills_hang_ups_whole: ClassVar[bool] = False  # it computes on when nobody listens
    continues: ClassVar[bool] = False  # continue_final_message
    prefills: ClassVar[bool] = False  # an assistant's message at the end is gone on with, unasked
    embeds: ClassVar[bool] = True  # it has models that make vectors
    waiting_comment: ClassVar[str | None] = None  # sent while a stream waits for its first token
    waiting_blank: ClassVar[bool] = False  # blank lines while an answer that is no stream waits
    result_wait_s: ClassVar[float | None] = None  # then it redirects to where the result will be
    reasoning_field: ClassVar[str] = "reasoning_content"
    null_usage: ClassVar[bool] = False  # `usage: null` in the other events, where it was asked

    def __init__(self, settings: Settings) -> None:
        self.settings = settings

    # Who asks, and for what

    def key(self, headers: Mapping[str, str]) -> str | None:
        scheme, _, key = headers.get("authorization", "").partition(" ")
        return key.strip() or None if scheme.lower() == "bearer" else None

    def affinity(self, asked: Asked, headers: Mapping[str, str]) -> str | None:
        """What keeps a conversation on one replica."""
        return None

    def cache_salt(self, asked: Asked, headers: Mapping[str, str], account: str) -> str:
        """Prompts share cached blocks where this is equal."""
        return account

    def check(self, asked: Asked) -> None:
        """Raises Refusal for what this provider refuses besides."""

    def overflow(self, asked: Asked, prompt_tokens: int) -> Refusal | None:
        """None: the prompt is cut silently."""
        limit = self.settings.context_tokens
        return Refusal(
            400,
            f"This model's maximum context length is {limit} tokens. However, your request has "
            f"{prompt_tokens} input tokens and wants {asked.max_tokens or 0} more.",
            kind="invalid_request_error",
            code="context_length_exceeded",
            param="messages",
        )

    def tier(self, asked: Asked) -> str:
        return "default"

    def price_factor(self, tier: str) -> float:
        return 1.0

    # Refusals

    def refusal(self, status: int) -> Refusal:
        """This provider's usual one under that status."""
        known = {**USUAL, **self.usual}
        message, kind, code = known.get(status) or (f"Refused with {status}.", "error", None)
        return Refusal(status, message, kind=kind, code=code)

    def unknown_model(self, model: str) -> Refusal:
        return Refusal(
            404,
            f"The model `{model}` does not exist or you do not have access to it.",
            kind="invalid_request_error",
            code="model_not_found",
            param="model",
        )

    def limited(self, full: Full, account: Account, asked: Asked) -> Refusal:
        return self.refusal(429)

    def overloaded(self) -> Refusal:
        """Too many wait."""
        return self.refusal(503)

    def starting(self, wait_s: float) -> Refusal:
        """Where a request does not wait for a start."""
        return self.refusal(503)

    def body(self, refusal: Refusal) -> Object:
        return {
            "error": {
                "message": refusal.message,
                "type": refusal.kind,
                "param": refusal.param,
                "code": refusal.code,
                **refusal.extra,
            }
        }

    def error_event(self, refusal: Refusal, run: Run) -> Object:
        """In the middle of a stream."""
        return self.body(refusal)

    # Headers

    def limit_headers(self, account: Account) -> dict[str, str]:
        return {}

    def served_headers(self, run: Run) -> dict[str, str]:
        """Of an answer; of a stream before its first token."""
        return {"x-request-id": run.id}

    def whole_headers(self, run: Run) -> dict[str, str]:
        """Of an answer that is no stream, besides."""
        return {}

    # Answers

    def usage(self, run: Run) -> Object:
        return {
            "prompt_tokens": run.prompt_tokens,
            "completion_tokens": run.completion_tokens,
            "total_tokens": run.prompt_tokens + run.completion_tokens,
            "prompt_tokens_details": {"cached_tokens": run.cached_tokens},
            "completion_tokens_details": {"reasoning_tokens": run.reasoning_tokens},
        }

    def finish_reason(self, reason: str) -> str:
        return reason

    def head(self, run: Run) -> Object:
        """What stands beside `id` in every event and answer."""
        return {}

    def first_event(self, chunk: Object, run: Run) -> None:
        """May change the first event."""

    def finish_event(self, chunk: Object, run: Run) -> None:
        """May change the event with the finish reason."""

    def usage_event(self, chunk: Object, run: Run) -> None:
        """May change the event with the usage."""

    def whole(self, answer: Object, run: Run) -> None:
        """May change an answer that is no stream."""

    # Further paths

    def route(self, request: Request, machine: Machine) -> Answer | None:
        """What this provider answers besides the OpenAI paths; None: nothing."""
        return None

    def model_entry(self) -> Object:
        """What its list of models tells of each besides."""
        return {}

    def usd(self, run: Run, completion_tokens: int) -> float:
        plain = self.settings.usd(run.prompt_tokens, run.cached_tokens, completion_tokens)
        return plain * self.price_factor(run.tier)


def query_value(request: Request, name: str) -> str | None:
    return parse_qs(request.query).get(name, [None])[0]
