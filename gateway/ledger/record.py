"""
One exchange as the ledger keeps it. Two numbers, never mixed:

- *usage* is what the client's answer contains, and what its tenant is charged for;
- *billed* is what each attempt cost us, told by the endpoint or estimated and marked so.

No prompt, no answer, no key. `blocks` names the beginnings of the prompt by keyed hashes, whose key
is forgotten when the process ends: enough to see which prompts began alike, for `gateway replay`.
"""

from __future__ import annotations

from collections.abc import Sequence
from enum import StrEnum
from typing import NamedTuple

from gateway.domain import Attempt, Ended, Outcome, PrefixKey
from gateway.telemetry.facts import cost_usd, model_of, place_of, reason

MAX_BLOCKS = 512
DIGEST = 8  # bytes of each block's hash


class Billed(NamedTuple):
    """One attempt. Seconds count from its own start; tokens are None where nobody told them."""

    endpoint: str
    began_s: float  # after the exchange's start
    first_event_s: float | None
    total_s: float
    error: str | None
    resumed: bool  # it took up an answer that had broken off
    hedge: bool  # it was sent while another was waited for
    prompt_tokens: int | None
    cached_tokens: int | None
    completion_tokens: int | None
    billed_by: str | None  # report, tariff, estimate; None: nothing was begun, nothing is owed
    billed_usd: float
    expected_ttft_s: float
    expected_cached_tokens: int
    expected_cost_usd: float


class Record(NamedTuple):
    """Attempts last: all before them is a row."""

    at: float  # seconds since 1970, when the request came
    request_id: str
    trace_id: str
    tenant: str
    key_name: str
    model: str  # that the client asked for; "-" if nobody serves it
    served: str  # that answered
    endpoint: str  # that answered, or was tried last; "cache": an answer given again
    operation: str
    stream: bool
    policy: str
    policy_version: str
    reason: str
    ended: str
    status: int | None
    error: str | None
    fault: str | None  # of a failure: caller, provider, ours
    first_event_s: float | None
    total_s: float
    prompt_tokens: int | None
    cached_tokens: int | None
    completion_tokens: int | None
    estimated: bool  # the tokens are ours to guess: the answer broke off before they were told
    charged_usd: float  # to the tenant
    cost_usd: float  # to us: all attempts
    prompt_size: int  # bytes, as `blocks` has them
    blocks: bytes
    attempts: tuple[Billed, ...]

    @classmethod
    def of(cls, outcome: Outcome, at: float) -> Record:
        request, served, trace = outcome.request, model_of(outcome), outcome.trace
        tokens = _tokens(outcome)
        return cls(
            at=at,
            request_id=outcome.request_id,
            trace_id=f"{trace.trace_id:032x}" if trace else "",
            tenant=outcome.principal.tenant,
            key_name=outcome.principal.key_name,
            model=outcome.model or "-" if served else "-",
            served=served or "-",
            endpoint=place_of(outcome) or "-",
            operation=str(outcome.operation or "-"),
            stream=request is not None and request.stream,
            policy=outcome.policy or "-",
            policy_version=outcome.policy_version,
            reason=str(reason(outcome.considered)) if outcome.decided else "-",
            ended=str(outcome.ended),
            status=outcome.status,
            error=outcome.error,
            fault=_text(outcome.fault),
            first_event_s=outcome.first_event_s,
            total_s=outcome.total_s,
            prompt_tokens=tokens.prompt,
            cached_tokens=tokens.cached,
            completion_tokens=tokens.completion,
            estimated=tokens.estimated,
            charged_usd=charged_usd(outcome),
            cost_usd=cost_usd(outcome),
            prompt_size=request.prompt_size if request else 0,
            blocks=_blocks(request.prefix) if request else b"",
            attempts=tuple([_billed(outcome.started, attempt) for attempt in outcome.attempts]),
        )


def charged_usd(outcome: Outcome) -> float:
    """What the tenant owes. A failure of ours or the provider's costs it nothing, nor does an
    attempt that another had to make up for; who hangs up pays for what was done by then."""
    if outcome.ended is Ended.FAILED or outcome.answering is None:
        return 0.0
    return outcome.answering.billed_usd


class _Tokens(NamedTuple):
    prompt: int | None = None
    cached: int | None = None
    completion: int | None = None
    estimated: bool = False


def _tokens(outcome: Outcome) -> _Tokens:
    """Of the answer, as far as the client has it."""
    usage = outcome.usage
    if usage is not None:
        return _Tokens(usage.prompt_tokens, usage.cached_tokens, usage.completion_tokens)
    last = outcome.answering
    if last is None or last.first_event is None:
        return _Tokens()
    chosen = next((c for c in outcome.considered if c.endpoint == last.endpoint), None)
    prompt = chosen.cached_tokens + chosen.uncached_tokens if chosen else None
    # Endpoints send about one event for each token, and one more when they begin or end.
    return _Tokens(prompt, None, outcome.events, estimated=True)


def _billed(began: float, attempt: Attempt) -> Billed:
    usage, started = attempt.billed, attempt.started
    return Billed(
        endpoint=attempt.endpoint,
        began_s=started - began,
        first_event_s=attempt.ttft_s,
        total_s=(attempt.last_event or started) - started,
        error=attempt.error,
        resumed=attempt.resumed,
        hedge=attempt.hedge,
        prompt_tokens=usage.prompt_tokens if usage else None,
        cached_tokens=usage.cached_tokens if usage else None,
        completion_tokens=usage.completion_tokens if usage else None,
        billed_by=_text(attempt.billed_by),
        billed_usd=attempt.billed_usd,
        expected_ttft_s=attempt.expected_ttft_s,
        expected_cached_tokens=attempt.expected_cached_tokens,
        expected_cost_usd=attempt.expected_cost_usd,
    )


def _blocks(prefix: Sequence[PrefixKey]) -> bytes:
    """Size and digest of each beginning of the prompt that the placement index knows by a key."""
    return b"".join(
        [key.size.to_bytes(4, "big") + key.digest[:DIGEST] for key in prefix[:MAX_BLOCKS]]
    )


def _text(code: StrEnum | None) -> str | None:
    """A plain string, which SQLite takes as it is: of any other type it asks what it may become."""
    return None if code is None else str(code)
