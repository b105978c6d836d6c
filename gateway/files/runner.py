"""
Runs batches, each line as a request of its tenant's, in the batch class and at its batch's pace:
what one is refused, by a limit of its tenant's or for want of room, slows no other.

A line's answer is kept the moment that it is there, under the line's number, and of two the first
stands: whatever ends the process, the next one asks for the lines that have none. So every line is
in the output once; one that was under way is asked again.
"""

from __future__ import annotations

import asyncio
import dataclasses
import io
import logging
import random
import tempfile
from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any, BinaryIO, Protocol

from gateway.files.lines import Line, check, lines
from gateway.files.nouns import OUTPUT, Batch, File, Problem, Status
from gateway.files.pace import Pace
from gateway.files.store import Store
from gateway.wire.fast_json import dumps, loads

logger = logging.getLogger(__name__)

POLL_S = 1.0
"""What other processes did to the store is seen so soon."""

SWEEP_S = 60.0

AGAIN_S = 30.0
"""Before a batch whose store failed is taken up again."""

NO_ROOM = (429, 503)
TROUBLE = (408, 500, 502, 504)
MOST_TRIES = 5
"""Of a line whose endpoints are in trouble; for room it waits as long as its batch may."""

ENDS = {
    Status.FINALIZING: Status.COMPLETED,
    Status.CANCELLING: Status.CANCELLED,
    Status.EXPIRED: Status.EXPIRED,
}


@dataclass(frozen=True, slots=True)
class Answer:
    status: int
    headers: Mapping[str, str]  # names in lower case
    body: bytes


class Asks(Protocol):
    async def __call__(self, batch: Batch, body: bytes) -> Answer:
        """The answer to one request of the batch's, as its tenant would get it."""
        ...


@dataclass
class Runner:
    store: Store
    asks: Asks
    pace: Callable[[], Pace]  # of one batch
    most: int  # requests at a time, of all batches
    wall: Callable[[], float]  # seconds since 1970
    random: random.Random
    poll_s: float = POLL_S
    _running: dict[str, asyncio.Task[None]] = field(default_factory=dict)
    _came: asyncio.Event = field(default_factory=asyncio.Event)

    def __post_init__(self) -> None:
        self._room = asyncio.Semaphore(self.most)  # first come, first served: batches take turns

    def poke(self) -> None:
        """There is a new batch, or one that is to be cancelled."""
        self._came.set()

    async def run(self) -> None:
        """Until it is cancelled; batches that are under way stay as far as they are."""
        try:
            await self._lead()
            swept = 0.0
            while True:
                if self.wall() - swept >= SWEEP_S:
                    swept = self.wall()
                    await asyncio.to_thread(self.store.sweep, swept)
                for batch in await asyncio.to_thread(self.store.unfinished):
                    if batch.id not in self._running:
                        self._start(batch)
                self._came.clear()
                with suppress(TimeoutError):
                    await asyncio.wait_for(self._came.wait(), self.poll_s)
        finally:
            for task in self._running.values():
                task.cancel()
            await asyncio.gather(*self._running.values(), return_exceptions=True)

    async def _lead(self) -> None:
        """Until this process is the one that runs batches."""
        leads = False
        while not leads:
            leads = await asyncio.to_thread(self.store.lead)
            await asyncio.sleep(0 if leads else self.poll_s)

    def _start(self, batch: Batch) -> None:
        task = asyncio.create_task(self._kept(batch), name=f"batch {batch.id}")
        self._running[batch.id] = task
        task.add_done_callback(lambda _: self._running.pop(batch.id, None))

    async def _kept(self, batch: Batch) -> None:
        try:
            await self._run(batch)
        except Exception:  # a rim: one batch's trouble must not end the others
            logger.exception("batch %s is interrupted, and goes on in a while", batch.id)
            await asyncio.sleep(AGAIN_S)

    async def _run(self, batch: Batch) -> None:
        if batch.status is Status.VALIDATING:
            batch = await self._validated(batch)
        if batch.status is Status.IN_PROGRESS:
            batch = await self._asked(batch)
        if batch.status in ENDS:
            await asyncio.to_thread(self._finish, batch)

    async def _validated(self, batch: Batch) -> Batch:
        total, problems = await asyncio.to_thread(self._check, batch)
        if problems:
            return await self._to(batch, Status.FAILED, total=total, problems=problems)
        return await self._to(batch, Status.IN_PROGRESS, total=total)

    def _check(self, batch: Batch) -> tuple[int, list[Problem]]:
        try:
            with self.store.open(batch.input_file) as content:
                return check(content, batch.endpoint)
        except FileNotFoundError:
            return 0, [Problem("file_not_found", "the input file is not there any more")]

    async def _to(self, batch: Batch, status: Status, **fields: Any) -> Batch:
        """Unless somebody has cancelled it meanwhile."""

        def change(now: Batch) -> Batch:
            if now.status is not batch.status:
                return now
            return moved(now, status, self.wall(), **fields)

        return await asyncio.to_thread(self.store.change, batch.id, change)

    # Asking

    async def _asked(self, batch: Batch) -> Batch:
        asking = asyncio.create_task(self._ask_all(batch))
        try:
            while True:
                left_s = min(self.poll_s, max(0.0, batch.expires - self.wall()))
                done, _ = await asyncio.wait({asking}, timeout=left_s)
                now = await asyncio.to_thread(self.store.batch, batch.tenant, batch.id)
                if now is None or now.status is not Status.IN_PROGRESS:
                    return now or batch
                if done:
                    asking.result()
                    return await self._to(batch, Status.FINALIZING)
                if self.wall() >= batch.expires:
                    return dataclasses.replace(now, status=Status.EXPIRED)
        finally:
            asking.cancel()
            await asyncio.gather(asking, return_exceptions=True)

    async def _ask_all(self, batch: Batch) -> None:
        answered = await asyncio.to_thread(self.store.answered, batch.id)
        waiting, pace = asyncio.Semaphore(self.most), self.pace()
        with self.store.open(batch.input_file) as content:
            every = lines(content, batch.endpoint)
            left = (line for line in every if line.number not in answered)
            async with asyncio.TaskGroup() as group:
                while (line := await asyncio.to_thread(next, left, None)) is not None:
                    await waiting.acquire()
                    asking = group.create_task(self._ask(batch, line, pace))
                    asking.add_done_callback(lambda _: waiting.release())

    async def _ask(self, batch: Batch, line: Line, pace: Pace) -> None:
        """One line, until it has an answer."""
        tries = 0
        while True:
            await pace.begin()
            try:
                async with self._room:
                    answer = await self.asks(batch, line.body)
            except BaseException:
                pace.ended(answered=False)
                raise
            hopeless = answer.headers.get("x-should-retry") == "false"
            if answer.status in NO_ROOM and not hopeless:
                pace.refused(_seconds(answer.headers.get("retry-after")))
            elif answer.status in TROUBLE and not hopeless and tries < MOST_TRIES:
                pace.ended(answered=False)
                await asyncio.sleep(2**tries * (0.5 + self.random.random() / 2))
                tries += 1
            else:
                pace.ended()
                break
        told = _told(batch, line, answer)
        failed = not 200 <= answer.status < 300
        await asyncio.to_thread(self.store.answer, batch.id, line.number, failed, told)

    # The end

    def _finish(self, batch: Batch) -> None:
        """Its files, and its last status. Ends of the same batch make the same files."""
        ended = ENDS[batch.status]
        if ended is Status.EXPIRED:
            self._expire_rest(batch)
        completed, failed = self.store.tally(batch.id)
        with tempfile.TemporaryFile() as good, tempfile.TemporaryFile() as bad:
            files = []
            for content, kind in ((good, "output"), (bad, "error")):
                size = _write(content, self.store.answers(batch.id, kind == "error"))
                if size:
                    files.append((self._file(batch, kind, size), content))
            names = {file.filename.rpartition("_")[2]: file.id for file, _ in files}
            done = dataclasses.replace(
                moved(batch, ended, self.wall()),
                completed=completed,
                failed=failed,
                output_file=names.get("output.jsonl"),
                error_file=names.get("error.jsonl"),
            )
            self.store.finish(done, files)

    def _expire_rest(self, batch: Batch) -> None:
        answered = self.store.answered(batch.id)
        with self.store.open(batch.input_file) as content:
            for line in lines(content, batch.endpoint):
                if line.number not in answered:
                    told = _line(batch, line) | {"response": None, "error": EXPIRED}
                    self.store.answer(batch.id, line.number, True, dumps(told))

    def _file(self, batch: Batch, kind: str, size: int) -> File:
        now, seconds = int(self.wall()), batch.output_seconds
        return File(
            f"file-{batch.id.removeprefix('batch_')}-{kind}",
            batch.tenant,
            f"{batch.id}_{kind}.jsonl",
            OUTPUT,
            size,
            now,
            None if seconds is None else now + seconds,
        )


EXPIRED = {
    "code": "batch_expired",
    "message": "the batch's completion window was over before this request was answered",
}


def moved(batch: Batch, status: Status, now: float, **fields: Any) -> Batch:
    """The batch in another status, from `now` on."""
    times = {**(batch.times or {}), str(status): int(now)}
    return dataclasses.replace(batch, status=status, times=times, **fields)


def _line(batch: Batch, line: Line) -> dict[str, Any]:
    name = f"batch_req_{batch.id.removeprefix('batch_')}_{line.number}"
    return {"id": name, "custom_id": line.custom_id}


def _told(batch: Batch, line: Line, answer: Answer) -> bytes:
    response = {
        "status_code": answer.status,
        "request_id": answer.headers.get("x-request-id", ""),
        "body": loads(answer.body),
    }
    return dumps(_line(batch, line) | {"response": response, "error": None})


def _write(content: BinaryIO, answers: Iterable[bytes]) -> int:
    content.writelines(answer + b"\n" for answer in answers)
    size = content.tell()
    content.seek(0, io.SEEK_SET)
    return size


def _seconds(text: str | None) -> float | None:
    return float(text) if text is not None and text.isdecimal() else None
