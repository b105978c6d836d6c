"""Filters, objectives and pickers, found by walking folders and built from what YAML says.

The file's name is the part's name: `filters/fits_context.py` holds the class `FitsContext`, a
dataclass whose fields are the parameters that YAML may give. A folder of the user's, laid out the
same way, adds to what the package has; `my_package.module:ClassName` names any other class.
"""

from __future__ import annotations

import importlib
import math
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import MISSING, dataclass, fields, is_dataclass
from pathlib import Path
from types import ModuleType
from typing import Any, get_origin, get_type_hints

KINDS = {"filters": "keep", "objectives": "cost", "pickers": "pick"}
"""Folder -> the one method that its parts have."""

UNITS = {"%": 0.01, "ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0}
"""What may follow a number in YAML; times become seconds."""

PARAMETER_TYPES = (float, int, str, bool, list, dict)
"""What a part's fields may be: what YAML can say. `float` reads units."""


class PolicyError(ValueError):
    """A policy that cannot be built. `path` names the key at fault, outermost first."""

    def __init__(self, message: str, *path: str | int) -> None:
        super().__init__(message)
        self.message = message
        self.path = path


@dataclass(frozen=True)
class Catalog:
    """Every part that a policy may name: kind -> name -> class."""

    parts: Mapping[str, Mapping[str, type[Any]]]

    @classmethod
    def load(cls, *folders: Path) -> Catalog:
        """Walk the package and then `folders`; a name that stands twice is refused."""
        parts: dict[str, dict[str, type[Any]]] = {kind: {} for kind in KINDS}
        for root in (Path(__file__).parent, *folders):
            for kind, method in KINDS.items():
                for file in sorted((root / kind).glob("[!_]*.py")):
                    if file.stem in parts[kind]:
                        raise PolicyError(f"{file}: {kind} already has {file.stem!r}")
                    parts[kind][file.stem] = _part(file, kind, method)
        return cls(parts)

    def build(self, kind: str, name: str, given: Mapping[str, Any]) -> Any:
        """An instance of the part, its parameters checked against the class's fields."""
        part = self._find(kind, name)
        hints = get_type_hints(part)
        known_fields = {f.name: f for f in fields(part)}
        for key in given:
            if key not in known_fields:
                takes = ", ".join(known_fields) or "no parameters"
                raise PolicyError(f"{name} has no {key!r}; it takes: {takes}", key)
        for key, field in known_fields.items():
            if key not in given and field.default is field.default_factory is MISSING:
                raise PolicyError(f"{name} needs {key!r}")
        checked = {key: _value(hints[key], value, key) for key, value in given.items()}
        with _theirs(name):
            try:
                return part(**checked)
            except ValueError as exc:  # what a part finds wrong itself, in its `__post_init__`
                raise PolicyError(str(exc)) from None

    def _find(self, kind: str, name: str) -> type[Any]:
        module_name, colon, class_name = name.partition(":")
        if colon:
            with _theirs(f"{module_name} cannot be imported"):
                module = importlib.import_module(module_name)
            return _checked(module, class_name, KINDS[kind], module_name)
        if name not in self.parts[kind]:
            known = ", ".join(sorted(self.parts[kind]))
            raise PolicyError(f"no {kind[:-1]} is called {name!r}; there are: {known}")
        return self.parts[kind][name]


def number(value: object) -> float:
    """A finite number, or one with a unit: `1%`, `60ms`, `3s`, `10m`, `1h`. Raises ValueError."""
    if isinstance(value, bool) or not isinstance(value, int | float | str):
        raise ValueError(f"{value!r} is not a number")
    digits, factor = value, 1.0
    if isinstance(value, str):
        unit = next((unit for unit in UNITS if value.endswith(unit)), "")
        digits, factor = value.removesuffix(unit), UNITS.get(unit, 1.0)
    try:
        parsed = float(digits) * factor
    except (ValueError, OverflowError):
        parsed = math.nan
    if not math.isfinite(parsed):
        raise ValueError(f"{value!r} is not a number, nor one followed by {', '.join(UNITS)}")
    return parsed


def _value(expected: type[Any], value: object, key: str) -> object:
    if expected is float:
        try:
            return number(value)
        except ValueError as exc:
            raise PolicyError(str(exc), key) from None
    kind = get_origin(expected) or expected
    if not isinstance(value, kind) or isinstance(value, bool) is not (kind is bool):
        raise PolicyError(f"{value!r} is not of type {kind.__name__}", key)
    return value


def _part(file: Path, kind: str, method: str) -> type[Any]:
    class_name = "".join(word.capitalize() for word in file.stem.split("_"))
    return _checked(_import(file, kind), class_name, method, str(file))


def _checked(module: ModuleType, class_name: str, method: str, where: str) -> type[Any]:
    """The module's class of that name, if YAML can build it."""
    part = getattr(module, class_name, None)
    if not is_dataclass(part) or not isinstance(part, type) or not hasattr(part, method):
        raise PolicyError(f"{where} must hold a dataclass {class_name} with a method {method!r}")
    with _theirs(f"{where} cannot be read"):
        hints = get_type_hints(part)
    for field in fields(part):
        if (get_origin(hints[field.name]) or hints[field.name]) not in PARAMETER_TYPES:
            can = ", ".join(t.__name__ for t in PARAMETER_TYPES)
            raise PolicyError(f"{where}: {field.name!r} has a type that YAML cannot say: use {can}")
    return part


def _import(file: Path, kind: str) -> ModuleType:
    if file.parent.parent == Path(__file__).parent:
        return importlib.import_module(f"routing_policies.{kind}.{file.stem}")
    module = ModuleType(f"user_policies.{kind}.{file.stem}")
    module.__file__ = str(file)
    sys.modules[module.__name__] = module  # dataclasses looks its annotations up there
    with _theirs(f"{file} cannot be imported"):
        # Not by the import system: its cache takes two edits within a second for the same.
        exec(compile(file.read_bytes(), file, "exec"), vars(module))
    return module


@contextmanager
def _theirs(what: str) -> Iterator[None]:
    """A rim: somebody else's code runs here and may raise anything, or leave by `sys.exit`."""
    try:
        yield
    except PolicyError:
        raise
    except (Exception, SystemExit) as exc:
        raise PolicyError(f"{what}: {type(exc).__name__}: {exc}") from exc
