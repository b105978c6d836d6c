"""Rows are written to whatever is at the file's place."""

import sqlite3
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from threading import Barrier

import pytest

from gateway.domain import Attempt, Ended
from gateway.ledger.record import Record
from gateway.ledger.store import LedgerError, append, opened, read, write
from tests.ledger.test_record import answered, settled

REFUSED = Attempt("a", 10.0, error="upstream_busy")


def exchange(at: float) -> Record:
    return settled(Ended.FINISHED, REFUSED, answered())._replace(at=at)


def times(file: Path) -> list[float]:
    with opened(file) as connection:
        return [record.at for record in read(connection)]


def test_what_is_read_is_what_was_written(tmp_path):
    file = tmp_path / "ledger.sqlite"
    records = [exchange(1.0), settled(Ended.FAILED, status=404), exchange(1002.0)]
    with opened(file, write=True) as connection:
        append(connection, records)
        append(connection, [])
        append(connection, [exchange(1003.0)])
    with opened(file) as connection:
        assert list(read(connection)) == [*records, exchange(1003.0)]


def test_what_one_writes_others_read_at_once_and_may_write_too(tmp_path):
    file = tmp_path / "ledger.sqlite"
    for at in range(6):
        write(file, [exchange(float(at))])
        assert times(file) == [float(n) for n in range(at + 1)]
    write(file, [])  # whoever reads last cannot take the log away
    assert [path.name for path in tmp_path.iterdir()] == [file.name]


def test_several_that_find_no_file_make_it_at_once_and_wait_for_each_other(tmp_path):
    with ThreadPoolExecutor(4) as writers:
        for number in range(40):  # SQLite refused about one in ten at once
            file, together = tmp_path / f"{number}.sqlite", Barrier(4)

            def begin(at: int, file: Path = file, together: Barrier = together) -> None:
                together.wait()
                write(file, [exchange(float(at))])

            list(writers.map(begin, range(4)))
            assert sorted(times(file)) == [0.0, 1.0, 2.0, 3.0]


def test_a_file_that_was_moved_away_is_whole_and_a_new_one_is_begun(tmp_path):
    file, moved = tmp_path / "ledger.sqlite", tmp_path / "november.sqlite"
    write(file, [exchange(1.0), exchange(2.0)])
    file.rename(moved)
    write(file, [exchange(3.0)])
    write(file, [exchange(4.0)])
    assert times(moved) == [1.0, 2.0]
    assert times(file) == [3.0, 4.0]


def test_a_file_that_was_deleted_is_begun_again(tmp_path):
    file = tmp_path / "ledger.sqlite"
    write(file, [exchange(1.0)])
    for path in tmp_path.iterdir():
        path.unlink()
    write(file, [exchange(2.0)])
    assert times(file) == [2.0]


def test_a_file_that_was_replaced_by_something_else_is_told_and_left_alone(tmp_path):
    file, other = tmp_path / "ledger.sqlite", tmp_path / "notes.txt"
    write(file, [exchange(1.0)])
    other.write_text("these are my notes, and no database at all " * 100)
    before = other.read_bytes()
    other.rename(file)
    with pytest.raises(LedgerError, match=r"ledger\.sqlite"):
        write(file, [exchange(2.0)])
    assert file.read_bytes() == before
    file.unlink()
    write(file, [exchange(2.0)])
    assert times(file) == [2.0]


def test_a_file_that_a_later_version_took_over_is_told_and_left_alone(tmp_path):
    file = tmp_path / "ledger.sqlite"
    write(file, [exchange(1.0)])
    with opened(file, write=True) as connection:
        connection.execute("PRAGMA user_version = 2")
    with pytest.raises(LedgerError, match="not a ledger of version 1, but of 2"):
        write(file, [exchange(2.0)])
    with sqlite3.connect(file) as connection:
        assert connection.execute("SELECT at FROM exchanges").fetchall() == [(1.0,)]
    connection.close()


def test_of_a_batch_that_cannot_be_written_nothing_is_and_the_next_is_tried(tmp_path):
    file = tmp_path / "ledger.sqlite"
    write(file, [exchange(1.0)])
    odd = exchange(3.0)._replace(status=object())  # type: ignore[arg-type]
    with pytest.raises(sqlite3.Error):
        write(file, [exchange(2.0), odd])
    assert times(file) == [1.0]
    write(file, [exchange(4.0)])
    assert times(file) == [1.0, 4.0]
