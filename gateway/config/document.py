"""A YAML file that still knows its lines, and errors that name them."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

KeyPath = tuple[str | int, ...]

QUOTED = re.compile(r"('[^']')|'[^']*'")  # one of YAML's signs, or a text

NO_VALUE = (ValueError, LookupError, ArithmeticError, AttributeError)
"""What PyYAML raises for a value that is not of its type: a thirteenth month, `!!bool maybe`."""


class ConfigError(Exception):
    """Names the file, the line, the key path, what is wrong and what would be right."""

    def __init__(self, file: Path | None, line: int | None, path: KeyPath, message: str) -> None:
        where = f"{file}:{line}" if line is not None else file and str(file)
        super().__init__(": ".join(part for part in (where, dotted(path), message) if part))


def dotted(path: KeyPath) -> str:
    """`endpoints.together.keys[0]`"""
    text = "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in path)
    return text.removeprefix(".")


@dataclass(frozen=True, slots=True)
class Document:
    file: Path
    root: yaml.Node

    @classmethod
    def read(cls, file: Path) -> Document:
        """Raises ConfigError for whatever is no YAML, keys that stand twice included."""
        try:
            text = file.read_text("utf-8")
        except OSError as exc:
            raise ConfigError(file, None, (), exc.strerror or "cannot be read") from None
        except UnicodeDecodeError:
            raise ConfigError(file, None, (), "is not UTF-8 text") from None
        return cls.parse(text, file)

    @classmethod
    def parse(cls, text: str, file: Path) -> Document:
        """As `read`, of a text; `file` is how errors call it."""
        try:
            root = yaml.compose(text, Loader=yaml.SafeLoader)
            document = cls(file, root or yaml.MappingNode("tag:yaml.org,2002:map", []))
            document._check(document.root, (), set())
            # Some mistakes show only now. It also puts what merge keys (`<<`) stand for into the
            # nodes, before the keys that are written out.
            document.plain()
        except yaml.MarkedYAMLError as exc:
            line = exc.problem_mark.line + 1 if exc.problem_mark else None
            # What it quotes may be a secret that begins with one of YAML's signs.
            problem = QUOTED.sub(lambda quoted: quoted[1] or "…", exc.problem or "")
            if _at_variable(exc.problem_mark):
                problem = 'within {} and [], a variable needs quotes: "${NAME}"'
            raise ConfigError(file, line, (), f"is not YAML: {problem}") from None
        except yaml.YAMLError as exc:
            raise ConfigError(file, None, (), f"is not YAML: {exc}") from None
        except NO_VALUE:
            raise ConfigError(file, None, (), "has a key that is not of its type") from None
        except RecursionError:
            raise ConfigError(file, None, (), "is nested too deeply") from None
        return document

    def error(self, path: KeyPath, message: str) -> ConfigError:
        return ConfigError(self.file, self.line(path), path, message)

    def line(self, path: KeyPath) -> int | None:
        """The line where `path` stands, or the innermost part of it that is there."""
        node, mark = self.root, self.root.start_mark
        for part in path:
            if isinstance(node, yaml.MappingNode):
                found = [(k, v) for k, v in node.value if k.value == part]
                if not found:
                    break
                mark, node = found[-1][0].start_mark, found[-1][1]
            elif isinstance(node, yaml.SequenceNode) and isinstance(part, int):
                node = node.value[part]
                mark = node.start_mark
        return mark.line + 1 if mark else None

    def plain(self) -> Any:
        """The whole as dicts and lists."""
        return plain(self.root)

    def value(self, node: yaml.ScalarNode, path: KeyPath) -> Any:
        """Its value. Raises ConfigError, without the text: it may be a secret."""
        try:
            return plain(node)
        except NO_VALUE:
            kind = node.tag.rpartition(":")[2]
            told = f"is no {kind} as YAML has them; text needs quotes"
            line = node.start_mark.line + 1 if node.start_mark else self.line(path)
            raise ConfigError(self.file, line, path, told) from None

    def _check(self, node: yaml.Node, path: KeyPath, visited: set[int]) -> None:
        """Refuse keys that stand twice, and scalars that are not what they look like."""
        if id(node) in visited:  # an alias
            return
        visited.add(id(node))
        if isinstance(node, yaml.ScalarNode):
            self.value(node, path)
        elif isinstance(node, yaml.SequenceNode):
            for index, item in enumerate(node.value):
                self._check(item, (*path, index), visited)
        elif isinstance(node, yaml.MappingNode):
            seen = set()
            for key, value in node.value:
                here = (*path, str(key.value))
                if here in seen:
                    raise ConfigError(self.file, key.start_mark.line + 1, here, "stands here twice")
                seen.add(here)
                self._check(value, here, visited)


def _at_variable(mark: yaml.Mark | None) -> bool:
    """Whether YAML stumbled over the brace of a `${NAME}`."""
    return bool(mark and mark.buffer and mark.buffer[: mark.pointer + 1].endswith("${"))


def plain(node: yaml.Node) -> Any:
    constructor = yaml.constructor.SafeConstructor()
    return constructor.construct_document(node)


def scalar(text: str) -> yaml.ScalarNode:
    """What a document would have where this text stands, without quotes."""
    kind = yaml.SafeLoader("").resolve(yaml.ScalarNode, text, (True, False))  # type: ignore[no-untyped-call]
    return yaml.ScalarNode(kind, text)
