import threading

import pytest

from gateway.telemetry.batches import Batches


def test_everything_is_written_in_order_by_the_time_it_is_closed():
    written: list[int] = []
    batches = Batches("numbers", written.extend, batch=7, period_s=60)
    batches.start()
    for number in range(100):
        batches.put(number)
    batches.close(10)
    assert written == list(range(100))
    assert (batches.written, batches.dropped) == (100, 0)


def test_a_full_queue_drops_what_comes_and_counts_it():
    slow = threading.Event()

    def write(items: list[int]) -> None:
        slow.wait(10)

    batches = Batches("numbers", write, capacity=10, batch=5, period_s=60)
    batches.start()
    for number in range(100):
        batches.put(number)  # returns although nothing is written
    assert 85 <= batches.dropped <= 90  # one batch may be on its way
    slow.set()
    batches.close(10)
    assert batches.written + batches.dropped == 100


def test_what_cannot_be_written_is_counted_and_the_next_is_tried(caplog: pytest.LogCaptureFixture):
    written: list[int] = []

    def write(items: list[int]) -> None:
        if 0 in items:
            raise OSError("no room")
        written.extend(items)

    batches = Batches("numbers", write, batch=10, period_s=60)
    batches.start()
    for number in range(20):
        batches.put(number)
    batches.close(10)
    assert written == list(range(10, 20))
    assert batches.dropped == 10
    assert "numbers cannot be written: no room" in caplog.text
    assert "numbers are written again; 10 were dropped" in caplog.text


def test_what_cannot_be_written_yet_is_tried_again_in_its_order_and_said_once(caplog):
    written: list[int] = []
    tries = iter(range(100))

    def write(items: list[int]) -> None:
        if next(tries) < 3:
            raise OSError("locked")
        written.extend(items)
        if len(written) == 20:
            done.set()

    done = threading.Event()
    batches = Batches("numbers", write, batch=10, period_s=0.001, again=True)
    for number in range(20):
        batches.put(number)
    batches.start()
    assert done.wait(10)
    batches.close(10)
    assert written == list(range(20))
    assert batches.dropped == 0
    assert caplog.text.count("cannot be written") == 1


def test_a_writer_that_never_returns_does_not_hold_up_the_end():
    stuck = threading.Event()
    batches: Batches[int] = Batches("numbers", lambda items: stuck.wait(30) and None, batch=1)
    batches.start()
    for number in range(5):
        batches.put(number)
    batches.close(0.05)
    assert batches.dropped >= 4
    stuck.set()


def test_closing_what_never_started_is_nothing():
    batches: Batches[int] = Batches("numbers", lambda items: None)
    batches.close(1)
    assert batches.written == 0
