"""One line per exchange, and how all lines look. Never a prompt, a key or an answer."""

from __future__ import annotations

import logging
import sys

from gateway.domain import Attempt, Outcome

logger = logging.getLogger("gateway.exchange")


class ExchangeLog:
    def settled(self, outcome: Outcome) -> None:
        usage = outcome.usage
        logger.info(
            "%s %s tenant=%s model=%s tried=%s tokens=%s first_s=%s total_s=%s%s%s",
            outcome.request_id,
            outcome.ended,
            outcome.principal.tenant,
            # A name that nobody serves is the caller's text, and could be anything.
            outcome.model if outcome.attempts else "-",
            ",".join(map(_tried, outcome.attempts)) or "-",
            f"{usage.prompt_tokens}({usage.cached_tokens})+{usage.completion_tokens}"
            if usage
            else "-",
            _seconds(outcome.started, _first_event(outcome)),
            _seconds(outcome.started, outcome.finished),
            _beside(outcome.attempts[-1]) if outcome.attempts else "",
            f" error={outcome.error}" if outcome.error else "",
        )


def _beside(attempt: Attempt) -> str:
    """What happened, beside what the decision had expected."""
    pairs = (
        ("ttft_s", attempt.ttft_s, attempt.expected_ttft_s),
        ("usd", attempt.billed_usd if attempt.billed_by else None, attempt.expected_cost_usd),
        ("cached", attempt.cached_tokens, attempt.expected_cached_tokens),
    )
    return "".join(
        f" {name}={'-' if happened is None else f'{happened:.4g}'}/{expected:.4g}"
        for name, happened, expected in pairs
    )


def _first_event(outcome: Outcome) -> float | None:
    return next((a.first_event for a in outcome.attempts if a.first_event is not None), None)


def _tried(attempt: Attempt) -> str:
    """`name`, `name:error` when it failed; before it what the try was for, if not for the whole."""
    marks = {"hedge": attempt.hedge, "resumed": attempt.resumed, "probe": attempt.probe}
    kind = "".join(f"{name}=" for name, holds in marks.items() if holds)
    return f"{kind}{attempt.endpoint}{f':{attempt.error}' if attempt.error else ''}"


def _seconds(start: float, end: float | None) -> str:
    return "-" if end is None else f"{end - start:.3f}"


def configure(level: str, *, supervised: bool = False) -> None:
    """Everything to standard error: standard output belongs to whoever started us.

    `supervised`: our lines become part of a parent's, which puts the time before each.
    """
    logging.basicConfig(
        level=level.upper(),
        stream=sys.stderr,
        format=("" if supervised else "%(asctime)s ") + "%(levelname)-7s %(name)s: %(message)s",
    )
    logging.getLogger("uvicorn").setLevel(logging.WARNING)
