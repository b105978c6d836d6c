"""What is checked before a request is read. A reload of the config puts other values here."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from starlette.datastructures import Headers
from starlette.types import Scope

from gateway.admission.keys import OPEN, KeyRing
from gateway.domain import Principal
from gateway.errors import Forbidden
from gateway.front.body import BodyLimits

PRINCIPAL = "gateway.principal"
"""In the scope of a request that did not come over a connection: see `inside.py`."""


@dataclass
class Door:
    ring: KeyRing
    limits: BodyLimits
    secret: bytes = field(default=b"", repr=False)  # keys the tenants' salts and prefixes

    def principal(self, scope: Scope, headers: Mapping[str, str] | None = None) -> Principal:
        """Whose request this is: by its key, or as this gateway says of its own. Raises
        InvalidKey."""
        ours: Principal | None = scope.get(PRINCIPAL)
        return ours or self.identify(Headers(scope=scope) if headers is None else headers)

    def identify(self, headers: Mapping[str, str]) -> Principal:
        """By `Authorization`, or else by Anthropic's header. Raises InvalidKey."""
        given = headers.get("authorization")
        if given is None and "x-api-key" in headers:
            given = f"Bearer {headers['x-api-key']}"
        return self.ring.identify(given)

    def admit_admin(self, authorization: str | None) -> Principal:
        """Who may see what others did. Raises InvalidKey, Forbidden."""
        principal = self.ring.identify(authorization)
        if principal is not OPEN and not principal.admin:
            raise Forbidden(
                "this key may not see it: the config says `admin: true` of one that may"
            )
        return principal
