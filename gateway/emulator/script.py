"""
Which request meets which fault.

A script is a list of rules; the first that fits a request decides. The admin queue comes before
the script, and the request's own header before both.
"""

from __future__ import annotations

import dataclasses
from collections import deque
from dataclasses import dataclass, field
from pathlib import Path
from random import Random
from typing import Self

from gateway.config.bind import Seconds, bind
from gateway.config.document import Document
from gateway.emulator.faults import NONE, Fault
from gateway.emulator.settings import Settings


class Numbers(str):
    """`3`, `3-5` or `10-`: requests by number, from 1."""

    __slots__ = ()

    @classmethod
    def from_yaml(cls, value: object) -> Self:
        first, dash, last = str(value).partition("-")
        if not first.isdigit() or (last and not last.isdigit()) or int(first) < 1:
            raise ValueError("must be a request's number, from 1, or a range like 3-5 or 10-")
        return cls(value if dash else f"{first}-{first}")

    def covers(self, number: int) -> bool:
        first, _, last = self.partition("-")
        return int(first) <= number and (not last or number <= int(last))


@dataclass(frozen=True, slots=True)
class Rule:
    """All of its conditions must hold; without any it fits every request."""

    fault: Fault
    profile: str | None = None
    requests: Numbers | None = None
    every: int | None = None  # each such request: 3 is every third
    after: Seconds | None = None  # since the emulator's start
    until: Seconds | None = None
    probability: float = 1.0
    model: str | None = None
    stream: bool | None = None

    def __post_init__(self) -> None:
        if not 0 < self.probability <= 1:
            raise ValueError("probability must be above 0, and at most 1")
        if self.every is not None and self.every < 1:
            raise ValueError("every must be at least 1")

    def fits(self, facing: Facing, draws: Random) -> bool:
        return (
            self.profile in (None, facing.profile)
            and (self.requests is None or self.requests.covers(facing.number))
            and (self.every is None or facing.number % self.every == 0)
            and (self.after is None or facing.at_s >= self.after)
            and (self.until is None or facing.at_s < self.until)
            and self.model in (None, facing.model)
            and self.stream in (None, facing.stream)
            and (self.probability == 1 or draws.random() < self.probability)
        )

    @property
    def is_timed_refusal(self) -> bool:
        """The port closes at its time, whether anyone asks or not."""
        return (
            self.fault.refuse is not None
            and self.after is not None
            and all(x is None for x in (self.requests, self.every, self.model, self.stream))
            and self.probability == 1
        )


@dataclass(frozen=True, slots=True)
class Facing:
    """What a rule can see of a request."""

    profile: str
    number: int
    at_s: float
    model: str | None
    stream: bool


@dataclass(frozen=True, slots=True)
class Script:
    rules: tuple[Rule, ...] = ()
    settings: dict[str, dict[str, object]] = field(default_factory=dict)  # profile -> its changes


@dataclass(frozen=True, slots=True)
class _ScriptFile:
    """Settings are bound by themselves, since only those that are written down count."""

    rules: tuple[Rule, ...] = ()
    settings: dict[str, Settings] = field(default_factory=dict)


def read_script(file: Path) -> Script:
    """Raises ConfigError."""
    return _script(Document.read(file))


def parse_script(text: str) -> Script:
    """Raises ConfigError."""
    return _script(Document.parse(text, Path("script")))


def parse_fault(text: str) -> Fault:
    """`{status: 503, retry_after: 2s}`. Raises ConfigError."""
    return bind(Document.parse(text, Path("fault")), Fault, {})


@dataclass(frozen=True, slots=True)
class Queued:
    fault: Fault
    times: int = 1


def parse_queued(text: str) -> Queued:
    """`{fault: {reset: first}, times: 3}`. Raises ConfigError."""
    return bind(Document.parse(text, Path("faults")), Queued, {})


def _script(document: Document) -> Script:
    bound = bind(document, _ScriptFile, {})
    written = document.plain().get("settings") or {}
    changes = {
        profile: {name: getattr(settings, name) for name in written[profile] or {}}
        for profile, settings in bound.settings.items()
    }
    return Script(bound.rules, changes)


class Faults:
    """Chooses for one endpoint."""

    def __init__(self, profile: str, rules: tuple[Rule, ...], seed: int) -> None:
        self._profile = profile
        self._rules = [rule for rule in rules if rule.profile in (None, profile)]
        self._draws = Random(seed)
        self._queue: deque[Fault] = deque()

    @property
    def timed_refusals(self) -> list[tuple[float, float]]:
        """When the port closes by itself, and for how long."""
        timed = (rule for rule in self._rules if rule.is_timed_refusal)
        return [(float(rule.after or 0), float(rule.fault.refuse or 0)) for rule in timed]

    def queue(self, fault: Fault, times: int = 1) -> None:
        """The next `times` requests meet it."""
        self._queue.extend([fault] * times)

    def clear(self) -> None:
        self._queue.clear()
        self._rules.clear()

    def choose(self, number: int, at_s: float, model: str | None, stream: bool) -> Fault:
        if self._queue:
            return self._queue.popleft()
        facing = Facing(self._profile, number, at_s, model, stream)
        for rule in self._rules:
            if not rule.is_timed_refusal and rule.fits(facing, self._draws):
                return rule.fault
        return NONE


def changed(settings: Settings, changes: dict[str, object]) -> Settings:
    """Raises TypeError for a name that is none, ValueError for a value that cannot be."""
    return dataclasses.replace(settings, **changes)  # type: ignore[arg-type]
