"""What the emulator does, as the tables that `gateway emulate --list` and the docs show."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import fields

from gateway.emulator.faults import Fault
from gateway.emulator.profiles import profiles
from gateway.emulator.settings import Settings


def behaviours_table() -> str:
    return _table(
        ("profile", "basis", "behaviour"),
        (
            (name, behaviour.basis.value, behaviour.text)
            for name, profile in profiles().items()
            for behaviour in profile.behaviours
        ),
    )


def profiles_table() -> str:
    return _table(
        ("profile", "path", "our reading of"),
        ((name, f"`{p.prefix or '/'}`", p.reads) for name, p in profiles().items()),
    )


def knobs_table() -> str:
    return _table(
        ("knob", "what it does"), ((f"`{f.name}`", f.metadata["does"]) for f in fields(Fault))
    )


def settings_table() -> str:
    rows = ((f"`{setting.name}`", _shown(setting.default)) for setting in fields(Settings))
    return _table(("setting", "default"), rows)


def _shown(default: object) -> str:
    if default == ():
        return "any"
    return "as input" if default is None else f"{default:,}"


def _table(head: tuple[str, ...], rows: Iterable[tuple[str, ...]]) -> str:
    lines = (head, ("---",) * len(head), *rows)
    return "".join(f"| {' | '.join(row)} |\n" for row in lines)
