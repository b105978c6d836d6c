"""
Keys that are made while the gateway runs.

A store holds records without keys: only their digests. Every gateway reads it again each second, so
a key that was revoked anywhere is refused everywhere within `REFRESH_S` and the time of a request.
"""

from __future__ import annotations

import asyncio
import fcntl
import json
import logging
import os
import secrets
import tempfile
from collections.abc import Callable, Collection, Container, Mapping, Sequence
from dataclasses import asdict, dataclass, fields, replace
from datetime import UTC, datetime
from hashlib import sha256
from pathlib import Path
from typing import Protocol

from gateway.admission.keys import HASHED, NAMED, PREFIX, Key, is_name
from gateway.admission.limits import UNLIMITED, Limits
from gateway.admission.limits_json import read_limits, shown_limits
from gateway.domain import CLASSES, Json
from gateway.errors import InvalidRequest, NotFound
from routing_policies.base import DATA_POLICIES

logger = logging.getLogger(__name__)

REFRESH_S = 1.0
MISSES = 3
"""Looks in a row that may fail before a store counts as away for those who fail closed: a key that
was revoked meanwhile is refused within five seconds there too."""


@dataclass(frozen=True, slots=True)
class KeyRecord:
    """What a store has of a key. `hash` is `sha256:` and the digest in hex."""

    id: str
    name: str
    hash: str
    created: str  # ISO 8601, UTC
    tenant: str = "default"
    models: tuple[str, ...] | None = None
    policies: tuple[str, ...] | None = None
    endpoints: tuple[str, ...] | None = None
    explain: bool = False
    admin: bool = False
    data_policy: str | None = None
    request_class: str = "standard"
    expires: str | None = None  # ISO 8601
    limits: Limits = UNLIMITED

    def __post_init__(self) -> None:
        for name in ("id", "name", "tenant"):
            if not is_name(getattr(self, name)):
                raise ValueError(f"{name} {NAMED}")
        for name in ("models", "policies", "endpoints"):
            value = getattr(self, name)
            if value is not None and not (
                isinstance(value, tuple) and all(isinstance(v, str) for v in value)
            ):
                raise ValueError(f"{name} must be a list of names")
        for name in ("explain", "admin"):
            if not isinstance(getattr(self, name), bool):
                raise ValueError(f"{name} must be true or false")
        if self.data_policy not in (None, *DATA_POLICIES):
            raise ValueError(f"data_policy must be one of: {', '.join(DATA_POLICIES)}")
        if self.request_class not in CLASSES:
            raise ValueError(f"request_class must be one of: {', '.join(CLASSES)}")
        if not HASHED.fullmatch(self.hash):
            raise ValueError("hash must be sha256: and 64 hexadecimal digits")
        self.expires_s()

    def expires_s(self) -> float:
        """Unix seconds. Raises ValueError."""
        if self.expires is None:
            return float("inf")
        if not isinstance(self.expires, str):
            raise ValueError("expires must be a time like 2027-12-31 or 2027-12-31T12:00:00Z")
        try:
            when = datetime.fromisoformat(self.expires)
        except ValueError:
            raise ValueError(
                "expires must be a time like 2027-12-31 or 2027-12-31T12:00:00Z"
            ) from None
        return (when if when.tzinfo else when.replace(tzinfo=UTC)).timestamp()

    def key(self) -> Key:
        return Key(
            self.name,
            self.tenant,
            self.hash,
            _all_or(self.models),
            self.explain,
            self.data_policy,
            self.request_class,
            _all_or(self.policies),
            _all_or(self.endpoints),
            self.admin,
            self.expires_s(),
            self.limits,
        )

    def written(self) -> dict[str, object]:
        """What a store holds."""
        return {**asdict(self), "limits": shown_limits(self.limits)}

    def shown(self) -> dict[str, object]:
        """For whoever manages keys: all but the digest."""
        shown = self.written()
        del shown["hash"]
        return shown

    @classmethod
    def read(cls, raw: Json) -> KeyRecord:
        """From JSON. Raises ValueError, or TypeError where something is missing."""
        if not isinstance(raw, dict):
            raise ValueError("a key's record must be an object")
        known = {name: value for name, value in raw.items() if name in RECORD}
        for name in ("models", "policies", "endpoints"):
            if isinstance(known.get(name), list):
                known[name] = tuple(known[name])
        known["limits"] = read_limits(known.get("limits"))
        return cls(**known)


RECORD = frozenset(field.name for field in fields(KeyRecord))
GIVEN = RECORD - {"id", "hash", "created"}
"""What whoever makes a key may say of it."""


def _all_or(names: Sequence[str] | None) -> frozenset[str] | None:
    return None if names is None else frozenset(names)


class KeyStore(Protocol):
    """Raises OSError where it cannot be reached."""

    async def records(self) -> list[KeyRecord]: ...
    async def put(self, record: KeyRecord) -> None: ...
    async def replace(self, record: KeyRecord) -> bool:
        """Where its id is still there."""
        ...

    async def remove(self, id: str) -> bool: ...


@dataclass(frozen=True)
class MadeKeys:
    """Make, list, rotate, revoke. A key itself is told once, to whoever made it."""

    store: KeyStore
    named: Callable[[], Container[str]] = lambda: ()  # the config's: limits go by a key's name
    known: Callable[[], Mapping[str, Collection[str]]] = dict  # what each scope may name
    now: Callable[[], datetime] = lambda: datetime.now(UTC)

    async def create(self, given: Json) -> tuple[KeyRecord, str]:
        """Raises InvalidRequest."""
        if unknown := sorted(set(given) - GIVEN):
            known = ", ".join(sorted(GIVEN))
            raise InvalidRequest(f"a key has no {unknown[0][:100]!r}; it has: {known}")
        name = given.get("name")
        taken = isinstance(name, str) and name in self.named()
        if taken or any(record.name == name for record in await self.store.records()):
            raise InvalidRequest("there is a key of this name already", param="name")
        key = _new_key()
        made = {"id": secrets.token_hex(6), "hash": hashed(key), "created": self._time()}
        try:
            record = KeyRecord.read({**given, **made})
        except (ValueError, TypeError) as error:
            told = str(error) if isinstance(error, ValueError) else "you must provide 'name'"
            raise InvalidRequest(told) from None
        self._refuse_useless(record)
        await self.store.put(record)
        return record, key

    def _refuse_useless(self, record: KeyRecord) -> None:
        """As in a config: such a name would lock the key's holder out, or be no scope."""
        for scope, names in self.known().items():
            for name in getattr(record, scope) or ():
                if name not in names:
                    told = f"there is no {name[:100]!r} here; known: {', '.join(names)}"
                    raise InvalidRequest(told, param=scope)
        if record.expires_s() <= self.now().timestamp():
            raise InvalidRequest("expires must be a time to come", param="expires")

    async def every(self) -> list[KeyRecord]:
        return sorted(await self.store.records(), key=lambda record: record.name)

    async def rotate(self, id: str) -> tuple[KeyRecord, str]:
        """Another key in its place; the old one is refused from now on. Raises NotFound."""
        key = _new_key()
        record = replace(await self._find(id), hash=hashed(key), created=self._time())
        if not await self.store.replace(record):  # revoked meanwhile
            raise self._missing(id)
        return record, key

    async def revoke(self, id: str) -> KeyRecord:
        """Raises NotFound."""
        record = await self._find(id)
        await self.store.remove(record.id)
        return record

    async def _find(self, id: str) -> KeyRecord:
        for record in await self.store.records():
            if id in (record.id, record.name):
                return record
        raise self._missing(id)

    def _missing(self, id: str) -> NotFound:
        return NotFound(f"there is no key {id[:100]!r} in the store")

    def _time(self) -> str:
        return self.now().isoformat(timespec="seconds")


def _new_key() -> str:
    return PREFIX + secrets.token_urlsafe(32)


def hashed(key: str) -> str:
    return f"sha256:{sha256(key.encode()).hexdigest()}"


@dataclass(frozen=True)
class KeyFile:
    """A JSON file, for gateways on one machine. Written whole, and put in place at once."""

    path: Path

    async def records(self) -> list[KeyRecord]:
        return await asyncio.to_thread(self._read)

    async def put(self, record: KeyRecord) -> None:
        await asyncio.to_thread(self._change, record.id, record)

    async def replace(self, record: KeyRecord) -> bool:
        return await asyncio.to_thread(self._change, record.id, record, only_if_there=True)

    async def remove(self, id: str) -> bool:
        return await asyncio.to_thread(self._change, id, None, only_if_there=True)

    def _change(self, id: str, record: KeyRecord | None, *, only_if_there: bool = False) -> bool:
        with open(self.path.with_name(self.path.name + ".lock"), "a") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)  # until it is closed: other gateways change it too
            known = self._read()
            others = [one for one in known if one.id != id]
            if only_if_there and len(others) == len(known):
                return False
            self._write(others if record is None else [*others, record])
            return True

    def _read(self) -> list[KeyRecord]:
        try:
            raw = json.loads(self.path.read_text())
        except FileNotFoundError:
            return []
        except ValueError:
            raise OSError(f"{self.path} is not JSON") from None
        try:
            return [KeyRecord.read(record) for record in raw]
        except (ValueError, TypeError) as error:
            raise OSError(f"{self.path}: {error}") from None

    def _write(self, records: Sequence[KeyRecord]) -> None:
        text = json.dumps([record.written() for record in records], indent=1) + "\n"
        handle, temporary = tempfile.mkstemp(dir=self.path.parent)  # for our eyes only
        with os.fdopen(handle, "w") as file:
            file.write(text)
        os.replace(temporary, self.path)


async def watch_keys(
    store: KeyStore,
    put_in_force: Callable[[Sequence[Key], bool], None],
    period_s: float = REFRESH_S,
    *,
    closed: bool = False,
) -> None:
    """Never returns. `put_in_force` takes the keys, and whether these are all. While the store is
    away, the keys last read stay in force, or none of them where it fails `closed`."""
    known: list[KeyRecord] | None = None
    missed = 0
    while True:
        try:
            records = await store.records()
        except OSError as error:
            missed += 1
            if missed == 1:
                logger.warning("the key store cannot be read: %s", error)
                put_in_force([record.key() for record in known or ()], False)
            if missed == MISSES and closed:
                logger.warning("made keys are refused until the key store can be read")
                put_in_force([], False)
        else:
            if missed or records != known:
                known, missed = records, 0
                put_in_force([record.key() for record in records], True)
        await asyncio.sleep(period_s)
