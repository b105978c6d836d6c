"""API keys: who asks. Only digests are kept; a key is compared by its digest, in constant time
with respect to the key, since a guess changes all of the digest's bits. A digest without a salt is
enough for keys that are drawn at random; one that a person thought up should be long."""

from __future__ import annotations

import math
import re
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from hashlib import sha256

from gateway.admission.limits import UNLIMITED, Limits
from gateway.domain import Principal
from gateway.errors import InvalidKey, Unavailable

OPEN = Principal(tenant="default", key_name="none", may_explain=True)
"""Everyone, where no keys are configured; such a gateway listens on loopback only."""


PREFIX = "gw-"
"""Begins every key that we make, so that a leaked one is recognised for what it is."""

HASHED = re.compile(r"sha256:([0-9a-f]{64})")

NAMED = "must be 1 to 200 printable characters"
"""A name of a key, a tenant, an endpoint or a model: headers, logs and labels carry it."""


def is_name(name: object) -> bool:
    return isinstance(name, str) and 0 < len(name) <= 200 and name.isprintable()


@dataclass(frozen=True, slots=True)
class Key:
    name: str
    tenant: str
    key: str = field(repr=False)  # the key itself, or `sha256:` and its digest in hex
    models: frozenset[str] | None = None
    explain: bool = False
    data_policy: str | None = None
    request_class: str = "standard"
    policies: frozenset[str] | None = None
    endpoints: frozenset[str] | None = None
    admin: bool = False
    expires: float = math.inf  # Unix seconds
    limits: Limits = UNLIMITED

    @property
    def digest(self) -> bytes:
        hashed = HASHED.fullmatch(self.key)
        return bytes.fromhex(hashed[1]) if hashed else _digest(self.key)

    def principal(self) -> Principal:
        return Principal(
            self.tenant,
            self.name,
            self.models,
            self.explain,
            self.data_policy,
            self.request_class,
            self.policies,
            self.endpoints,
            self.admin,
        )


class KeyRing:
    """With no keys at all, everyone is let in; with some that have all expired, nobody. `unsure`:
    there may be made keys that are not here, since their store cannot be read."""

    def __init__(
        self, keys: Iterable[Key], wall: Callable[[], float] = time.time, *, unsure: bool = False
    ) -> None:
        self._keys: Mapping[bytes, tuple[Principal, float]] = {
            key.digest: (key.principal(), key.expires) for key in keys
        }
        self._wall = wall
        self._unsure = unsure

    def identify(self, authorization: str | None) -> Principal:
        """Whose request this is, by its `authorization`. Raises InvalidKey, Unavailable."""
        if not self._keys:
            return OPEN
        if not authorization:
            raise InvalidKey("you must provide an API key: 'authorization: Bearer …'")
        scheme, _, key = authorization.partition(" ")
        principal, expires = self._keys.get(_digest(key.strip()), (OPEN, -math.inf))
        if self._unsure and expires == -math.inf and key.strip().startswith(PREFIX):
            raise _unsure()
        if scheme.lower() != "bearer" or expires == -math.inf:
            raise InvalidKey("the API key is not known here")
        if expires <= self._wall():
            raise InvalidKey("the API key has expired")
        return principal

    def named(self, tenant: str, name: str) -> Principal:
        """For what is done later, in a key's name. Raises InvalidKey: it is not valid any more;
        Unavailable."""
        if not self._keys:
            return OPEN
        for principal, expires in self._keys.values():
            if (principal.tenant, principal.key_name) == (tenant, name) and expires > self._wall():
                return principal
        if self._unsure:
            raise _unsure()
        raise InvalidKey("the API key that this was asked for with is not valid any more")


def _unsure() -> Unavailable:
    return Unavailable("made keys cannot be checked at the moment", retry_after_s=1.0)


def _digest(key: str) -> bytes:
    return sha256(key.encode("utf-8", "surrogateescape")).digest()
