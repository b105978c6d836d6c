"""
Where files and batches are kept: what is asked of such a place, and one on this machine.

Here that is a folder: contents as files of their own, everything else in SQLite (WAL), so that
several processes of one machine share it. Calls wait for the disk: they belong in a thread.
"""

from __future__ import annotations

import dataclasses
import json
import math
import os
import sqlite3
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import BinaryIO, Protocol

from gateway.files.nouns import UNFINISHED, Batch, Counts, File, Problem, Status

VERSION = 1
"""Of the tables, in SQLite's `user_version`."""

BUSY_S = 10.0
"""How long a writer waits for another."""

STRAY_S = 24 * 3600.0
"""A content that no record names is then nobody's: a process ended before it wrote one."""

SCHEMA = f"""
CREATE TABLE files (
    id TEXT PRIMARY KEY, tenant TEXT NOT NULL, purpose TEXT NOT NULL, size INTEGER NOT NULL,
    expires INTEGER, number INTEGER NOT NULL, record TEXT NOT NULL
) WITHOUT ROWID;
CREATE INDEX files_tenant ON files(tenant, number);
CREATE TABLE batches (
    id TEXT PRIMARY KEY, tenant TEXT NOT NULL, status TEXT NOT NULL, number INTEGER NOT NULL,
    record TEXT NOT NULL
) WITHOUT ROWID;
CREATE INDEX batches_tenant ON batches(tenant, number);
CREATE INDEX batches_status ON batches(status);
CREATE TABLE answers (
    batch TEXT NOT NULL, line INTEGER NOT NULL, failed INTEGER NOT NULL, body BLOB NOT NULL,
    PRIMARY KEY (batch, line)
) WITHOUT ROWID;
PRAGMA user_version = {VERSION};
"""


class StoreError(Exception):
    """The folder cannot be used. The message says what is wrong with it."""


class InUse(Exception):
    """An unfinished batch reads the file."""

    def __init__(self, batch: str) -> None:
        super().__init__(batch)
        self.batch = batch


class Full(Exception):
    """The tenant's files would be larger than they may be."""

    def __init__(self, stored: int) -> None:
        super().__init__(stored)
        self.stored = stored  # bytes


@dataclasses.dataclass(frozen=True, slots=True)
class Page:
    """What of a list is asked for."""

    after: str | None = None
    limit: int = 20
    oldest_first: bool = False
    purpose: str | None = None  # of files


class Store(Protocol):
    """A tenant sees its own and nothing else. What is not there, or has expired, is None."""

    def add(self, file: File, content: BinaryIO, most: float = math.inf) -> None:
        """`most`: bytes of all its tenant's files. Raises Full."""
        ...

    def file(self, tenant: str, id: str, now: float) -> File | None: ...
    def files(self, tenant: str, page: Page, now: float) -> tuple[list[File], bool]:
        """One page, and whether there is more."""
        ...

    def open(self, file: str) -> BinaryIO:
        """Its content. Raises FileNotFoundError."""
        ...

    def delete(self, tenant: str, id: str) -> bool:
        """Whether it was there. Raises InUse."""
        ...

    def sweep(self, now: float) -> None:
        """Forget the files that have expired, the batches that went with theirs, and what an end in
        the middle has left."""
        ...

    def create(self, batch: Batch) -> None: ...
    def batch(self, tenant: str, id: str) -> Batch | None: ...
    def batches(self, tenant: str, page: Page) -> tuple[list[Batch], bool]: ...
    def unfinished(self) -> list[Batch]:
        """Of all tenants, the oldest first."""
        ...

    def change(self, id: str, change: Callable[[Batch], Batch]) -> Batch:
        """The batch as it then is; nobody else changes it meanwhile."""
        ...

    def counts(self, batch: Batch) -> Counts:
        """As they now are, or were in the end."""
        ...

    def tally(self, id: str) -> tuple[int, int]:
        """Answers that are kept: the good and the others."""
        ...

    def answered(self, id: str) -> set[int]:
        """Lines that have their answer."""
        ...

    def answer(self, id: str, line: int, failed: bool, body: bytes) -> None:
        """Of two answers to one line the first stands; one that comes after the end is nobody's."""
        ...

    def answers(self, id: str, failed: bool) -> Iterator[bytes]:
        """In the order of the lines."""
        ...

    def finish(self, batch: Batch, files: Sequence[tuple[File, BinaryIO]]) -> None:
        """All at once: the batch as it is now, its files, and its answers forgotten."""
        ...

    def lead(self) -> bool:
        """Whether this process is the one that runs batches, from here on and until it ends."""
        ...


class Folder:
    """`Store` in a folder of this machine."""

    def __init__(self, path: Path) -> None:
        """Raises StoreError."""
        self._contents = path / "contents"
        self._lock_file: int | None = None
        self._lead_file = path / "lead"
        self._lock = threading.Lock()
        try:
            path.mkdir(mode=0o700, parents=True, exist_ok=True)
            self._contents.mkdir(mode=0o700, exist_ok=True)
            self._connection = sqlite3.connect(
                path / "files.sqlite",
                timeout=BUSY_S,
                isolation_level=None,
                check_same_thread=False,  # one at a time: the lock sees to it
            )
            self._prepare()
        except (OSError, sqlite3.Error) as error:
            raise StoreError(f"{path}: {error}") from None

    def _prepare(self) -> None:
        """Raises StoreError."""
        self._connection.execute("PRAGMA journal_mode = WAL")
        # After a power cut the last answers may be missing, and are asked for again.
        self._connection.execute("PRAGMA synchronous = NORMAL")
        with self._writing() as connection:
            if connection.execute("SELECT count(*) FROM sqlite_master").fetchone()[0] == 0:
                for statement in filter(str.strip, SCHEMA.split(";")):
                    connection.execute(statement)
            version = connection.execute("PRAGMA user_version").fetchone()[0]
        if version != VERSION:
            raise StoreError(f"tables of version {VERSION} were expected, not of {version}")

    def close(self) -> None:
        with self._lock:
            self._connection.close()
            if self._lock_file is not None:
                os.close(self._lock_file)

    @contextmanager
    def _writing(self) -> Iterator[sqlite3.Connection]:
        """One transaction."""
        with self._lock:
            self._connection.execute("BEGIN IMMEDIATE")
            try:
                yield self._connection
            except BaseException:
                self._connection.execute("ROLLBACK")
                raise
            self._connection.execute("COMMIT")

    def _rows(self, query: str, *values: object) -> list[tuple[str, ...]]:
        with self._lock:
            return self._connection.execute(query, values).fetchall()

    # Files

    def add(self, file: File, content: BinaryIO, most: float = math.inf) -> None:
        self._write(file.id, content)
        query = "SELECT coalesce(sum(size), 0) FROM files WHERE tenant = ?"
        try:
            with self._writing() as connection:
                stored = int(connection.execute(query, (file.tenant,)).fetchone()[0])
                if stored + file.size > most:
                    raise Full(stored)
                _insert(connection, file)
        except BaseException:
            (self._contents / file.id).unlink()
            raise

    def _write(self, id: str, content: BinaryIO) -> None:
        """It is there whole or not at all."""
        arriving = self._contents / f"{id}.part"
        with arriving.open("wb") as out:
            while chunk := content.read(1 << 20):
                out.write(chunk)
            out.flush()
            os.fsync(out.fileno())
        arriving.replace(self._contents / id)

    def file(self, tenant: str, id: str, now: float) -> File | None:
        rows = self._rows("SELECT record FROM files WHERE id = ? AND tenant = ?", id, tenant)
        found = _file(rows[0][0]) if rows else None
        gone = found is not None and found.expires is not None and found.expires <= now
        return None if gone else found

    def files(self, tenant: str, page: Page, now: float) -> tuple[list[File], bool]:
        rows = self._rows(
            _paged(
                "files", page, "(purpose = ? OR ? IS NULL) AND (expires > ? OR expires IS NULL)"
            ),
            *(tenant, page.after, page.after, page.purpose, page.purpose, now, page.limit + 1),
        )
        return [_file(row[0]) for row in rows[: page.limit]], len(rows) > page.limit

    def open(self, file: str) -> BinaryIO:
        return (self._contents / file).open("rb")

    def delete(self, tenant: str, id: str) -> bool:
        with self._writing() as connection:
            for batch in _unfinished(connection):
                if batch.input_file == id and batch.tenant == tenant:
                    raise InUse(batch.id)
            deleted = connection.execute(
                "DELETE FROM files WHERE id = ? AND tenant = ?", (id, tenant)
            ).rowcount
        if deleted:
            (self._contents / id).unlink(missing_ok=True)
        return bool(deleted)

    def sweep(self, now: float) -> None:
        with self._writing() as connection:
            used = {batch.input_file for batch in _unfinished(connection)}
            query = "SELECT id FROM files WHERE expires <= ?"
            gone = {row[0] for row in connection.execute(query, (now,))} - used
            connection.executemany("DELETE FROM files WHERE id = ?", [(id,) for id in gone])
            known = {row[0] for row in connection.execute("SELECT id FROM files")}
            connection.execute(f"DELETE FROM batches WHERE {_IS_GONE}", (*UNFINISHED, now))
        for path in self._contents.iterdir():
            with suppress(FileNotFoundError):  # another process was quicker
                stray = path.name not in known and path.stat().st_mtime < now - STRAY_S
                if path.name in gone or stray:
                    path.unlink()

    # Batches

    def create(self, batch: Batch) -> None:
        with self._writing() as connection:
            connection.execute(
                "INSERT INTO batches SELECT ?, ?, ?, coalesce(max(number), 0) + 1, ? FROM batches",
                (batch.id, batch.tenant, batch.status, _record(batch)),
            )

    def batch(self, tenant: str, id: str) -> Batch | None:
        rows = self._rows("SELECT record FROM batches WHERE id = ? AND tenant = ?", id, tenant)
        return _batch(rows[0][0]) if rows else None

    def batches(self, tenant: str, page: Page) -> tuple[list[Batch], bool]:
        rows = self._rows(
            _paged("batches", page, "TRUE"), tenant, page.after, page.after, page.limit + 1
        )
        return [_batch(row[0]) for row in rows[: page.limit]], len(rows) > page.limit

    def unfinished(self) -> list[Batch]:
        with self._lock:
            return _unfinished(self._connection)

    def change(self, id: str, change: Callable[[Batch], Batch]) -> Batch:
        with self._writing() as connection:
            (record,) = connection.execute(
                "SELECT record FROM batches WHERE id = ?", (id,)
            ).fetchone()
            changed = change(_batch(record))
            _update(connection, changed)
        return changed

    def counts(self, batch: Batch) -> Counts:
        if batch.status in UNFINISHED:
            return Counts(batch.total, *self.tally(batch.id))
        return Counts(batch.total, batch.completed, batch.failed)

    def tally(self, id: str) -> tuple[int, int]:
        query = "SELECT failed, count(*) FROM answers WHERE batch = ? GROUP BY failed"
        by_failed = {bool(row[0]): int(row[1]) for row in self._rows(query, id)}
        return by_failed.get(False, 0), by_failed.get(True, 0)

    def answered(self, id: str) -> set[int]:
        rows = self._rows("SELECT line FROM answers WHERE batch = ?", id)
        return {int(row[0]) for row in rows}

    def answer(self, id: str, line: int, failed: bool, body: bytes) -> None:
        with self._writing() as connection:
            connection.execute(
                "INSERT OR IGNORE INTO answers SELECT ?, ?, ?, ? WHERE EXISTS"
                f" (SELECT 1 FROM batches WHERE id = ? AND {_IS_UNFINISHED})",
                (id, line, failed, body, id, *UNFINISHED),
            )

    def answers(self, id: str, failed: bool) -> Iterator[bytes]:
        line = 0
        while True:
            with self._lock:
                rows = self._connection.execute(
                    "SELECT line, body FROM answers WHERE batch = ? AND failed = ? AND line > ?"
                    " ORDER BY line LIMIT 100",
                    (id, failed, line),
                ).fetchall()
            if not rows:
                return
            line = rows[-1][0]
            yield from (row[1] for row in rows)

    def finish(self, batch: Batch, files: Sequence[tuple[File, BinaryIO]]) -> None:
        for file, content in files:
            self._write(file.id, content)
        with self._writing() as connection:
            for file, _ in files:
                _insert(connection, file)
            _update(connection, batch)
            connection.execute("DELETE FROM answers WHERE batch = ?", (batch.id,))

    def lead(self) -> bool:
        import fcntl  # where there is none, nobody runs batches

        if self._lock_file is not None:
            return True
        # The system lets go of it when the process ends, however it ends.
        file = os.open(self._lead_file, os.O_CREAT | os.O_RDWR | os.O_CLOEXEC, 0o600)
        with suppress(BlockingIOError):
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            self._lock_file = file
            return True
        os.close(file)
        return False


def _insert(connection: sqlite3.Connection, file: File) -> None:
    connection.execute("DELETE FROM files WHERE id = ?", (file.id,))
    connection.execute(
        "INSERT INTO files SELECT ?, ?, ?, ?, ?, coalesce(max(number), 0) + 1, ? FROM files",
        (file.id, file.tenant, file.purpose, file.size, file.expires, _record(file)),
    )


def _update(connection: sqlite3.Connection, batch: Batch) -> None:
    connection.execute(
        "UPDATE batches SET status = ?, record = ? WHERE id = ?",
        (batch.status, _record(batch), batch.id),
    )


_IS_UNFINISHED = f"status IN ({', '.join('?' * len(UNFINISHED))})"


_IS_GONE = f"""NOT {_IS_UNFINISHED} AND json_extract(record, '$.expires') <= ? AND NOT EXISTS (
    SELECT 1 FROM files WHERE id IN (
        json_extract(batches.record, '$.input_file'),
        json_extract(batches.record, '$.output_file'),
        json_extract(batches.record, '$.error_file')
    )
)"""
"""A batch, with all of its files; not before its window is over, so that whoever waits for its end
hears of it. The values: `UNFINISHED`, and now."""


def _unfinished(connection: sqlite3.Connection) -> list[Batch]:
    query = f"SELECT record FROM batches WHERE {_IS_UNFINISHED} ORDER BY number"
    return [_batch(row[0]) for row in connection.execute(query, UNFINISHED)]


def _paged(table: str, page: Page, where: str) -> str:
    """Its values: the tenant, twice where it begins, those of `where`, how many."""
    order, beyond = ("ASC", ">") if page.oldest_first else ("DESC", "<")
    return (
        f"SELECT record FROM {table} WHERE tenant = ? AND (? IS NULL OR number {beyond}"
        f" (SELECT number FROM {table} WHERE id = ?)) AND {where} ORDER BY number {order} LIMIT ?"
    )


def _record(noun: File | Batch) -> str:
    return json.dumps(dataclasses.asdict(noun))


def _file(record: str) -> File:
    return File(**json.loads(record))


def _batch(record: str) -> Batch:
    fields = json.loads(record)
    fields["status"] = Status(fields["status"])
    fields["problems"] = tuple(Problem(**problem) for problem in fields["problems"])
    return Batch(**fields)
