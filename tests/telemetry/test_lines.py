"""Lines of exchanges are written together, in order with all others, and never lost at an end."""

import io
import json
import logging
import signal
import subprocess
import sys
import threading

import httpx
import pytest

from gateway.telemetry.log import ExchangeLine, JsonLines, Lines
from tests.support.gateways import gateway
from tests.support.processes import serve
from tests.support.upstream import Upstream


class Stream(io.StringIO):
    """Counts what is written at once."""

    def __init__(self) -> None:
        super().__init__()
        self.writes = 0
        self.written = threading.Event()

    def write(self, text: str) -> int:
        self.writes += 1
        return super().write(text)

    def flush(self) -> None:
        self.written.set()

    @property
    def told(self) -> list[str]:
        lines = map(json.loads, self.getvalue().splitlines())
        return [line.get("request_id") or line["message"] for line in lines]


def lines(stream: Stream, period_s: float = 60.0, most: int = 500) -> Lines:
    made = Lines(stream, period_s, most)
    made.setFormatter(JsonLines())
    return made


def record(message: object, *arguments: object) -> logging.LogRecord:
    return logging.LogRecord("gateway", logging.INFO, "", 0, message, arguments, None)


def exchange(name: str) -> logging.LogRecord:
    return record(ExchangeLine({"request_id": name}))


def test_an_exchange_waits_for_others_and_whatever_else_is_said_comes_after_them():
    stream = Stream()
    log = lines(stream)
    for message in (exchange("1"), exchange("2")):
        log.handle(message)
    assert stream.told == []
    log.handle(record("a warning"))
    log.handle(exchange("3"))
    assert stream.told == ["1", "2", "a warning"]
    assert stream.writes == 1
    log.flush()
    assert stream.told == ["1", "2", "a warning", "3"]


def test_an_exchange_waits_only_a_moment():
    stream = Stream()
    log = lines(stream, period_s=0.001)
    for name in ("1", "2", "3"):
        stream.written.clear()
        log.handle(exchange(name))
        assert stream.written.wait(10)
        assert stream.told[-1] == name


def test_no_more_wait_than_so_many():
    stream = Stream()
    log = lines(stream, most=10)
    for number in range(25):
        log.handle(exchange(str(number)))
    assert stream.told == [str(number) for number in range(20)]
    assert stream.writes == 2


def test_a_line_that_cannot_be_made_costs_no_other_its_place(capsys):
    stream = Stream()
    log = lines(stream)
    log.handle(exchange("1"))
    log.handle(record("%d of them", "many"))
    log.handle(record("the next"))
    assert stream.told == ["1", "the next"]
    assert "Message: '%d of them'" in capsys.readouterr().err


def test_a_stream_that_is_closed_ends_nothing(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(logging, "raiseExceptions", False)
    stream = Stream()
    log = lines(stream, period_s=0.001)
    stream.close()
    log.handle(exchange("1"))
    log.handle(record("a warning"))
    log.stream = there = Stream()
    log.handle(exchange("2"))
    assert there.written.wait(10), "the thread that writes has ended"
    assert there.told == ["2"]


SETTLES = """
from gateway.domain import Ended, Outcome, Principal
from gateway.telemetry.log import ExchangeLog, configure
configure("info")
for number in range(3):
    outcome = Outcome(str(number), Principal("t", "k"), 0.0, ended=Ended.FINISHED)
    ExchangeLog().settled(outcome)
"""


@pytest.mark.parametrize("end", ["", "raise SystemExit(1)", "raise ValueError('a defect')"])
def test_what_waits_is_written_when_a_process_ends(end: str):
    command = [sys.executable, "-c", SETTLES + end]
    told = subprocess.run(command, capture_output=True, text=True, check=False)
    found = [line for line in told.stderr.splitlines() if line.startswith("{")]
    assert [json.loads(line)["request_id"] for line in found] == ["0", "1", "2"]


def test_what_waits_is_written_when_a_gateway_is_told_to_stop(tmp_path):
    config = tmp_path / "config.yaml"
    config.write_text("endpoints: {gone: {base_url: 'http://127.0.0.1:9/v1', models: [m]}}\n")
    ask = {"model": "m", "messages": [{"role": "user", "content": "hi"}]}
    with serve(config, "--port", "0") as serving:
        url = serving.wait_for(r"listening on (http://\S+:\d+)", 30)[1]
        for _ in range(5):
            assert httpx.post(f"{url}/v1/chat/completions", json=ask, timeout=30).status_code == 502
        serving.stop(signal.SIGTERM)
    assert sum('"message":"exchange"' in line for line in serving.lines) == 5


@pytest.mark.anyio
async def test_nothing_waits_any_more_when_a_gateway_has_ended():
    """Its process may be ended by a signal now, and have no time for anything."""
    stream = Stream()
    log = lines(stream)
    logging.getLogger().addHandler(log)
    logging.getLogger("gateway.exchange").setLevel(logging.INFO)
    try:
        async with gateway(Upstream()) as g:
            message = {"role": "user", "content": "hi"}
            await g.sdk.chat.completions.create(model="m", messages=[message])
    finally:
        logging.getLogger().removeHandler(log)
        logging.getLogger("gateway.exchange").setLevel(logging.NOTSET)
    assert "exchange" in [json.loads(line)["message"] for line in stream.getvalue().splitlines()]
