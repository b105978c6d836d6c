"""Limits as JSON says them, in the words that the config has for them."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from dataclasses import asdict, fields

from gateway.admission.limits import UNLIMITED, Dollars, Limits, Windows

WHAT = tuple(field.name for field in fields(Limits))


def read_limits(raw: object) -> Limits:
    """Raises ValueError, with the path of what is wrong."""
    given = _named(raw, WHAT, "limits")
    concurrent = given.get("concurrent")
    if concurrent is not None and type(concurrent) is not int:
        raise ValueError("limits.concurrent must be an integer")
    try:
        return Limits(
            Windows(**_numbers(given.get("requests"), Windows, "limits.requests")),
            Windows(**_numbers(given.get("tokens"), Windows, "limits.tokens")),
            concurrent,
            Dollars(**_numbers(given.get("dollars"), Dollars, "limits.dollars")),
        )
    except ValueError as error:
        told = str(error)
        raise ValueError(told if told.startswith("limits") else f"limits: {told}") from None


def shown_limits(limits: Limits) -> dict[str, object]:
    """What is limited, and nothing of what is not."""
    return {} if limits == UNLIMITED else _said(asdict(limits))


def _said(raw: Mapping[str, object]) -> dict[str, object]:
    inner = {k: _said(v) if isinstance(v, dict) else v for k, v in raw.items()}
    return {key: value for key, value in inner.items() if value not in (None, {})}


def _numbers(
    raw: object, windows: type[Windows] | type[Dollars], path: str
) -> dict[str, float | None]:
    given = _named(raw, tuple(field.name for field in fields(windows)), path)
    for name, value in given.items():
        if value is not None and not _is_number(value):
            raise ValueError(f"{path}.{name} must be a number")
    return {name: None if value is None else float(value) for name, value in given.items()}  # type: ignore[arg-type]


def _is_number(value: object) -> bool:
    """One that a float can be."""
    if not isinstance(value, int | float) or isinstance(value, bool):
        return False
    return abs(value) <= sys.float_info.max


def _named(raw: object, known: tuple[str, ...], path: str) -> Mapping[str, object]:
    if raw is None:
        return {}
    if not isinstance(raw, dict):
        raise ValueError(f"{path} must be an object")
    for name in raw:
        if name not in known:
            raise ValueError(f"{path} has no {name[:100]!r}; it has: {', '.join(known)}")
    return raw
