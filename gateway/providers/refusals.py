"""What an answer that is no answer means to us."""

from __future__ import annotations

import time
from collections.abc import Collection, Mapping

from gateway.errors import (
    BodyTooLarge,
    ContextLengthExceeded,
    GatewayError,
    InvalidRequest,
    UpstreamBroken,
    UpstreamBusy,
    UpstreamCold,
    UpstreamError,
    UpstreamGone,
    UpstreamKeyRefused,
    UpstreamOverloaded,
    UpstreamRefused,
    UpstreamTimeout,
    UpstreamUnpaid,
)
from gateway.wire.error_body import Said, says_too_long
from gateway.wire.limits import parse_retry_after

Meanings = Mapping[int | str, type[GatewayError]]
"""By status, or by the code or type that the body names, which counts for more."""

MEANINGS: Meanings = {
    400: InvalidRequest,
    401: UpstreamKeyRefused,
    402: UpstreamUnpaid,
    403: UpstreamKeyRefused,
    404: UpstreamGone,
    408: UpstreamTimeout,
    410: UpstreamGone,
    413: BodyTooLarge,
    422: InvalidRequest,
    429: UpstreamBusy,
    504: UpstreamTimeout,
    529: UpstreamOverloaded,
    "insufficient_quota": UpstreamUnpaid,
    "model_not_found": UpstreamGone,  # some say 400: the name is from our config
    "model_not_available": UpstreamGone,
    "model_decommissioned": UpstreamGone,
    "rate_limit_exceeded": UpstreamBusy,
    "unavailable": UpstreamOverloaded,  # a replica of ours drains
}
"""Where no dialect says otherwise. A bare 503 does not tell whether the work had begun, so it
counts as if it had, unless it says when to come back; a dialect whose 503 is a refusal says so."""

_WORDS: Mapping[type[GatewayError], str] = {
    UpstreamKeyRefused: "the endpoint refused the gateway's key",
    UpstreamUnpaid: "the gateway's account at the endpoint is used up",
    UpstreamGone: "the endpoint no longer has the model",
    UpstreamTimeout: "the endpoint took too long",
    UpstreamBusy: "the endpoint is at its limit",
    UpstreamOverloaded: "the endpoint has no room",
    UpstreamCold: "the endpoint is starting",
    UpstreamBroken: "the endpoint reported an error in its answer",
}


def refusal(
    status: int,
    headers: Mapping[str, str],
    said: Said,
    meanings: Meanings,
    too_long: Collection[int] = (),
) -> GatewayError:
    """The caller's own mistakes go back to the caller with the endpoint's words. Everything else is
    between us and the endpoint: keys, models and capacity are not the caller's to mend, and the
    endpoint's words could tell of ours.

    `too_long` are the statuses that may tell of a context, for whoever reads the message.
    """
    words = said.message or "the endpoint refused the request"
    if status in (400, 413, 422, *too_long) and says_too_long(said):
        return ContextLengthExceeded(words, param=said.param)
    meaning = _meaning(status, said, {**MEANINGS, **meanings})
    if not issubclass(meaning, UpstreamError):
        return meaning(words, param=said.param)
    retry_after_s = parse_retry_after(headers, time.time())
    if retry_after_s is None:
        retry_after_s = said.retry_after_s
    if meaning is UpstreamRefused and status == 503 and retry_after_s is not None:
        meaning = UpstreamOverloaded
    words = _WORDS.get(meaning, f"the endpoint answered with status {status}")
    return meaning(words, retry_after_s=retry_after_s)


def _meaning(status: int, said: Said, meanings: Meanings) -> type[GatewayError]:
    for told in (said.code, said.type, status):
        if told is not None and told in meanings:
            return meanings[told]
    return UpstreamRefused
