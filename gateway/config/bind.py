"""YAML to frozen dataclasses, with the line and the key path of whatever is wrong.

A dataclass is a mapping, its fields are the keys, its annotations the types. A type with a
`from_yaml` reads its own notation. Strings may hold `${NAME}`, taken from the environment.
"""

from __future__ import annotations

import difflib
import math
import re
import types
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import MISSING, dataclass, field, fields, is_dataclass
from datetime import date
from pathlib import Path
from typing import Any, Self, TypeVar, Union, get_args, get_origin, get_type_hints

import yaml

from gateway.config.document import Document, KeyPath, plain, scalar

T = TypeVar("T")
Environ = Mapping[str, str]

VARIABLE = re.compile(r"\$\{([A-Za-z_][A-Za-z0-9_]*)\}")


class Seconds(float):
    """`10s`, `60ms`, `5m`, `1h`, `90d`, or a number of seconds."""

    UNITS: Mapping[str, float] = {"ms": 0.001, "s": 1, "m": 60, "h": 3600, "d": 86_400}

    @classmethod
    def from_yaml(cls, value: object) -> Self:
        seconds = _with_unit(value, cls.UNITS, "a time like 10s, 60ms or 5m")
        if seconds <= 0:
            raise ValueError("must be longer than nothing")
        return cls(seconds)


class Share(float):
    """`1%`, or a number from 0 to 1."""

    @classmethod
    def from_yaml(cls, value: object) -> Self:
        share = _with_unit(value, {"%": 0.01}, "a share like 1% or 0.01")
        if not 0 <= share <= 1:
            raise ValueError("must be from 0 to 100%")
        return cls(share)


class Date(date):
    """`2026-11-23`."""

    @classmethod
    def from_yaml(cls, value: object) -> Self:
        if type(value) is not date:
            raise ValueError("must be a date like 2026-11-23")
        return cls(value.year, value.month, value.day)


class Bytes(int):
    """`32MB`, `64KB`, or a number of bytes; 1 KB is 1,024 bytes."""

    UNITS: Mapping[str, float] = {"KB": 1024, "MB": 1024**2, "GB": 1024**3, "B": 1}

    @classmethod
    def from_yaml(cls, value: object) -> Self:
        size = _with_unit(value, cls.UNITS, "a size like 32MB or 64KB")
        if size < 1:
            raise ValueError("must be at least a byte")
        return cls(size)


def _with_unit(value: object, units: Mapping[str, float], wanted: str) -> float:
    number = math.nan
    if isinstance(value, str):
        if match := re.fullmatch(r"([0-9.]+)\s*([A-Za-z]+|%)", value):
            with suppress(ValueError):
                number = float(match[1]) * units.get(match[2], math.nan)
    elif isinstance(value, int | float) and not isinstance(value, bool):
        with suppress(OverflowError):
            number = float(value)
    if not math.isfinite(number):
        raise ValueError(f"must be {wanted}")
    return number


class WrongAt(ValueError):
    """What a dataclass finds wrong in one of its parts; `path` leads from its key to the part's."""

    def __init__(self, message: str, *path: str | int) -> None:
        super().__init__(message)
        self.path = path


@dataclass(frozen=True, slots=True)
class Secret:
    """A string that never prints. `missing` names the variable that was to hold it."""

    value: str = field(default="", repr=False)
    missing: str | None = None


def bind(document: Document, expected: type[T], environ: Environ) -> T:
    """The document as an instance of a dataclass. Raises ConfigError."""
    bound: T = _Binder(document, environ).value(document.root, expected, ())
    return bound


@dataclass(frozen=True, slots=True)
class _Binder:
    document: Document
    environ: Environ

    def value(self, node: yaml.Node, expected: Any, path: KeyPath) -> Any:
        origin, args = get_origin(expected), get_args(expected)
        if origin in (Union, types.UnionType):
            return self._union(node, args, path)
        if isinstance(expected, type) and is_dataclass(expected) and expected is not Secret:
            return self._dataclass(node, expected, path)
        if origin is dict:
            pairs = self._pairs(node, path)
            return {k: self.value(v, args[1], (*path, k)) for k, v in pairs.items()}
        if origin is tuple:
            if not isinstance(node, yaml.SequenceNode):
                raise self.document.error(path, "must be a list")
            items = enumerate(node.value)
            return tuple(self.value(item, args[0], (*path, i)) for i, item in items)
        return self._scalar(node, expected, path)

    def _union(self, node: yaml.Node, args: tuple[Any, ...], path: KeyPath) -> Any:
        """`None` or another type; a scalar, or a tuple where the YAML has a list."""
        if types.NoneType in args and plain(node) is None:
            return None
        is_list = isinstance(node, yaml.SequenceNode)
        inner = [arg for arg in args if arg is not types.NoneType]
        fitting = (arg for arg in inner if (get_origin(arg) is tuple) is is_list)
        return self.value(node, next(fitting, inner[0]), path)

    def _dataclass(self, node: yaml.Node, expected: type[Any], path: KeyPath) -> Any:
        pairs = self._pairs(node, path)
        known = {f.name: f for f in fields(expected)}
        hints = get_type_hints(expected)
        for key in pairs:
            if key not in known:
                raise self.document.error((*path, key), _unknown(key, known))
        for name, known_field in known.items():
            required = known_field.default is known_field.default_factory is MISSING
            if required and name not in pairs:
                raise self.document.error(path, f"needs {name!r}")
        given = {k: self.value(v, hints[k], (*path, k)) for k, v in pairs.items()}
        try:
            return expected(**given)
        except WrongAt as exc:
            raise self.document.error((*path, *exc.path), str(exc)) from None
        except ValueError as exc:
            raise self.document.error(path, str(exc)) from None

    def _pairs(self, node: yaml.Node, path: KeyPath) -> dict[str, yaml.Node]:
        if plain(node) is None:
            return {}
        if not isinstance(node, yaml.MappingNode):
            raise self.document.error(path, "must be a mapping of keys to values")
        pairs: dict[str, yaml.Node] = {}
        for key, value in node.value:
            pairs[key.value] = value  # the last counts: what a merge key brought comes first
        return pairs

    def _scalar(self, node: yaml.Node, expected: Any, path: KeyPath) -> Any:
        value = plain(node)
        if isinstance(value, str):
            value, missing = self._expanded(value, path)
            if expected is Secret:
                return Secret("" if missing else value, missing)
            if missing:
                raise self.document.error(path, f"the environment has no {missing}")
            if expected in (int, float, bool) and "${" in node.value:
                # a variable's text means what it would mean here
                value = self.document.value(scalar(value.strip()), path)
        if hasattr(expected, "from_yaml"):
            try:
                return expected.from_yaml(value)
            except ValueError as exc:
                raise self.document.error(path, str(exc)) from None
        if expected is Path and isinstance(value, str):
            # As in most tools' files: relative to the file that says it.
            return self.document.file.parent / Path(value).expanduser()
        if expected is float and type(value) in (int, float):
            return self._finite(value, path)
        if type(value) is not expected:
            wanted = "a string" if expected is Secret else _NAMES[expected]
            raise self.document.error(path, f"must be {wanted}, not {_shown(value)}")
        return value

    def _finite(self, value: float, path: KeyPath) -> float:
        with suppress(OverflowError):
            if math.isfinite(number := float(value)):
                return number
        raise self.document.error(path, "must be a number that is finite")

    def _expanded(self, text: str, path: KeyPath) -> tuple[str, str | None]:
        """The text with its variables' values, and the first that is not set, or is empty."""
        names = VARIABLE.findall(text)
        if len(names) < text.count("${"):
            raise self.document.error(path, "a variable is written ${NAME}")
        missing = next((name for name in names if not self.environ.get(name)), None)
        return VARIABLE.sub(lambda m: self.environ.get(m[1], ""), text), missing


_NAMES = {
    str: "a string",
    int: "an integer",
    float: "a number",
    bool: "true or false",
    Path: "a path",
    dict: "a mapping",
    list: "a list",
    types.NoneType: "nothing",
}


def _shown(value: object) -> str:
    # A value may be a secret in the wrong place, and its kind is enough to find it.
    kind = type(value)
    return _NAMES.get(kind, kind.__name__)


def _unknown(key: str, known: Mapping[str, object]) -> str:
    close = difflib.get_close_matches(key, known, n=1)
    hint = f"; did you mean {close[0]!r}?" if close else ""
    return f"there is no such key{hint}; known here: {', '.join(known)}"
