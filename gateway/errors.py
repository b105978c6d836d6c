"""
Every failure a caller can see, with the status and code that make the OpenAI SDKs raise the
right exception. The gateway and its replica both answer from this tree.

GatewayError                    500 server_error
├── InvalidRequest              400 invalid_request_error
│   ├── ContextLengthExceeded   400 context_length_exceeded
│   ├── UnsupportedRequest      400 unsupported_request      no endpoint of the model can do it
│   └── PreviousResponseNotFound  400 previous_response_not_found
├── InvalidKey                  401 invalid_api_key
├── BudgetExhausted             402 budget_exhausted
├── Forbidden                   403 permission_denied
├── NotFound                    404 not_found
│   └── ModelNotFound           404 model_not_found
├── NotSupported                501 not_supported            nobody here can do it
├── RequestTimeout              408 request_timeout
├── BodyTooLarge                413 request_too_large
├── RateLimited                 429 rate_limit_exceeded
├── NoCandidate                 503 no_endpoint_available
├── DeadlineExceeded            504 deadline_exceeded        the client's, or the server's
├── Unavailable                 503 unavailable              (draining, loading)
├── Overloaded                  503 overloaded               no place in the queue, or none in time
└── UpstreamError               502 upstream_error
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
from typing import ClassVar, Self


class GatewayError(Exception):
    """`message` is for the caller: it holds no key, no prompt and no upstream address."""

    status: ClassVar[int] = 500
    type: ClassVar[str] = "server_error"
    code: ClassVar[str | None] = "server_error"

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


class InvalidRequest(GatewayError):
    status, type, code = 400, "invalid_request_error", "invalid_request_error"


class ContextLengthExceeded(InvalidRequest):
    code = "context_length_exceeded"
    limit: int | None = None
    """Tokens that the endpoint takes, where that is known."""


class UnsupportedRequest(InvalidRequest):
    code = "unsupported_request"


class PreviousResponseNotFound(InvalidRequest):
    code = "previous_response_not_found"


class InvalidKey(GatewayError):
    status, type, code = 401, "invalid_request_error", "invalid_api_key"


class BudgetExhausted(GatewayError):
    status, type, code = 402, "budget_error", "budget_exhausted"


class Forbidden(GatewayError):
    status, type, code = 403, "invalid_request_error", "permission_denied"


class NotFound(GatewayError):
    status, type, code = 404, "invalid_request_error", "not_found"


class ModelNotFound(NotFound):
    code = "model_not_found"

    @classmethod
    def among(cls, usable: Sequence[str], asked: str) -> Self:
        """Names what this key may use; of what was asked, no more than a line."""
        names = ", ".join(usable) or "none"
        return cls(
            f"there is no model {asked[:100]!r} for this key; it may use: {names}", param="model"
        )


class NotSupported(GatewayError):
    status, type, code = 501, "invalid_request_error", "not_supported"


class RequestTimeout(GatewayError):
    status, type, code = 408, "invalid_request_error", "request_timeout"


class BodyTooLarge(GatewayError):
    status, type, code = 413, "invalid_request_error", "request_too_large"


class RateLimited(GatewayError):
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
