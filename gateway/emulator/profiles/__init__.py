"""The profiles, found by walking this folder: one module each, with one or more of them."""

from __future__ import annotations

import importlib
import pkgutil
from functools import cache

from gateway.emulator.profile import Profile


@cache
def profiles() -> dict[str, type[Profile]]:
    """By name, in order."""
    found: dict[str, type[Profile]] = {}
    for module in pkgutil.iter_modules(__path__):
        for value in vars(importlib.import_module(f"{__name__}.{module.name}")).values():
            if isinstance(value, type) and issubclass(value, Profile) and value.name:
                found[value.name] = value
    return dict(sorted(found.items()))
