"""OpenAI's chat and completions API: requests, answers, events."""

from __future__ import annotations

import sys
from dataclasses import dataclass
from hashlib import blake2b
from typing import Any

from gateway.domain import (
    EndpointStats,
    Event,
    InferenceRequest,
    Json,
    Operation,
    ReplicaReport,
    Usage,
)
from gateway.errors import GatewayError, InvalidRequest, UpstreamBroken
from gateway.wire import embeddings
from gateway.wire.error_body import Said, error_said
from gateway.wire.fast_json import dumps, loads
from gateway.wire.fields import OWNED, check_fields
from gateway.wire.needs import count_images, needs
from gateway.wire.prefix import canonical, chat_parts, completion_parts, prefix_keys
from gateway.wire.shapes import choice_to_openai, usage_to_openai
from gateway.wire.sse import DONE, encode_event
from gateway.wire.strict_json import parse_object


@dataclass(frozen=True, slots=True)
class TenantKeys:
    """What keeps one tenant's caches apart from another's; never leaves the gateway as it is."""

    tenant: str
    prefix: bytes
    salt: bytes
    unsalted: str  # the salt of a request that brings none

    @classmethod
    def derive(cls, secret: bytes, tenant: str) -> TenantKeys:
        name = tenant.encode()
        salt = _keyed(secret, b"salt", name)
        return cls(tenant, _keyed(secret, b"prefix", name), salt, _salted(salt, None))


def parse_request(
    operation: Operation, raw: bytes, keys: TenantKeys, session: str | None = None
) -> InferenceRequest:
    """A request from the client's bytes; a header may name a session. Raises InvalidRequest."""
    return request_of(operation, parse_object(raw), keys, session)


def request_of(
    operation: Operation, body: Json, keys: TenantKeys, session: str | None = None
) -> InferenceRequest:
    required = ("model", ASKED[operation])
    for name in required:
        if name not in body:
            raise InvalidRequest(f"you must provide {name!r}", param=name)
    check_fields(operation, body)
    for name in required:
        if not body[name]:
            raise InvalidRequest(f"{name!r} must not be empty", param=name)
    model = body["model"]
    if operation is Operation.CHAT:
        _check_messages(body["messages"])
        parts = chat_parts(model, body)
    elif operation is Operation.EMBEDDINGS:
        embeddings.check_asked(body)
        parts = [embeddings.input_bytes(model, body)]
    else:
        parts = completion_parts(model, body)
    salt = body.get("cache_salt")
    session = body.get("session_id") or session
    hints = {**body, "session_id": session}
    session = session or body.get("prompt_cache_key")
    return InferenceRequest(
        operation=operation,
        model=model,
        forwarded={k: v for k, v in body.items() if k not in OWNED and k != "model"},
        stream=bool(body.get("stream")),
        include_usage=_include_usage(body),
        max_tokens=_max_tokens(operation, body),
        prompt_size=sum(map(len, parts)),
        prefix=prefix_keys(parts, keys.prefix) if operation.writes else (),
        # A salt of the client's divides its own tenant further; it can never join another's.
        cache_salt=keys.unsalted if salt is None else _salted(keys.salt, salt),
        session_id=session and _keyed(keys.salt, b"session", canonical(session)).hex(),
        tenant=keys.tenant,
        prompt_tokens=_count_ids(operation, body),
        images=count_images(body),
        hints=tuple(
            _keyed(keys.salt, b"hint", canonical([name, hints[name]])).hex()
            for name in HINTS
            if hints.get(name)
        ),
        needs=needs(body) if operation.writes else frozenset({"embeddings"}),
        service_tier=body.get("service_tier") if operation is Operation.CHAT else None,
    )


ASKED = {
    Operation.CHAT: "messages",
    Operation.COMPLETION: "prompt",
    Operation.EMBEDDINGS: "input",
}
"""The field that a request is about."""


def _count_ids(operation: Operation, body: Json) -> int | None:
    """How many a prompt of token ids has."""
    if operation is Operation.EMBEDDINGS:
        return embeddings.count_ids(body)
    prompt = body.get("prompt") if operation is Operation.COMPLETION else None
    if isinstance(prompt, list) and prompt and all(type(token) is int for token in prompt):
        return len(prompt)
    return None


HINTS = ("session_id", "prompt_cache_key", "user")
"""Fields by which callers say that requests belong together, the closest first."""

FINISH_REASONS = ("stop", "length", "tool_calls", "content_filter", "function_call")

MAX_MESSAGES = 10_000
"""More are no conversation, and each costs the event loop microseconds."""


def _check_messages(messages: list[Any]) -> None:
    if len(messages) > MAX_MESSAGES:
        raise InvalidRequest(f"'messages' must have at most {MAX_MESSAGES} items", param="messages")
    for index, message in enumerate(messages):
        where = f"messages[{index}]"
        if not isinstance(message, dict):
            raise InvalidRequest(f"{where} must be an object", param=where)
        if not isinstance(message.get("role"), str):
            raise InvalidRequest(f"{where}.role must be a string", param=f"{where}.role")
        content = message.get("content")
        if content is not None and not isinstance(content, str | list):
            raise InvalidRequest(
                f"{where}.content must be a string or an array of parts", param=f"{where}.content"
            )


def _include_usage(body: Json) -> bool:
    asked = (body.get("stream_options") or {}).get("include_usage")
    if asked is not None and not isinstance(asked, bool):
        raise InvalidRequest(
            "'stream_options.include_usage' must be a boolean",
            param="stream_options.include_usage",
        )
    return bool(asked)


def _max_tokens(operation: Operation, body: Json) -> int | None:
    """`max_completion_tokens` is the newer name of `max_tokens`, for chats only."""
    if not operation.writes:
        return None
    names = ("max_completion_tokens", "max_tokens")
    for name in names if operation is Operation.CHAT else names[1:]:
        limit: int | None = body.get(name)
        if limit is not None:
            return limit
    return None


class ErrorInAnswer(Exception):
    """What should have been an answer says that there will be none; what that means is the
    dialect's to say."""

    def __init__(self, said: Said) -> None:
        super().__init__("an error in an answer")
        self.said = said


def parse_event(raw: bytes, cached_tokens: int | None = None) -> Event:
    """One answer or one piece of a streamed one. Raises UpstreamBroken or ErrorInAnswer.

    `cached_tokens` are what was told beside it, for where it does not tell them itself.
    """
    payload = _payload(raw)
    if (event := _next_of_text(payload)) is not None:
        return event
    usage = parse_usage(usage_to_openai(payload, cached_tokens), payload.get("service_tier"))
    choices = payload.get("choices")
    if choices is None and usage is not None:
        choices = payload["choices"] = []  # some say so in the chunk that only has usage
    if not isinstance(choices, list):
        raise UpstreamBroken("the endpoint sent an answer without choices")
    finishes, told = False, None
    for choice in choices:
        if not isinstance(choice, dict):
            raise UpstreamBroken("the endpoint sent an answer without choices")
        reason = choice_to_openai(choice)
        if reason == "error":
            raise ErrorInAnswer(Said())
        finishes = finishes or bool(reason)
        if "token_ids" in choice:
            told = choice.pop("token_ids")  # for us, and only of an answer's one choice
    return Event(
        payload,
        usage,
        parse_report(payload.pop("replica")) if "replica" in payload else None,
        finishes,
        _token_ids(told) if len(choices) == 1 else None,
    )


def _next_of_text(payload: dict[str, Any]) -> Event | None:
    """What nearly every piece of a stream is: nothing in it is to be changed or looked for."""
    choices = payload.get("choices")
    if type(choices) is not list or len(choices) != 1 or type(choices[0]) is not dict:
        return None
    if payload.get("usage") is not None or "x_groq" in payload or "replica" in payload:
        return None
    choice = choices[0]
    delta = choice.get("delta")
    if type(delta) is not dict or len(delta) != 1 or "message" in choice:
        return None
    text = delta.get("content")
    if type(text) is not str or choice.get("finish_reason") is not None:
        return None
    if choice.get("index") not in (None, 0) or choice.get("logprobs"):
        return None
    told = _token_ids(choice.pop("token_ids")) if "token_ids" in choice else None
    return Event(payload, None, None, False, told, None, text)


def finish_reasons(payload: Json) -> tuple[str, ...]:
    """Why its choices ended, as far as it says so; what is not OpenAI's word for it is `other`."""
    told = (choice.get("finish_reason") for choice in payload.get("choices", ()))
    return tuple(reason if reason in FINISH_REASONS else "other" for reason in told if reason)


def parse_vectors(raw: bytes, request: InferenceRequest) -> Event:
    """An answer to a request for embeddings. Raises UpstreamBroken or ErrorInAnswer."""
    payload = _payload(raw)
    embeddings.to_asked(payload, request.forwarded)
    told = payload.get("usage")
    usage = parse_usage({"completion_tokens": 0, **told}) if isinstance(told, dict) else None
    return Event(payload, usage, report=None, finishes=True)


def _payload(raw: bytes) -> dict[str, Any]:
    try:
        payload = loads(raw)
    except (ValueError, RecursionError):
        raise UpstreamBroken("the endpoint sent something that is not JSON") from None
    if not isinstance(payload, dict):
        raise UpstreamBroken("the endpoint sent something that is not an answer")
    if payload.get("error") is not None:
        raise ErrorInAnswer(error_said(payload))
    return payload


class Ending:
    """Whether an answer is whole: each of the choices that were asked for has its finish reason."""

    def __init__(self, request: InferenceRequest) -> None:
        prompt = request.forwarded.get("prompt")
        many = isinstance(prompt, list) and all(isinstance(one, str | list) for one in prompt)
        prompts = len(prompt) if many and isinstance(prompt, list) else 1
        self._asked = (request.forwarded.get("n") or 1) * prompts  # their indices are below it
        self._finished: set[int] = set()
        self._open: set[int] = set()  # begun, and not finished
        self._some = False  # some choice has finished
        self.reached = False

    def note(self, event: Event) -> None:
        if event.text is not None:
            if 0 not in self._finished:
                self._open.add(0)
            return
        for choice in event.payload["choices"]:
            index = choice.get("index") or 0
            ends = event.finishes and choice.get("finish_reason")
            self._some = self._some or bool(ends)
            if type(index) is not int or not 0 <= index < self._asked:
                continue
            if ends:
                self._open.discard(index)
                self._finished.add(index)
                self.reached = len(self._finished) == self._asked
            elif index not in self._finished:
                self._open.add(index)

    @property
    def said(self) -> bool:
        """An endpoint that says it is done is believed: some give one choice whatever `n` asks."""
        return self._some and not self._open


def check_whole(operation: Operation, event: Event) -> None:
    """A finish reason may be missing; some servers tell none. Raises UpstreamBroken."""
    key, kind = ("message", dict) if operation is Operation.CHAT else ("text", str)
    choices = event.payload["choices"]
    if not choices or not all(isinstance(choice.get(key), kind) for choice in choices):
        raise UpstreamBroken("the endpoint sent an answer with nothing in it")


def _token_ids(told: Any) -> tuple[int, ...] | None:
    if isinstance(told, list) and all(type(i) is int for i in told):
        return tuple(told)
    return None


def parse_usage(usage: Any, service_tier: Any = None) -> Usage | None:
    """Absent or odd means not told: a made-up zero would be worse than nothing."""
    if not isinstance(usage, dict):
        return None
    prompt, completion = _count(usage.get("prompt_tokens")), _count(usage.get("completion_tokens"))
    if prompt is None or completion is None:
        return None
    details = usage.get("prompt_tokens_details")
    cached = details.get("cached_tokens") if isinstance(details, dict) else None
    return Usage(
        prompt,
        completion,
        _count(cached),
        cost_usd=_dollars(next((usage[name] for name in COSTS if name in usage), None)),
        service_tier=service_tier if isinstance(service_tier, str) else None,
    )


COSTS = ("cost", "estimated_cost")
"""Under which `usage` tells dollars: OpenRouter's name, DeepInfra's."""


def _dollars(value: Any) -> float | None:
    known = type(value) in (int, float) and 0 <= value <= MOST_DOLLARS
    return float(value) if known else None


MOST_DOLLARS = 1e6
"""No answer costs more; neither NaN nor infinite."""


def _count(value: Any) -> int | None:
    return value if type(value) is int and 0 <= value < 2**53 else None


def parse_report(report: Any) -> ReplicaReport | None:
    match report:
        case {
            "epoch": str(epoch),
            "running": int(running),
            "queued_tokens": int(queued),
            "horizon_age_s": None | int() | float() as age,
        } if age is None or 0 <= age <= sys.float_info.max:  # neither NaN nor infinite
            return ReplicaReport(epoch, running, queued, None if age is None else float(age))
    return None


def parse_stats(raw: bytes) -> EndpointStats | None:
    """Of a replica: docs/replica-protocol.md. None: it is no such thing."""
    try:
        stats = loads(raw)
    except (ValueError, RecursionError):
        return None
    report = parse_report(stats)
    if report is None:
        return None
    return EndpointStats(
        running=report.running,
        waiting=_count(stats.get("waiting")),
        kv_usage=_kv_usage(stats.get("blocks")),
        context_length=_count(stats.get("context_length")) or None,
        report=report,
    )


def parse_count(raw: bytes) -> int | None:
    """Of an answer to `/tokenize`."""
    try:
        told = loads(raw)
    except (ValueError, RecursionError):
        return None
    return _count(told.get("count")) if isinstance(told, dict) else None


def _kv_usage(blocks: Any) -> float | None:
    match blocks:
        case {"total": int(total), "owned": int(owned)} if 0 <= owned <= total > 0:
            return owned / total
    return None


@dataclass(slots=True)
class Presenter:
    """Shows an endpoint's events to the client: its own model name, one id and one time."""

    model: str
    request_id: str
    include_usage: bool = True  # we ask for it, always; the client may not have
    _id: Any = None
    _created: Any = None

    def piece(self, event: Event) -> bytes:
        if event.usage is not None and event.is_usage_only and not self.include_usage:
            return b""
        return encode_event(self.present(event))

    def end(self) -> bytes:
        return encode_event(DONE)

    def broken(self, error: GatewayError) -> bytes:
        """What both SDKs raise from in the middle of a stream. No [DONE] follows it."""
        return encode_event(encode_json(error.body()))

    def whole(self, event: Event) -> bytes:
        return self.present(event)

    def present(self, event: Event) -> bytes:
        payload = event.payload
        if "choices" not in payload:  # vectors, which have no name and no time
            payload["model"] = self.model
            return encode_json(payload)
        if self._id is None:
            self._id = payload.get("id") or f"gen-{self.request_id}"
            self._created = payload.get("created")
        payload["id"] = self._id
        payload["model"] = self.model
        if self._created is not None:
            payload["created"] = self._created
        return encode_json(payload)


encode_json = dumps


def encode_request(
    model: str, request: InferenceRequest, extra: Json, adapted: Json | None = None
) -> bytes:
    """The body that goes upstream, of the request's fields as an endpoint may want them `adapted`.
    Usage is always asked for: the gateway lives on it."""
    fields = request.forwarded if adapted is None else adapted
    body = {**fields, "model": model, **extra}
    if request.stream:
        body["stream_options"] = {**(body.get("stream_options") or {}), "include_usage": True}
    return encode_json(body)


def countable(request: InferenceRequest) -> Json | None:
    """What of a request its tokens depend on, where it is text and nothing else."""
    given = request.forwarded
    if request.operation is Operation.EMBEDDINGS:
        return None  # each input has a context of its own
    if request.operation is not Operation.CHAT:
        return {"prompt": given["prompt"]} if isinstance(given.get("prompt"), str) else None
    if not all(isinstance(m.get("content"), str | None) for m in given["messages"]):
        return None
    return {name: given[name] for name in RENDERED if given.get(name) is not None}


RENDERED = (
    "messages",
    "add_generation_prompt",
    "continue_final_message",
    "tools",
    "tool_choice",
    "reasoning_effort",
    "chat_template_kwargs",
)
"""What a chat template sees, as `/tokenize` takes it."""


def _salted(key: bytes, given: Any) -> str:
    return _keyed(key, b"salt", canonical(given)).hex()


def _keyed(key: bytes, purpose: bytes, value: bytes) -> bytes:
    return blake2b(value, key=key, person=purpose, digest_size=16).digest()
