"""One line per exchange, and how all lines look. Never a prompt, a key or an answer.

For people in a terminal, JSON for everything else: one object on each line, the same facts.
"""

from __future__ import annotations

import json
import logging
import sys
import threading
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TextIO

import orjson

from gateway.domain import Attempt, Outcome
from gateway.telemetry.facts import cost_usd, model_of

logger = logging.getLogger("gateway.exchange")

PERIOD_S = 0.1
"""How long an exchange's line waits for others at most: nobody who reads along notices."""

MOST = 500
"""Lines that wait."""


class ExchangeLog:
    def settled(self, outcome: Outcome) -> None:
        if logger.isEnabledFor(logging.INFO):
            # Made here: `logger.info` would look up who calls it.
            line = ExchangeLine(_facts(outcome))
            logger.handle(logging.LogRecord(logger.name, logging.INFO, "", 0, line, None, None))


@dataclass(slots=True)
class ExchangeLine:
    """A record's message: its text is made only where it is written as text."""

    _facts: Mapping[str, object]

    @property
    def facts(self) -> dict[str, object]:
        """What is not known is left out."""
        return {name: value for name, value in self._facts.items() if value is not None}

    def __str__(self) -> str:
        return _line(self.facts)


def _facts(outcome: Outcome) -> dict[str, object]:
    usage, first, known = outcome.usage, outcome.first_event_s, model_of(outcome)
    facts: dict[str, object] = {
        "request_id": outcome.request_id,
        "trace_id": f"{outcome.trace.trace_id:032x}" if outcome.trace else None,
        "ended": outcome.ended,
        "tenant": outcome.principal.tenant,
        "model": outcome.model if known else None,
        "policy": outcome.policy if known else None,
        "cache": outcome.cache,
        "tried": [_tried(attempt) for attempt in outcome.attempts],
        "prompt_tokens": usage and usage.prompt_tokens,
        "cached_tokens": usage and usage.cached_tokens,
        "completion_tokens": usage and usage.completion_tokens,
        "cost_usd": round(cost_usd(outcome), 9) or None,
        "first_s": None if first is None else round(first, 3),
        "total_s": round(outcome.total_s, 3),
        "status": outcome.status,
    }
    if (last := outcome.answering) is not None:
        # What happened, beside what the decision had expected.
        facts["ttft_s"] = last.ttft_s
        facts["expected_ttft_s"] = last.expected_ttft_s
        facts["usd"] = last.billed_usd if last.billed_by else None
        facts["expected_usd"] = last.expected_cost_usd
        facts["cached"] = last.cached_tokens
        facts["expected_cached"] = last.expected_cached_tokens
    facts["error"], facts["fault"] = outcome.error, outcome.fault
    return facts


def _tried(attempt: Attempt) -> str:
    """`name`, `name:error` when it failed; before it what the try was for, if not for the whole."""
    return (
        f"{'hedge=' if attempt.hedge else ''}{'resumed=' if attempt.resumed else ''}"
        f"{'probe=' if attempt.probe else ''}"
        f"{attempt.endpoint}{f':{attempt.error}' if attempt.error else ''}"
    )


def _line(facts: dict[str, object]) -> str:
    tokens = "-"
    if "prompt_tokens" in facts:
        cached = facts.get("cached_tokens")
        tokens = f"{facts['prompt_tokens']}({cached})+{facts['completion_tokens']}"
    tried = facts["tried"]
    assert isinstance(tried, list)
    first = facts.get("first_s")
    return (
        f"{facts['request_id']} {facts['ended']} tenant={facts['tenant']}"
        f" model={facts.get('model', '-')} tried={','.join(tried) or '-'} tokens={tokens}"
        f" first_s={'-' if first is None else f'{first:.3f}'} total_s={facts['total_s']:.3f}"
        + "".join(_pair(facts, name) for name in ("ttft_s", "usd", "cached"))
        + (f" cache={facts['cache']}" if "cache" in facts else "")
        + (f" error={facts['error']}" if "error" in facts else "")
        + (f" trace={facts['trace_id']}" if "trace_id" in facts else "")
    )


def _pair(facts: dict[str, object], name: str) -> str:
    """What happened, and after a slash what was expected."""
    expected, happened = facts.get(f"expected_{name}"), facts.get(name)
    if expected is None:
        return ""
    return f" {name}={'-' if happened is None else f'{happened:.4g}'}/{expected:.4g}"


class JsonLines(logging.Formatter):
    """One JSON object a line; an exchange's facts stand beside the rest."""

    def format(self, record: logging.LogRecord) -> str:
        at = datetime.fromtimestamp(record.created, UTC)
        line: dict[str, object] = {
            "time": at.isoformat(timespec="milliseconds").replace("+00:00", "Z"),
            "level": record.levelname.lower(),
            "logger": record.name,
        }
        if isinstance(record.msg, ExchangeLine):
            line["message"] = "exchange"
            line |= record.msg.facts
        else:
            line["message"] = record.getMessage()
        if record.exc_info:
            line["exception"] = self.formatException(record.exc_info)
        try:
            return orjson.dumps(line).decode()
        except TypeError:  # halves of surrogate pairs, and what only prints itself
            return json.dumps(line, ensure_ascii=False, default=str)


class Lines(logging.StreamHandler[TextIO]):
    """Writes the lines of exchanges together, since a system call for each costs as much as to
    make it: on a thread, a moment later. All others are written at once, after what waits."""

    def __init__(self, stream: TextIO, period_s: float = PERIOD_S, most: int = MOST) -> None:
        super().__init__(stream)
        self._period_s = period_s
        self._most = most
        self._waiting: list[logging.LogRecord] = []
        self._stir = threading.Event()
        threading.Thread(target=self._work, name="log lines", daemon=True).start()

    def emit(self, record: logging.LogRecord) -> None:
        self._waiting.append(record)
        if not isinstance(record.msg, ExchangeLine) or len(self._waiting) >= self._most:
            self.flush()
        elif len(self._waiting) == 1:
            self._stir.set()

    def flush(self) -> None:
        self.acquire()
        try:
            waiting, self._waiting = self._waiting, []
            if waiting:
                self._write(waiting)
        finally:
            self.release()

    def _write(self, records: Sequence[logging.LogRecord]) -> None:
        try:
            self.stream.write("".join(map(self._made, records)))
            self.stream.flush()
        except Exception:  # a rim: standard error may be closed, and nothing depends on it
            self.handleError(records[-1])

    def _made(self, record: logging.LogRecord) -> str:
        try:
            return f"{self.format(record)}{self.terminator}"
        except Exception:  # a rim: its arguments do not fit its text
            self.handleError(record)
            return ""

    def _work(self) -> None:
        while self._stir.wait():
            self._stir.clear()
            time.sleep(self._period_s)
            self.flush()


def flush() -> None:
    """Write what waits: a process that a signal ends does not get to it by itself."""
    for handler in logging.getLogger().handlers:
        handler.flush()


def configure(level: str, *, supervised: bool = False, form: str = "auto") -> None:
    """Everything to standard error: standard output belongs to whoever started us.

    `supervised`: our lines become part of a parent's, which puts the time before each.
    """
    handler = Lines(sys.stderr)
    in_json = form == "json" or (form == "auto" and not supervised and not sys.stderr.isatty())
    handler.setFormatter(JsonLines() if in_json else logging.Formatter(TEXT[supervised]))
    logging.basicConfig(level=level.upper(), handlers=[handler])
    # None of our lines says on which thread or in which process it was logged.
    logging.logThreads = logging.logProcesses = logging.logMultiprocessing = False
    logging.getLogger("uvicorn").setLevel(logging.WARNING)
    # What a collector's address or answer may hold is nobody's to read in a log of ours.
    logging.getLogger("opentelemetry").setLevel(logging.CRITICAL)


_MESSAGE = "%(levelname)-7s %(name)s: %(message)s"
TEXT = {True: _MESSAGE, False: f"%(asctime)s {_MESSAGE}"}
