"""
Every failure a caller can see, with the status and code that make the OpenAI SDKs raise the
right exception, and whose failure it is. The gateway and its replica both answer from this tree.

GatewayError                    500 server_error             ours, as is what stands in no branch
├── CallersFault                400 invalid_request_error    the caller's to mend, or to pay for
│   ├── InvalidRequest          400 invalid_request_error
│   │   ├── ContextLengthExceeded  400 context_length_exceeded
│   │   ├── UnsupportedRequest  400 unsupported_request      no endpoint of the model can do it
│   │   └── PreviousResponseNotFound  400 previous_response_not_found
│   ├── InvalidKey              401 invalid_api_key
│   ├── BudgetExhausted         402 budget_exhausted
│   ├── Forbidden               403 permission_denied
│   ├── NotFound                404 not_found
│   │   └── ModelNotFound       404 model_not_found
│   ├── NotSupported            501 not_supported            nobody here can do it
│   ├── RequestTimeout          408 request_timeout
│   ├── BodyTooLarge            413 request_too_large
│   └── RateLimited             429 rate_limit_exceeded
├── NoCandidate                 503 no_endpoint_available
├── DeadlineExceeded            504 deadline_exceeded        the client's, or the server's
├── Unavailable                 503 unavailable              (draining, loading)
├── Overloaded                  503 overloaded               no place in the queue, or none in time
└── UpstreamError               502 upstream_error           the provider's
    ├── UpstreamUnreachable     502 upstream_unreachable     nothing was sent
    ├── UpstreamTimeout         504 upstream_timeout
    ├── UpstreamRefused         502 upstream_refused         an answer, but not a good one
    │   ├── UpstreamKeyRefused  502 upstream_key_refused     our key, not the caller's
    │   ├── UpstreamUnpaid      502 upstream_unpaid          our account there
    │   └── UpstreamGone        502 upstream_gone            the model is no longer there
    ├── UpstreamBusy            429 rate_limit_exceeded      its limit, not the caller's
    ├── UpstreamOverloaded      503 upstream_overloaded      no room, whoever asks
    │   └── UpstreamCold        503 upstream_cold            scaled to zero, or starting
    └── UpstreamBroken          502 upstream_broken          the answer stopped or made no sense
"""

from __future__ import annotations

from collections.abc import Sequence
from enum import StrEnum
from typing import ClassVar, Self


class Fault(StrEnum):
    """Whose failure it was, and so who does not pay for it."""

    CALLER = "caller"
    PROVIDER = "provider"
    OURS = "ours"


class GatewayError(Exception):
    """`message` is for the caller: it holds no key, no prompt and no upstream address."""

    status: ClassVar[int] = 500
    type: ClassVar[str] = "server_error"
    code: ClassVar[str | None] = "server_error"
    fault: ClassVar[Fault] = Fault.OURS

    def __init__(
        self, message: str, *, param: str | None = None, retry_after_s: float | None = None
    ) -> None:
        super().__init__(message)
        self.message = message
        self.param = param
        self.retry_after_s = retry_after_s

    def body(self) -> dict[str, dict[str, str | None]]:
        """The OpenAI error object: all four keys, always."""
        return {
            "error": {
                "message": self.message,
                "type": self.type,
                "param": self.param,
                "code": self.code,
            }
        }


class CallersFault(GatewayError):
    status, type, code = 400, "invalid_request_error", "invalid_request_error"
    fault = Fault.CALLER


class InvalidRequest(CallersFault):
    """Of what stands in the request itself."""


class ContextLengthExceeded(InvalidRequest):
    code = "context_length_exceeded"
    limit: int | None = None
    """Tokens that the endpoint takes, where that is known."""


class UnsupportedRequest(InvalidRequest):
    code = "unsupported_request"


class PreviousResponseNotFound(InvalidRequest):
    code = "previous_response_not_found"


class InvalidKey(CallersFault):
    status, code = 401, "invalid_api_key"


class BudgetExhausted(CallersFault):
    status, type, code = 402, "budget_error", "budget_exhausted"


class Forbidden(CallersFault):
    status, code = 403, "permission_denied"


class NotFound(CallersFault):
    status, code = 404, "not_found"


class ModelNotFound(NotFound):
    code = "model_not_found"

    @classmethod
    def among(cls, usable: Sequence[str], asked: str) -> Self:
        """Names what this key may use; of what was asked, no more than a line."""
        names = ", ".join(usable) or "none"
        return cls(
            f"there is no model {asked[:100]!r} for this key; it may use: {names}", param="model"
        )


class NotSupported(CallersFault):
    status, code = 501, "not_supported"


class RequestTimeout(CallersFault):
    status, code = 408, "request_timeout"


class BodyTooLarge(CallersFault):
    status, code = 413, "request_too_large"


class RateLimited(CallersFault):
    status, type, code = 429, "rate_limit_error", "rate_limit_exceeded"


class NoCandidate(GatewayError):
    status, code = 503, "no_endpoint_available"


class DeadlineExceeded(GatewayError):
    status, code = 504, "deadline_exceeded"


class Unavailable(GatewayError):
    status, code = 503, "unavailable"


class Overloaded(GatewayError):
    status, code = 503, "overloaded"


class UpstreamError(GatewayError):
    status, type, code = 502, "upstream_error", "upstream_error"
    fault = Fault.PROVIDER
    took_work: ClassVar[bool] = True
    """The endpoint may have begun on the request, so that to ask again is to load twice."""
    repeatable: ClassVar[bool] = True
    """To ask again later may help. False: only the operator can."""


class UpstreamUnreachable(UpstreamError):
    code = "upstream_unreachable"
    took_work = False


class UpstreamTimeout(UpstreamError):
    status, code = 504, "upstream_timeout"


class UpstreamRefused(UpstreamError):
    code = "upstream_refused"


class UpstreamKeyRefused(UpstreamRefused):
    code = "upstream_key_refused"
    took_work = repeatable = False


class UpstreamUnpaid(UpstreamRefused):
    code = "upstream_unpaid"
    took_work = repeatable = False


class UpstreamGone(UpstreamRefused):
    code = "upstream_gone"
    took_work = repeatable = False


class UpstreamBusy(UpstreamError):
    status, type, code = 429, "rate_limit_error", "rate_limit_exceeded"
    took_work = False


class UpstreamOverloaded(UpstreamError):
    status, code = 503, "upstream_overloaded"
    took_work = False


class UpstreamCold(UpstreamOverloaded):
    code = "upstream_cold"


class UpstreamBroken(UpstreamError):
    code = "upstream_broken"
