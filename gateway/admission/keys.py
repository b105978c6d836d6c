"""API keys: who asks. Only digests are kept; a key is compared by its digest, in constant time
with respect to the key, since a guess changes all of the digest's bits."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from hashlib import sha256

from gateway.domain import Principal
from gateway.errors import InvalidKey

OPEN = Principal(tenant="default", key_name="none", may_explain=True)
"""Everyone, where no keys are configured; such a gateway listens on loopback only."""


@dataclass(frozen=True, slots=True)
class Key:
    name: str
    tenant: str
    key: str = field(repr=False)
    models: frozenset[str] | None = None
    explain: bool = False
    data_policy: str | None = None
    request_class: str = "standard"
    admin: bool = False

    def principal(self) -> Principal:
        return Principal(
            self.tenant,
            self.name,
            self.models,
            self.explain,
            self.data_policy,
            self.request_class,
            self.admin,
        )


class KeyRing:
    def __init__(self, keys: Iterable[Key]) -> None:
        self._principals: Mapping[bytes, Principal] = {
            _digest(key.key): key.principal() for key in keys
        }

    def identify(self, authorization: str | None) -> Principal:
        """Whose request this is, from its `authorization` header. Raises InvalidKey."""
        if not self._principals:
            return OPEN
        if not authorization:
            raise InvalidKey("you must provide an API key: 'authorization: Bearer …'")
        scheme, _, key = authorization.partition(" ")
        principal = self._principals.get(_digest(key.strip()))
        if scheme.lower() != "bearer" or principal is None:
            raise InvalidKey("the API key is not known here")
        return principal


def _digest(key: str) -> bytes:
    return sha256(key.encode("utf-8", "surrogateescape")).digest()
