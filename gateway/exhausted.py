"""What a client hears when nobody answered: one error for what several endpoints said."""

from __future__ import annotations

from collections.abc import Mapping

from gateway.errors import (
    ContextLengthExceeded,
    GatewayError,
    NoCandidate,
    UpstreamBusy,
    UpstreamError,
    UpstreamOverloaded,
)

SOON_S = 1.0
"""When to come back where nobody has said so."""


def exhausted(model: str, said: Mapping[str, GatewayError]) -> GatewayError:
    """`said`: the last word of each endpoint that was asked or rests. Classes only: the words of an
    endpoint could tell of our keys and addresses.

    The most telling class is the one that gives the client most to do: to come back after a time,
    then to come back at all. A prompt that is too long counts only when nobody said anything else.
    """
    upstream = {name: error for name, error in said.items() if isinstance(error, UpstreamError)}
    if not upstream:
        too_long = [e for e in said.values() if isinstance(e, ContextLengthExceeded)]
        return next(
            iter(too_long),
            NoCandidate(f"no endpoint of {model!r} is available", retry_after_s=SOON_S),
        )
    telling = min(upstream.values(), key=_rank)
    told = ", ".join(f"{name}: {error.code}" for name, error in upstream.items())
    waits = [e.retry_after_s for e in upstream.values() if e.retry_after_s is not None]
    wait = min(waits, default=SOON_S if _rank(telling) < 2 else None)
    return type(telling)(f"{telling.message} ({told})", retry_after_s=wait)


def _rank(error: UpstreamError) -> int:
    if isinstance(error, UpstreamBusy):
        return 0
    if isinstance(error, UpstreamOverloaded):
        return 1
    return 2 if error.repeatable else 3
