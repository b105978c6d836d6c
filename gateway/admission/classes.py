"""How urgent a request is: as its key says, or less if its caller asks for that."""

from __future__ import annotations

from collections.abc import Mapping

from gateway.domain import CLASSES, Principal
from gateway.errors import Forbidden, InvalidRequest

CLASS = "x-gateway-class"


def asked_class(principal: Principal, headers: Mapping[str, str]) -> str:
    """Raises InvalidRequest, Forbidden."""
    own = principal.request_class
    asked = headers.get(CLASS, own)
    if asked not in CLASSES:
        raise InvalidRequest(f"{CLASS} must be one of: {', '.join(CLASSES)}", param=CLASS)
    if CLASSES.index(asked) < CLASSES.index(own):
        raise Forbidden(f"this key's requests are {own}, or less urgent", param=CLASS)
    return asked
