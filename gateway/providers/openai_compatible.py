"""Any server that speaks OpenAI's chat and completions API: the base of every dialect."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from hashlib import blake2b
from typing import ClassVar
from urllib.parse import urljoin, urlsplit

from gateway.domain import EndpointStats, InferenceRequest, Json, Operation
from gateway.errors import (
    GatewayError,
    UpstreamBusy,
    UpstreamKeyRefused,
    UpstreamRefused,
    UpstreamUnpaid,
)
from gateway.providers.base import Continuation, Traits
from gateway.providers.client import Client, Response
from gateway.providers.keys import Keys
from gateway.providers.reading import TRANSLATED, Pace, Timeouts, read_body
from gateway.providers.refusals import Meanings, refusal
from gateway.providers.reply import Reply, Stream, Whole
from gateway.wire.adapt import continued_from_text, with_max_tokens_as, with_reasoning_as
from gateway.wire.error_body import Said, parse_error
from gateway.wire.limits import parse_limits
from gateway.wire.openai import (
    encode_json,
    encode_request,
)

REFUSED_KEY_RESTS_S = 60.0
BUSY_KEY_RESTS_S = 5.0
"""Where the endpoint does not say for how long."""

MOST_REDIRECTS = 50


@dataclass(frozen=True)
class OpenAICompatible:
    """A dialect is a subclass, mostly of constants; docs/providers.md has the reasons."""

    client: Client
    base_url: str  # what stands before /chat/completions
    models: Mapping[str, str]  # the client's name -> the endpoint's
    keys: Keys = field(default_factory=lambda: Keys((), time.monotonic))
    timeouts: Timeouts = field(default_factory=Timeouts)
    secret: str = field(default="", repr=False)
    extra_headers: Mapping[str, str] = field(default_factory=dict, repr=False)
    hint_key: bytes = field(default=b"", repr=False)  # this endpoint's own
    responses: bool = False  # it speaks OpenAI's Responses API itself

    # What a dialect may say differently.

    URL: ClassVar[str | None] = None  # None: the config has to say where it is
    patience_s: ClassVar[float] = 600.0  # for the first event, unless the config says
    traits: ClassVar[Traits] = Traits()
    continuation: ClassVar[Continuation | None] = None
    key_header: ClassVar[tuple[str, str]] = ("authorization", "Bearer ")  # and what precedes it
    secret_header: ClassVar[str | None] = None  # None: it has no secret beside its key
    defaults: ClassVar[Json] = {}  # body fields, unless the client has them
    max_tokens_as: ClassVar[str | None] = None  # None: as the client calls it
    reasoning_as: ClassVar[str] = "reasoning_content"  # in messages of the assistant's
    session_fields: ClassVar[tuple[str, ...]] = ()  # body fields that keep a session in one place
    session_headers: ClassVar[tuple[str, ...]] = ()
    tenant_fields: ClassVar[tuple[str, ...]] = ()  # and those that keep tenants' caches apart
    meanings: ClassVar[Meanings] = {}
    too_long: ClassVar[tuple[int, ...]] = ()  # more statuses that may tell of a context
    sees_other: ClassVar[bool] = False  # a 303 says where the answer will be

    def fields(self, request: InferenceRequest) -> Json:
        """Body fields of the gateway's own."""
        session = self._hint(request.session_id)
        tenant = self._hint(request.cache_salt)
        return {
            **(dict.fromkeys(self.session_fields, session) if session else {}),
            **dict.fromkeys(self.tenant_fields, tenant),
        }

    def cached_in_headers(self, headers: Mapping[str, str]) -> int | None:
        return None

    async def stats(self) -> EndpointStats | None:
        return None

    async def count(self, request: InferenceRequest) -> int | None:
        return None

    async def wake(self) -> None:
        """Have a place that sleeps start, where it can be asked to. Raises UpstreamError."""

    async def probe(self) -> None:
        """Its list of models, which costs nothing; that it has none (404) is an answer too."""
        status, _ = await self.page(f"{self.base_url}/models")
        if status not in (200, 404, 405):
            raise self.refusal(status, {}, Said())

    # What all dialects share.

    def rests_s(self) -> float:
        return self.keys.rests_s()

    def open(self, request: InferenceRequest, request_id: str) -> Reply:
        if request.native is not None and not self.responses:
            request = replace(request, native=None)
        reply = Stream if request.stream else Whole
        return reply(self, request, request_id)

    async def answered(self, request: InferenceRequest, request_id: str, pace: Pace) -> Response:
        """An answer with status 200. A key that was refused gives way to the next."""
        body = self._body(request)
        refused: GatewayError | None = None
        waits: list[float] = []
        for key in self.keys.in_turn():
            asked = self.keys.clock()
            with pace:
                response = await self._send(request, request_id, key, body)
            if response.status_code == 200:
                self._heed_limits(key, asked, response.headers)
                return response
            try:
                with pace:
                    said = parse_error(await read_body(response))
                refused = self.refusal(response.status_code, response.headers, said)
            finally:
                await response.aclose()
            if not isinstance(refused, UpstreamBusy | UpstreamKeyRefused | UpstreamUnpaid):
                break
            self.keys.rest(key, _rest_s(refused))
            if refused.retry_after_s is not None:
                waits.append(refused.retry_after_s)
                refused.retry_after_s = min(waits)  # one free key is enough
        assert refused is not None, "there always is a key to try, if only no key"
        raise refused

    def refusal(self, status: int, headers: Mapping[str, str], said: Said) -> GatewayError:
        return refusal(status, headers, said, self.meanings, self.too_long)

    async def _send(
        self, request: InferenceRequest, request_id: str, key: str | None, body: bytes
    ) -> Response:
        headers = {
            "accept-encoding": "identity",
            "content-type": "application/json",
            "accept": "text/event-stream" if request.stream else "application/json",
            **self._headers(key),
            "x-request-id": request_id,
        }
        if request.trace_headers is not None:
            headers |= request.trace_headers
        if session := self._hint(request.session_id):
            headers |= dict.fromkeys(self.session_headers, session)
        path = request.operation if request.native is None else "responses"
        url = f"{self.base_url}/{path}"
        response = await self._exchange("POST", url, headers, body)
        del headers["content-type"]
        for _ in range(MOST_REDIRECTS):
            if response.status_code != 303 or not self.sees_other:
                break
            await response.aclose()
            url = self._seen_other(url, response.headers.get("location", ""))
            response = await self._exchange("GET", url, headers)
        return response

    def _seen_other(self, url: str, location: str) -> str:
        """A key goes to no other host, and over no plainer connection."""
        there = urljoin(url, location)
        if urlsplit(there)[:2] != urlsplit(self.base_url)[:2] or not location:
            raise UpstreamRefused("the endpoint sent us elsewhere for its answer")
        return there

    async def page(
        self, url: str, method: str = "GET", body: bytes | None = None
    ) -> tuple[int, bytes]:
        """Status and body of a page that is about the endpoint, and no request's answer."""
        key = next(self.keys.in_turn())
        headers = {"accept-encoding": "identity", **self._headers(key)}
        with TRANSLATED:
            async with asyncio.timeout(self.timeouts.connect):
                response = await self._exchange(method, url, headers, body)
                try:
                    return response.status_code, await read_body(response)
                finally:
                    await response.aclose()

    async def _exchange(
        self, method: str, url: str, headers: Mapping[str, str], body: bytes | None = None
    ) -> Response:
        return await self.client.send(method, url, headers, body or b"", self.timeouts.connect)

    def _headers(self, key: str | None) -> dict[str, str]:
        headers = {name.lower(): value for name, value in self.extra_headers.items()}
        name, before = self.key_header
        if key is not None:
            headers[name] = before + key
        if self.secret_header is not None and self.secret:
            headers[self.secret_header] = self.secret
        return headers

    def _hint(self, name: str | None) -> str | None:
        """The name as this endpoint alone knows it: two that compare notes learn nothing."""
        if name is None:
            return None
        return blake2b(name.encode(), key=self.hint_key, digest_size=16).hexdigest()

    def _heed_limits(self, key: str | None, asked: float, headers: Mapping[str, str]) -> None:
        """Of a good answer. Rest before the refusal that would come next."""
        limits = parse_limits(headers, time.time())
        if limits.used_up:
            self.keys.rest(key, BUSY_KEY_RESTS_S if limits.reset_s is None else limits.reset_s)
        else:
            self.keys.served(key, asked)

    def _body(self, request: InferenceRequest) -> bytes:
        if request.native is not None:
            model = self.models[request.model]
            return encode_json({**request.native, "model": model, **self.fields(request)})
        fields: Json = request.forwarded
        if request.delivered is not None and self.continuation is Continuation.TEXT:
            fields = continued_from_text(request, request.delivered)
        if self.max_tokens_as is not None and request.operation is Operation.CHAT:
            fields = with_max_tokens_as(self.max_tokens_as, fields)
        if self.reasoning_as != "reasoning_content":
            fields = with_reasoning_as(self.reasoning_as, fields)
        extra = self.fields(request)
        if self.defaults:
            fields = {**self.defaults, **fields}
        return encode_request(self.models[request.model], request, extra, fields)


def _rest_s(refused: GatewayError) -> float:
    if isinstance(refused, UpstreamBusy):
        return BUSY_KEY_RESTS_S if refused.retry_after_s is None else refused.retry_after_s
    return REFUSED_KEY_RESTS_S
