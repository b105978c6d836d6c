"""What differs between two configs and takes effect only after a restart."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import fields, is_dataclass

from gateway.config.document import KeyPath, dotted
from gateway.config.tree import Config


def needs_restart(old: Config, new: Config) -> list[str]:
    """Key paths, without values: some are secrets."""
    return list(_changes(old, new, ()))


def _changes(old: object, new: object, path: KeyPath) -> Iterator[str]:
    if _live(path) or old == new:
        return
    if type(old) is type(new) and is_dataclass(old):
        for field in fields(old):
            key = field.name
            yield from _changes(getattr(old, key), getattr(new, key), (*path, key))
    elif isinstance(old, dict) and isinstance(new, dict):
        for key in dict.fromkeys((*old, *new)):
            yield from _changes(old.get(key), new.get(key), (*path, key))
    else:
        yield dotted(path)


def _live(path: KeyPath) -> bool:
    """A reload puts it in force."""
    match path:
        case ("policy" | "policies" | "keys" | "tenants" | "queue" | "cache" | "drained",):
            return True
        case ("server", "max_body" | "body_timeout" | "longest_exchange") | (
            "endpoints",
            _,
            "prices",
        ):
            return True
    return False
