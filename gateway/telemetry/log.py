"""One line per exchange, and how all lines look. Never a prompt, a key or an answer."""

from __future__ import annotations

import logging
import sys

from gateway.domain import Outcome

logger = logging.getLogger("gateway.exchange")


class ExchangeLog:
    def settled(self, outcome: Outcome) -> None:
        usage = outcome.usage
        logger.info(
            "%s %s tenant=%s model=%s tried=%s tokens=%s first_s=%s total_s=%s%s",
            outcome.request_id,
            outcome.ended,
            outcome.principal.tenant,
            # A name that nobody serves is the caller's text, and could be anything.
            outcome.model if outcome.attempts else "-",
            ",".join(attempt.endpoint for attempt in outcome.attempts) or "-",
            f"{usage.prompt_tokens}({usage.cached_tokens})+{usage.completion_tokens}"
            if usage
            else "-",
            _seconds(
                outcome.started, outcome.attempts[-1].first_event if outcome.attempts else None
            ),
            _seconds(outcome.started, outcome.finished),
            f" error={outcome.error}" if outcome.error else "",
        )


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
