"""`/v1/files`: what a tenant keeps here, uploaded as a form."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass
from typing import BinaryIO

from starlette.datastructures import FormData, UploadFile
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response
from starlette.types import Message, Receive, Scope, Send

from gateway.domain import Principal
from gateway.errors import BodyTooLarge, InvalidRequest, NotFound, NotSupported, RequestTimeout
from gateway.files.nouns import PURPOSES, File, new_id
from gateway.files.store import Full, InUse, Page, Store
from gateway.front.door import Door
from gateway.front.shown import Shown

FORM_BYTES = 64 * 1024
"""Of the upload besides the file."""

LONGEST_NAME = 255
EXPIRES_S = (3600, 30 * 86_400)
"""The least and the most that `expires_after` may say, as OpenAI has it."""

CHUNK = 1 << 18


@dataclass(frozen=True)
class Kept:
    """What files and batches have in common: whose they are and where. A reload of the config puts
    nothing here: it takes a restart."""

    door: Door
    store: Store | None  # None: the config names no folder
    max_file: int  # bytes
    max_stored: int  # of a tenant's files, in bytes
    wall: Callable[[], float]

    def open(self, request: Request) -> tuple[Principal, Store]:
        """Raises InvalidKey, NotSupported."""
        principal = self.door.principal(request.scope)
        if self.store is None:
            raise NotSupported(
                "this gateway keeps no files and runs no batches: its config has no files.folder"
            )
        return principal, self.store


@dataclass(frozen=True)
class Files:
    kept: Kept

    async def create(self, request: Request) -> Response:
        principal, store = self.kept.open(request)
        bounded = Request(request.scope, self._bounded(request))
        bounds = {"max_files": 1, "max_fields": 20, "max_part_size": FORM_BYTES}
        try:
            async with bounded.form(**bounds) as form:
                upload, file = self._read(form, principal.tenant)
                await asyncio.to_thread(self._add, store, file, upload.file)
        except ClientDisconnect:
            return Response(status_code=499)  # nobody reads it
        except HTTPException as error:
            raise InvalidRequest(f"the form cannot be read: {error.detail}") from None
        return Shown(file.shown())

    def _read(self, form: FormData, tenant: str) -> tuple[UploadFile, File]:
        """Raises InvalidRequest, BodyTooLarge."""
        upload, purpose = form.get("file"), form.get("purpose")
        if not isinstance(upload, UploadFile):
            said = "you must provide 'file', in a form of the type multipart/form-data"
            raise InvalidRequest(said, param="file")
        if not isinstance(purpose, str) or purpose not in PURPOSES:
            said = f"'purpose' must be one of: {', '.join(PURPOSES)}"
            raise InvalidRequest(said, param="purpose")
        for name in form:
            if name not in ("file", "purpose", *EXPIRES_AFTER):
                raise InvalidRequest(f"{name!r} is not known here", param=name)
        size, now = upload.size or 0, int(self.kept.wall())
        if size > self.kept.max_file:
            raise self._too_large()
        seconds = _expires_after(form.get(ANCHOR), form.get(SECONDS))
        name = (upload.filename or "upload")[-LONGEST_NAME:]
        expires = None if seconds is None else now + seconds
        return upload, File(new_id("file-"), tenant, name, purpose, size, now, expires)

    def _add(self, store: Store, file: File, content: BinaryIO) -> None:
        """Raises InvalidRequest."""
        content.seek(0)
        try:
            store.add(file, content, self.kept.max_stored)
        except Full as full:
            raise InvalidRequest(
                f"your files have {full.stored} bytes, and may have {self.kept.max_stored}: "
                "delete some, or let them expire",
                param="file",
            ) from None

    def _bounded(self, request: Request) -> Receive:
        """The body as it comes, within a size, and never silent for too long."""
        limit, seconds = self.kept.max_file + FORM_BYTES, self.kept.door.limits.seconds
        length = request.headers.get("content-length", "0")
        if length.isdecimal() and int(length) > limit:
            raise self._too_large()
        size = 0

        async def receive() -> Message:
            nonlocal size
            try:
                async with asyncio.timeout(seconds):
                    message = await request.receive()
            except TimeoutError:
                raise RequestTimeout(f"nothing came for {seconds:g} seconds") from None
            size += len(message.get("body", b""))
            if size > limit:
                raise self._too_large()
            return message

        return receive

    def _too_large(self) -> BodyTooLarge:
        return BodyTooLarge(f"a file has at most {self.kept.max_file} bytes", param="file")

    async def every(self, request: Request) -> Response:
        principal, store = self.kept.open(request)
        page, now = page_of(request, 10_000, 10_000), self.kept.wall()
        files, more = await asyncio.to_thread(store.files, principal.tenant, page, now)
        return Shown(listed([file.shown() for file in files], more))

    async def one(self, request: Request) -> Response:
        return Shown((await self._found(request))[0].shown())

    async def content(self, request: Request) -> Response:
        file, store = await self._found(request)
        try:
            content = await asyncio.to_thread(store.open, file.id)
        except FileNotFoundError:
            raise no_file(file.id) from None
        return Content(content, file.size)

    async def delete(self, request: Request) -> Response:
        file, store = await self._found(request)
        try:
            deleted = await asyncio.to_thread(store.delete, file.tenant, file.id)
        except InUse as used:
            raise InvalidRequest(
                f"{file.id!r} is the input of {used.batch!r}, which has not ended", param="file_id"
            ) from None
        return Shown({"id": file.id, "object": "file", "deleted": deleted})

    async def _found(self, request: Request) -> tuple[File, Store]:
        """Raises NotFound."""
        principal, store = self.kept.open(request)
        id, now = request.path_params["id"], self.kept.wall()
        file = await asyncio.to_thread(store.file, principal.tenant, id, now)
        if file is None:
            raise no_file(id)
        return file, store


def no_file(id: str) -> NotFound:
    return NotFound(f"there is no file {id[:100]!r}", param="file_id")


def page_of(request: Request, usual: int, most: int) -> Page:
    """Raises InvalidRequest."""
    asked = request.query_params
    limit, order = asked.get("limit", str(usual)), asked.get("order", "desc")
    number = _integer(limit)
    if number is None or number > most:
        raise InvalidRequest(f"'limit' must be an integer from 0 to {most}", param="limit")
    if order not in ("asc", "desc"):
        raise InvalidRequest("'order' must be asc or desc", param="order")
    return Page(asked.get("after"), number, order == "asc", asked.get("purpose"))


def listed(data: list[dict[str, object]], more: bool) -> dict[str, object]:
    first, last = (data[0]["id"], data[-1]["id"]) if data else (None, None)
    return {"object": "list", "data": data, "first_id": first, "last_id": last, "has_more": more}


ANCHOR, SECONDS = EXPIRES_AFTER = ("expires_after[anchor]", "expires_after[seconds]")


def _expires_after(anchor: object, seconds: object) -> int | None:
    """Raises InvalidRequest."""
    if anchor is None and seconds is None:
        return None
    return checked_expiry(anchor, _integer(seconds))


def _integer(said: object) -> int | None:
    """CPython reads no number of thousands of digits, and nobody means one."""
    return int(said) if isinstance(said, str) and len(said) < 16 and said.isdecimal() else None


def checked_expiry(anchor: object, seconds: object, param: str = "expires_after") -> int:
    """Raises InvalidRequest."""
    least, most = EXPIRES_S
    if anchor != "created_at":
        raise InvalidRequest(f"'{param}.anchor' must be created_at", param=param)
    if type(seconds) is not int or not least <= seconds <= most:
        raise InvalidRequest(f"'{param}.seconds' must be from {least} to {most}", param=param)
    return seconds


class Content(Response):
    """A file as it lies there. Its last bytes end the response: a client that counts them may ask
    again at once, and must find the connection free."""

    def __init__(self, content: BinaryIO, size: int) -> None:
        super().__init__(None, 200, {"content-length": str(size)}, "application/octet-stream")
        self._content, self._size = content, size

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        head = {"type": "http.response.start", "status": 200, "headers": self.raw_headers}
        await send(head)
        left = self._size
        with self._content:
            while True:
                chunk = await asyncio.to_thread(self._content.read, min(CHUNK, left))
                left -= len(chunk)
                more = left > 0 and bool(chunk)
                await send({"type": "http.response.body", "body": chunk, "more_body": more})
                if not more:
                    return
