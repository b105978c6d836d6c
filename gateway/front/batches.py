"""`/v1/batches`: requests of a file's, run when there is room for them."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from starlette.requests import Request
from starlette.responses import Response

from gateway.domain import Json
from gateway.errors import InvalidRequest, NotFound
from gateway.files.nouns import Batch, Status, new_id
from gateway.files.runner import moved
from gateway.files.store import Store
from gateway.front.body import BodyLimits, HungUp, read_body
from gateway.front.files import Kept, checked_expiry, listed, no_file, page_of
from gateway.front.shown import Shown
from gateway.wire.fields import check_metadata
from gateway.wire.strict_json import parse_object

ENDPOINTS = ("/v1/chat/completions", "/v1/completions", "/v1/embeddings", "/v1/responses")

LIMITS = BodyLimits(64 * 1024, 10.0)
FIELDS = (
    *("input_file_id", "endpoint", "completion_window"),
    *("metadata", "output_expires_after"),
)
WINDOW = re.compile(r"([1-9]\d{0,2})([hd])")
LONGEST_S = 14 * 86_400
HOUR_S, DAY_S = 3600, 86_400


@dataclass(frozen=True)
class Batches:
    kept: Kept
    changed: Callable[[], None]  # tells the runner

    async def create(self, request: Request) -> Response:
        principal, store = self.kept.open(request)
        try:
            body = parse_object(await read_body(request.scope, request.receive, LIMITS))
        except HungUp:
            return Response(status_code=499)  # nobody reads it
        window, now = _checked(body), int(self.kept.wall())
        id = body["input_file_id"]
        # Half of a surrogate pair reaches no store.
        known = id.isascii()
        file = await asyncio.to_thread(store.file, principal.tenant, id, now) if known else None
        if file is None:
            raise no_file(id)
        if file.purpose != "batch":
            raise InvalidRequest(
                f"{id!r} was uploaded with the purpose {file.purpose!r}, not 'batch'",
                param="input_file_id",
            )
        batch = Batch(
            new_id("batch_"),
            principal.tenant,
            principal.key_name,
            body["endpoint"],
            id,
            body["completion_window"],
            now,
            now + window,
            body.get("metadata"),
            _output_seconds(body),
        )
        await asyncio.to_thread(store.create, batch)
        self.changed()
        return await _shown(store, batch)

    async def every(self, request: Request) -> Response:
        principal, store = self.kept.open(request)
        page = page_of(request, 20, 100)
        batches, more = await asyncio.to_thread(store.batches, principal.tenant, page)
        counts = [await asyncio.to_thread(store.counts, batch) for batch in batches]
        data = [batch.shown(count) for batch, count in zip(batches, counts, strict=True)]
        return Shown(listed(data, more))

    async def one(self, request: Request) -> Response:
        store, batch = await self._found(request)
        return await _shown(store, batch)

    async def cancel(self, request: Request) -> Response:
        store, batch = await self._found(request)

        def change(now: Batch) -> Batch:
            if now.status in (Status.CANCELLING, Status.CANCELLED):
                return now
            if now.status not in (Status.VALIDATING, Status.IN_PROGRESS):
                raise InvalidRequest(f"{now.id!r} is {now.status}: there is nothing to cancel")
            return moved(now, Status.CANCELLING, self.kept.wall())

        batch = await asyncio.to_thread(store.change, batch.id, change)
        self.changed()
        return await _shown(store, batch)

    async def _found(self, request: Request) -> tuple[Store, Batch]:
        """Raises NotFound."""
        principal, store = self.kept.open(request)
        id = request.path_params["id"]
        batch = await asyncio.to_thread(store.batch, principal.tenant, id)
        if batch is None:
            raise NotFound(f"there is no batch {id[:100]!r}", param="batch_id")
        return store, batch


async def _shown(store: Store, batch: Batch) -> Response:
    return Shown(batch.shown(await asyncio.to_thread(store.counts, batch)))


def _checked(body: Json) -> int:
    """The seconds of its window. Raises InvalidRequest."""
    for name in FIELDS[:3]:
        if not isinstance(body.get(name), str):
            raise InvalidRequest(f"you must provide {name!r}, a string", param=name)
    for name in body:
        if name not in FIELDS:
            raise InvalidRequest(f"{name!r} is not known here", param=name)
    if body["endpoint"] not in ENDPOINTS:
        said = f"'endpoint' must be one of: {', '.join(ENDPOINTS)}"
        raise InvalidRequest(said, param="endpoint")
    check_metadata(body.get("metadata"))
    _output_seconds(body)
    match = WINDOW.fullmatch(body["completion_window"])
    seconds = int(match[1]) * (HOUR_S if match[2] == "h" else DAY_S) if match else 0
    if not 0 < seconds <= LONGEST_S:
        raise InvalidRequest(
            "'completion_window' must be like 24h or 7d, and 14 days at most",
            param="completion_window",
        )
    return seconds


def _output_seconds(body: Json) -> int | None:
    """Raises InvalidRequest."""
    asked: Any = body.get("output_expires_after")
    if asked is None:
        return None
    if not isinstance(asked, dict):
        said = "'output_expires_after' must be an object"
        raise InvalidRequest(said, param="output_expires_after")
    return checked_expiry(asked.get("anchor"), asked.get("seconds"), "output_expires_after")
