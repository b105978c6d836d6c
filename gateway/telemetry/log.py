"""One line per exchange, and how all lines look. Never a prompt, a key or an answer.

For people in a terminal, JSON for everything else: one object on each line, the same facts.
"""

from __future__ import annotations

import json
import logging
import sys
from dataclasses import dataclass
from datetime import UTC, datetime

import orjson

from gateway.domain import Attempt, Outcome
from gateway.telemetry.facts import model_of

logger = logging.getLogger("gateway.exchange")


class ExchangeLog:
    def settled(self, outcome: Outcome) -> None:
        if logger.isEnabledFor(logging.INFO):
            # Made here: `logger.info` would look up who calls it.
            line = ExchangeLine(_facts(outcome))
            logger.handle(logging.LogRecord(logger.name, logging.INFO, "", 0, line, None, None))


@dataclass(frozen=True, slots=True)
class ExchangeLine:
    """A record's message: its text is made only where it is written as text."""

    facts: dict[str, object]

    def __str__(self) -> str:
        return _line(self.facts)


def _facts(outcome: Outcome) -> dict[str, object]:
    """What is not known is left out."""
    usage, first, known = outcome.usage, outcome.first_event_s, model_of(outcome)
    facts: dict[str, object] = {
        "request_id": outcome.request_id,
        "trace_id": f"{outcome.trace.trace_id:032x}" if outcome.trace else None,
        "ended": str(outcome.ended),
        "tenant": outcome.principal.tenant,
        "model": outcome.model if known else None,
        "policy": outcome.policy if known else None,
        "cache": outcome.cache,
        "tried": [_tried(attempt) for attempt in outcome.attempts],
        "prompt_tokens": usage and usage.prompt_tokens,
        "cached_tokens": usage and usage.cached_tokens,
        "completion_tokens": usage and usage.completion_tokens,
        "cost_usd": round(sum(a.billed_usd for a in outcome.attempts), 9) or None,
        "first_s": None if first is None else round(first, 3),
        "total_s": round(outcome.total_s, 3),
        "status": outcome.status,
        **_beside(outcome.answering),
        "error": outcome.error,
        "fault": outcome.fault,
    }
    return {name: value for name, value in facts.items() if value is not None}


def _beside(attempt: Attempt | None) -> dict[str, float | None]:
    """What happened, beside what the decision had expected."""
    if attempt is None:
        return {}
    return {
        "ttft_s": attempt.ttft_s,
        "expected_ttft_s": attempt.expected_ttft_s,
        "usd": attempt.billed_usd if attempt.billed_by else None,
        "expected_usd": attempt.expected_cost_usd,
        "cached": attempt.cached_tokens,
        "expected_cached": attempt.expected_cached_tokens,
    }


def _tried(attempt: Attempt) -> str:
    """`name`, `name:error` when it failed; before it what the try was for, if not for the whole."""
    marks = {"hedge": attempt.hedge, "resumed": attempt.resumed, "probe": attempt.probe}
    kind = "".join(f"{name}=" for name, holds in marks.items() if holds)
    return f"{kind}{attempt.endpoint}{f':{attempt.error}' if attempt.error else ''}"


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


def configure(level: str, *, supervised: bool = False, form: str = "auto") -> None:
    """Everything to standard error: standard output belongs to whoever started us.

    `supervised`: our lines become part of a parent's, which puts the time before each.
    """
    handler = logging.StreamHandler(sys.stderr)
    in_json = form == "json" or (form == "auto" and not supervised and not sys.stderr.isatty())
    handler.setFormatter(JsonLines() if in_json else logging.Formatter(TEXT[supervised]))
    logging.basicConfig(level=level.upper(), handlers=[handler])
    logging.getLogger("uvicorn").setLevel(logging.WARNING)
    # What a collector's address or answer may hold is nobody's to read in a log of ours.
    logging.getLogger("opentelemetry").setLevel(logging.CRITICAL)


_MESSAGE = "%(levelname)-7s %(name)s: %(message)s"
TEXT = {True: _MESSAGE, False: f"%(asctime)s {_MESSAGE}"}
