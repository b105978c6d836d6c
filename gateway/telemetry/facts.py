"""What is read off an outcome in more than one place: spans, metrics, the ledger, the dashboard."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from enum import StrEnum

from gateway.domain import Attempt, Considered, Operation, Outcome, Usage, first_choice

OPERATIONS = {
    Operation.CHAT: "chat",
    Operation.COMPLETION: "text_completion",
    Operation.EMBEDDINGS: "embeddings",
}
"""OpenTelemetry's words for them."""


CACHE = "cache"
"""Where an answer came from that no endpoint was asked for."""


def model_of(outcome: Outcome) -> str | None:
    """The model that answered, or was to. A name that nobody serves is the caller's text, which may
    be anything, and is told nowhere; only of others there is a decision, or an answer to find."""
    if outcome.request is None or not (outcome.attempts or outcome.decided or outcome.cache):
        return None
    return outcome.request.model


def place_of(outcome: Outcome) -> str | None:
    """The endpoint that answered, or was the last to try; CACHE."""
    if outcome.answering is not None:
        return outcome.answering.endpoint
    return CACHE if outcome.cache == "hit" else None


def cost_usd(outcome: Outcome) -> float:
    """What all of its attempts cost us."""
    return sum([attempt.billed_usd for attempt in outcome.attempts])


class Reason(StrEnum):
    """Why an endpoint was chosen."""

    NOBODY = "no_candidate"  # every endpoint was dropped
    ONLY = "only_candidate"
    CACHED = "cached_prefix"  # the lowest cost, and more of the prompt cached than anywhere else
    COST = "lowest_cost"
    ROOM = "had_room"  # those before it were full
    PICKER = "picker"  # not the lowest cost: the policy's picker had its own way


def reason(considered: Sequence[Considered]) -> Reason:
    ranked = [c for c in considered if c.dropped_by is None]
    if len(ranked) < 2:
        return Reason.ONLY if ranked else Reason.NOBODY
    chosen, *others = ranked
    if first_choice(ranked) is not chosen:
        return Reason.ROOM
    if chosen.cost > min([other.cost for other in others]):
        return Reason.PICKER
    if chosen.cached_tokens > max([other.cached_tokens for other in others]):
        return Reason.CACHED
    return Reason.COST


def forecast(
    attempt: Attempt | None, usage: Usage | None
) -> Mapping[str, tuple[float, float | None]]:
    """Of the attempt that answered: what the policy expected, and what came; None is not known."""
    if attempt is None or attempt.first_event is None:
        return {}
    return {
        "ttft_s": (attempt.expected_ttft_s, attempt.first_event - attempt.started),
        "cached_tokens": (attempt.expected_cached_tokens, usage.cached_tokens if usage else None),
        "cost_usd": (
            attempt.expected_cost_usd,
            None if attempt.billed_by is None else attempt.billed_usd,
        ),
    }
