"""`POST /v1/responses`: a chat behind the door, and what is kept of it."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from typing import Any

from gateway.domain import InferenceRequest, Json, Operation
from gateway.errors import (
    GatewayError,
    InvalidRequest,
    PreviousResponseNotFound,
    Unavailable,
)
from gateway.front.api import Asker
from gateway.front.kept import Kept, ResponseStore
from gateway.wire.openai import TenantKeys, encode_json, request_of
from gateway.wire.responses.answer import ResponseAnswer
from gateway.wire.responses.asked import Asked, chat_of
from gateway.wire.responses.fields import check
from gateway.wire.responses.items import as_list
from gateway.wire.responses.native import native_body, told_in_chats
from gateway.wire.strict_json import parse_object

logger = logging.getLogger(__name__)

HEARS_S = 1.0
"""After so long another worker's cancelling is heard of."""

GONE_ON_FROM = ("completed", "incomplete")


@dataclass
class Responses:
    store: ResponseStore
    wall: Callable[[], float]
    number: Callable[[], str]  # a new one each time, hexadecimal
    speaks: Callable[[str], bool]  # whether an endpoint of that model knows responses itself
    running: dict[str, Callable[[], None]] = field(default_factory=dict)  # in the background

    async def read(self, raw: bytes, asker: Asker) -> tuple[InferenceRequest, ResponseAnswer]:
        asked = await self.asked(raw, asker.keys.tenant)
        request = self._request(asked, asker.keys, asker.session)
        answer = ResponseAnswer(asked, self.number(), self.wall)
        if asked.background:
            await self._send_behind(answer, asker)
        return request, answer

    async def asked(self, raw: bytes, tenant: str) -> Asked:
        body = parse_object(raw)
        check(body)
        earlier = await self._earlier(tenant, body)
        known: dict[str, Kept | None] = {}
        given = [
            await self._referred(tenant, known, item, f"input[{index}]")
            for index, item in enumerate(as_list(body.get("input")))
        ]
        return Asked(body, tenant, (*earlier, *given), len(earlier))

    async def keep(self, answer: ResponseAnswer) -> None:
        """Whatever becomes of the store, the client has its answer."""
        if not answer.asked.stored:
            return
        try:
            withdrawn = answer.asked.background and await self._withdrawn(answer)
            self.running.pop(answer.id, None)  # who deletes it from here on, deletes what we put
            if not withdrawn:
                await self._put(answer)
        except OSError as error:
            logger.warning("a response could not be stored: %s", error)
        finally:
            self.running.pop(answer.id, None)

    def refusal(self, error: GatewayError, request_id: str) -> bytes:
        return encode_json(error.body())

    async def count(self, raw: bytes, keys: TenantKeys) -> InferenceRequest:
        """Of `/v1/responses/input_tokens`."""
        asked = await self.asked(raw, keys.tenant)
        return self._request(asked, keys, None)

    async def put(self, tenant: str, kept: Kept) -> None:
        with _reached():
            await self.store.put(tenant, kept)

    async def remove(self, tenant: str, id: str) -> None:
        with _reached():
            await self.store.remove(tenant, id)

    async def find(self, tenant: str, id: str) -> Kept | None:
        """Raises Unavailable."""
        if not id.isascii():  # as all of ours are; half of a surrogate pair reaches no store
            return None
        with _reached():
            return await self.store.get(tenant, id)

    def _request(self, asked: Asked, keys: TenantKeys, session: str | None) -> InferenceRequest:
        """A chat; and as it is, for endpoints that speak responses, who may alone be able to."""
        if not self.speaks(asked.body["model"]):
            return request_of(Operation.CHAT, chat_of(asked), keys, session)
        told = told_in_chats(asked)
        request = request_of(Operation.CHAT, chat_of(told), keys, session)
        needs = request.needs if told is asked else request.needs | {"responses"}
        return replace(request, native=native_body(asked.body, asked.items), needs=needs)

    async def _put(self, answer: ResponseAnswer) -> None:
        items = list(answer.asked.items)
        await self.store.put(answer.asked.tenant, Kept(answer.id, answer.object(), items))

    async def _withdrawn(self, answer: ResponseAnswer) -> bool:
        """Another worker has deleted or cancelled it."""
        kept = await self.store.get(answer.asked.tenant, answer.id)
        return kept is None or kept.status == "cancelled"

    async def _earlier(self, tenant: str, body: Json) -> list[Any]:
        previous = body.get("previous_response_id")
        if previous is None:
            return []
        kept = await self.find(tenant, previous)
        if kept is None:
            raise PreviousResponseNotFound(
                f"there is no stored response {previous[:100]!r}", param="previous_response_id"
            )
        if kept.status not in GONE_ON_FROM:
            raise InvalidRequest(
                f"the previous response is {kept.status}: there is nothing to go on from",
                param="previous_response_id",
            )
        return [*kept.items, *kept.response["output"]]

    async def _referred(
        self, tenant: str, known: dict[str, Kept | None], item: Any, where: str
    ) -> Any:
        """An item of a stored response is named by its id, which holds the response's. `known`: the
        responses that have been read, for whoever names one's items again and again."""
        if not isinstance(item, dict) or item.get("type", "item_reference") != "item_reference":
            return item
        if "role" in item or not isinstance(id := item.get("id"), str):
            return item
        response = f"resp_{id.partition('_')[2][:-4]}"
        if response not in known:
            known[response] = await self.find(tenant, response)
        kept = known[response]
        output = [] if kept is None else kept.response["output"]
        found = next((one for one in output if one["id"] == id), None)
        if found is None:
            raise InvalidRequest(f"there is no stored item {id[:100]!r}", param=f"{where}.id")
        return found

    async def _send_behind(self, answer: ResponseAnswer, asker: Asker) -> None:
        """The client is told where to look; its answer comes whether it stays or not."""
        with _reached():
            await self._put(answer)
        cancel = await asker.detach(encode_json(answer.object() | {"status": "queued"}))
        self.running[answer.id] = cancel
        watching = asyncio.create_task(self._hear(answer), name=f"{answer.id} may be cancelled")
        watching.add_done_callback(lambda task: task.cancelled() or task.exception())

    async def _hear(self, answer: ResponseAnswer) -> None:
        while (cancel := self.running.get(answer.id)) is not None:
            with contextlib.suppress(OSError):
                if await self._withdrawn(answer):
                    self.running.pop(answer.id, None)
                    cancel()
                    return
            await asyncio.sleep(HEARS_S)


@contextlib.contextmanager
def _reached() -> Iterator[None]:
    """Raises Unavailable while the store cannot be."""
    try:
        yield
    except OSError as error:
        logger.warning("stored responses cannot be reached: %s", error)
        raise Unavailable("stored responses cannot be reached now") from None
