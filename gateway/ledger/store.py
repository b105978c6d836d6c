"""The ledger's file: SQLite in WAL mode, so that it can be read while it is written, by several."""

from __future__ import annotations

import sqlite3
import time
from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager
from pathlib import Path
from types import NoneType
from typing import Any, get_args, get_type_hints

from gateway.ledger.record import Billed, Record

VERSION = 1
"""Of the tables, in SQLite's `user_version`."""

BUSY_S = 10.0
"""How long a writer waits for another."""

_TYPES = {str: "TEXT", float: "REAL", int: "INTEGER", bool: "INTEGER", bytes: "BLOB"}
RECORD = Record._fields[:-1]  # its attempts have a table of their own
BILLED = Billed._fields


class LedgerError(Exception):
    """The file is not a ledger, or one of another version."""


def _columns(of: type[Record] | type[Billed], names: Sequence[str]) -> str:
    hints = get_type_hints(of)
    columns = []
    for name in names:
        kind, nullable = hints[name], NoneType in get_args(hints[name])
        type_ = _TYPES[get_args(kind)[0] if nullable else kind]
        columns.append(f"{name} {type_}{'' if nullable else ' NOT NULL'}")
    return ", ".join(columns)


SCHEMA = f"""
CREATE TABLE exchanges (id INTEGER PRIMARY KEY, {_columns(Record, RECORD)});
CREATE TABLE attempts (
    exchange INTEGER NOT NULL REFERENCES exchanges(id), number INTEGER NOT NULL,
    {_columns(Billed, BILLED)}, PRIMARY KEY (exchange, number)
) WITHOUT ROWID;
CREATE INDEX exchanges_at ON exchanges(at);
PRAGMA user_version = {VERSION};
"""


@contextmanager
def opened(file: Path, *, write: bool = False) -> Iterator[sqlite3.Connection]:
    """Raises LedgerError. Without `write`, the file must be there and stays as it is."""
    mode = "rwc" if write else "ro"
    try:
        connection = sqlite3.connect(
            f"{file.absolute().as_uri()}?mode={mode}",
            uri=True,
            timeout=BUSY_S,
            isolation_level=None,
        )
    except sqlite3.OperationalError as error:
        raise LedgerError(f"{file}: {error}") from None
    with closing(connection):
        try:
            if write:
                _prepare(connection)
            version = connection.execute("PRAGMA user_version").fetchone()[0]
        except sqlite3.DatabaseError as error:
            raise LedgerError(f"{file}: {error}") from None
        if version != VERSION:
            raise LedgerError(f"{file}: not a ledger of version {VERSION}, but of {version}")
        yield connection


def _prepare(connection: sqlite3.Connection) -> None:
    _to_wal(connection)
    # After a power cut the last batches may be missing, the file is never broken.
    connection.execute("PRAGMA synchronous = NORMAL")
    with _writing(connection):  # one of several that start at once makes the tables
        fresh = connection.execute("SELECT count(*) FROM sqlite_master").fetchone()[0] == 0
        if fresh:
            for statement in filter(str.strip, SCHEMA.split(";")):
                connection.execute(statement)


def _to_wal(connection: sqlite3.Connection) -> None:
    """Of several that find a fresh file, one changes its mode. The others SQLite refuses at once:
    to raise a lock that it holds already, it does not wait."""
    until = time.monotonic() + BUSY_S
    while True:
        try:
            connection.execute("PRAGMA journal_mode = WAL")
        except sqlite3.OperationalError as error:
            code = error.sqlite_errorcode & 0xFF  # whatever it was that others are busy with
            if code != sqlite3.SQLITE_BUSY or time.monotonic() > until:
                raise
            time.sleep(0.01)
        else:
            return


@contextmanager
def _writing(connection: sqlite3.Connection) -> Iterator[None]:
    """All of it or nothing."""
    connection.execute("BEGIN IMMEDIATE")
    try:
        yield
    except BaseException:
        connection.execute("ROLLBACK")
        raise
    connection.execute("COMMIT")


def write(file: Path, records: Sequence[Record]) -> None:
    """All of them or none, into whatever is at the file's place. Raises LedgerError, sqlite3.Error.

    The file is not kept open for the next batch, though to open and close it costs as much as
    some hundred rows: SQLite finds a file's index by its name, so that one of several writers
    would go on with a file that another has seen moved away, and write into nothing.
    """
    with opened(file, write=True) as connection:
        append(connection, records)


def append(connection: sqlite3.Connection, records: Sequence[Record]) -> None:
    """All of them or none."""
    with _writing(connection):
        first = connection.execute("SELECT coalesce(max(id), 0) + 1 FROM exchanges").fetchone()[0]
        numbered = list(enumerate(records, first))
        connection.executemany(_INSERT_RECORD, [(id_, *record[:-1]) for id_, record in numbered])
        connection.executemany(
            _INSERT_BILLED,
            [
                (id_, number, *billed)
                for id_, record in numbered
                for number, billed in enumerate(record.attempts)
            ],
        )


def prune(connection: sqlite3.Connection, before: float, size: int | None, most: int) -> int:
    """Delete the oldest exchanges, up to `most`: those from before a time, and more while what is
    stored takes more than so many bytes. How many were deleted; the file keeps their room for new
    ones."""
    where = "at < ?" if size is None or _stored(connection) <= size else "? IS NOT NULL"
    oldest = f"SELECT id FROM exchanges WHERE {where} ORDER BY at LIMIT {most}"
    with _writing(connection):
        numbers = connection.execute(oldest, (before,)).fetchall()
        connection.executemany("DELETE FROM attempts WHERE exchange = ?", numbers)
        connection.executemany("DELETE FROM exchanges WHERE id = ?", numbers)
    return len(numbers)


def _stored(connection: sqlite3.Connection) -> int:
    pages, free, size = (
        connection.execute(f"PRAGMA {name}").fetchone()[0]
        for name in ("page_count", "freelist_count", "page_size")
    )
    return int((pages - free) * size)


def read(
    connection: sqlite3.Connection, since: float = 0.0, until: float | None = None
) -> Iterator[Record]:
    """In the order of their coming."""
    cursor = connection.execute(
        f"SELECT id, {', '.join(RECORD)} FROM exchanges WHERE at >= ? AND at < ? ORDER BY at, id",
        (since, _end(until)),
    )
    for number, *values in cursor:
        attempts = connection.execute(
            f"SELECT {', '.join(BILLED)} FROM attempts WHERE exchange = ? ORDER BY number",
            (number,),
        )
        given = dict(zip(RECORD, values, strict=True))
        given["stream"], given["estimated"] = bool(given["stream"]), bool(given["estimated"])
        yield Record(**given, attempts=tuple(map(_billed, attempts)))


def _billed(row: Sequence[Any]) -> Billed:
    given = dict(zip(BILLED, row, strict=True))
    given["resumed"], given["hedge"] = bool(given["resumed"]), bool(given["hedge"])
    return Billed(**given)


def _end(until: float | None) -> float:
    return until if until is not None else float("inf")


def _insert(table: str, columns: Sequence[str]) -> str:
    return f"INSERT INTO {table} ({', '.join(columns)}) VALUES ({', '.join('?' * len(columns))})"


_INSERT_RECORD = _insert("exchanges", ("id", *RECORD))
_INSERT_BILLED = _insert("attempts", ("exchange", "number", *BILLED))
