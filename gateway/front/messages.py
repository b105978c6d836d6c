"""`POST /v1/messages`: Anthropic's shape of a chat."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from gateway.domain import InferenceRequest, Operation
from gateway.errors import GatewayError
from gateway.front.api import Asker
from gateway.wire.messages.answer import MessageAnswer, error_body
from gateway.wire.messages.asked import chat_of
from gateway.wire.messages.fields import check
from gateway.wire.openai import TenantKeys, request_of
from gateway.wire.strict_json import parse_object

PATH = "/v1/messages"


def is_messages(path: str) -> bool:
    """Whether it belongs to this API, whose errors and headers are its own."""
    return path == PATH or path.startswith(f"{PATH}/")


@dataclass(frozen=True, slots=True)
class Messages:
    number: Callable[[], str]  # a new one each time

    async def read(self, raw: bytes, asker: Asker) -> tuple[InferenceRequest, MessageAnswer]:
        body = parse_object(raw)
        check(body, ("model", "messages", "max_tokens"))
        request = request_of(Operation.CHAT, chat_of(body), asker.keys, asker.session)
        stops = tuple(body.get("stop_sequences") or ())
        return request, MessageAnswer(request.model, self.number(), stops, asker.request_id)

    async def count(self, raw: bytes, keys: TenantKeys) -> InferenceRequest:
        """Of `/v1/messages/count_tokens`."""
        body = parse_object(raw)
        check(body, ("model", "messages"))
        return request_of(Operation.CHAT, chat_of(body), keys)

    async def keep(self, answer: MessageAnswer) -> None:
        pass

    def refusal(self, error: GatewayError, request_id: str) -> bytes:
        return error_body(error, request_id)
